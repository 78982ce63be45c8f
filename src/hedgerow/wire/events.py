"""What a device tells its fleet about its own work: exceptions and summaries, in batches.

Events are numbered by the device's outbox. A batch holds events of one lane in the order of their
numbers, and the batches of a lane come in that order too, whatever is sent again: so a receiver
that keeps the last number of each lane counts every event once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from hedgerow.wire.codec import Envelope, Sign, Verify, seal, unseal
from hedgerow.wire.messages import Count, Label, Message, Text

EPOCH_BYTES: Final = 8
LANES_MAX: Final = 256
ITEMS_MAX: Final = 4096
LABELS_MAX: Final = 33
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]


class EventBase(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all events."""


class Occurrence(EventBase, frozen=True, kw_only=True, tag="exception"):
    """One decision that somebody should know of. `score` and `drift`: 1 is the threshold."""

    stream: Text
    time_seconds: float
    label: Label
    confidence: float = 0.0
    reason: Text = ""
    alert: bool = False
    score: float | None = None
    drift: float | None = None
    model: Text = ""


class Quantiles(msgspec.Struct, frozen=True, array_like=True):
    """Half, nine tenths and 99 hundredths lie at or below these, within 5%; and the highest."""

    half: float
    most: float
    nearly_all: float
    highest: float


class Summary(EventBase, frozen=True, kw_only=True, tag="summary"):
    """One stream from `since_seconds` to `until_seconds`: windows, by what was decided on them.

    `withheld` exceptions were not sent one by one, as there were too many.
    """

    stream: Text
    since_seconds: float
    until_seconds: float
    windows: Count
    labels: Annotated[dict[Label, Count], msgspec.Meta(max_length=LABELS_MAX)] = {}
    alerts: Count = 0
    changes: Count = 0
    withheld: Count = 0
    confidence: float | None = None
    scores: Quantiles | None = None
    model: Text = ""


Event: TypeAlias = Occurrence | Summary


class Item(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One event and its number."""

    number: Count
    event: Event


class Events(Message, frozen=True, kw_only=True, tag="events"):
    """Events of one lane, numbers going up. `epoch` names the sequence that the numbers are of."""

    epoch: Annotated[bytes, msgspec.Meta(min_length=EPOCH_BYTES, max_length=EPOCH_BYTES)]
    lane: Annotated[int, msgspec.Meta(ge=0, lt=LANES_MAX)]
    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


EVENT_MESSAGES: tuple[type[Message], ...] = (Events,)


class _Kind(msgspec.Struct, frozen=True):
    kind: str = ""


_decoder = msgspec.msgpack.Decoder(Events)
_open = msgspec.msgpack.Decoder(Envelope).decode
_kind = msgspec.msgpack.Decoder(_Kind).decode
encode_event = msgspec.msgpack.Encoder().encode
"""An event as the outbox keeps it and a batch carries it."""


def seal_events(
    epoch: bytes, lane: int, items: Sequence[tuple[int, bytes]], sender: str, sign: Sign
) -> bytes:
    """A batch of encoded events as the bytes that go out."""
    raw: Any = tuple((number, msgspec.Raw(event)) for number, event in items)
    return seal(Events(epoch=epoch, lane=lane, items=raw), sender, sign)


def open_events(data: bytes, device: str, verify: Verify) -> Events:
    """The batch in `data`, which must be signed by `device`.

    Raises:
        PeerError: as `codec.open_from_device`.
    """
    message: Events = unseal(data, device, verify, _decoder)
    return message


def kind_in(data: bytes) -> str:
    """The kind of the message in an envelope that this side made; "" when it holds none."""
    try:
        return _kind(_open(data).body).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
