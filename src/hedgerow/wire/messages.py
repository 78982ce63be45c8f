"""The messages of the star: what a device and its coordinator say to each other.

Each struct is one message; its tag is the message's kind on the wire and the name of its page in
`docs/messages/`. Every field is bounded by its type, so that a decoded message is a checked one.
"""

from typing import Annotated, TypeAlias

import msgspec

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.schema import LocalPlan
from hedgerow.seal.codec import Codec

VERSION = 1
"""Version of the protocol. A receiver refuses any other (`unknown_version`)."""

Text = Annotated[str, msgspec.Meta(max_length=200)]
DeviceId = Annotated[str, msgspec.Meta(pattern=r"^U[A-Z2-7]{55}$")]
"""A device's public NATS user key (Ed25519, base32): the name is the key."""
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""
BASE_BYTES = 8
Base = Annotated[bytes, msgspec.Meta(min_length=BASE_BYTES, max_length=BASE_BYTES)]
"""The first bytes of a model's SHA-256. Whoever could lie with them could lie without: they only
keep an honest device's update from counting for another model, and for that they are long enough.
"""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Label = Annotated[str, msgspec.Meta(max_length=64)]
Metrics = Annotated[dict[Label, float], msgspec.Meta(max_length=64)]
"""Plain numbers by name. Never samples: at most 64 of them."""
PAYLOADS_MAX = 8
FIGURES_MAX = 16
CODECS_MAX = 8
PATCHES_MAX = 64
LABELS_MAX = 256
STATEMENT_BYTES_MAX = 4096
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e10)]


class Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all messages. A field that has its default may be left out, and usually is."""


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of the model: a blob of `bytes` bytes, little-endian float32.

    It holds the shared weights, and behind them whatever else the algorithm brings.
    """

    version: Count
    hash: Hash
    bytes: Count


class BlobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some bytes in the model store, by their SHA-256 (its 32 bytes)."""

    sha256: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    bytes: Count

    @property
    def hash(self) -> str:
        """In hexadecimal: the name of the blob in the store."""
        return self.sha256.hex()


class Patches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model of version `since` becomes the one beside this: one patch a version, in order.

    A patch is a blob; `codec` and `seed` are what it was encoded with.
    """

    since: Count
    codec: Codec
    seed: Count
    blobs: Annotated[tuple[BlobRef, ...], msgspec.Meta(min_length=1, max_length=PATCHES_MAX)]


# From a device -----------------------------------------------------------------------------------


class Enrol(Message, frozen=True, kw_only=True, tag="enrol"):
    """A new device asks to join; sent with the fleet's join credential, signed with its own key."""

    device: DeviceId
    name: Text


class CheckIn(Message, frozen=True, kw_only=True, tag="check_in"):
    """A device is there, and says what it has. Repeated at an interval; a replay changes nothing.

    `pending` are the rounds whose update it sent without having got a receipt, `training` the
    round it is at work for (0: none). The rest are facts for choosing who takes part, each of
    which may be left out: `battery` is the charge from 0 to 1, and `labels` counts its training
    windows by class, which nothing sends unless its owner allows it.
    """

    model_version: Count
    samples: Count
    name: Text = ""
    pending: Annotated[list[Count], msgspec.Meta(max_length=64)] = []
    training: Count = 0
    battery: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    on_power: bool | None = None
    metered: bool | None = None
    data_age_seconds: Seconds | None = None
    link_bytes_per_second: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    labels: Annotated[tuple[Count, ...], msgspec.Meta(max_length=LABELS_MAX)] | None = None


class Accept(Message, frozen=True, kw_only=True, tag="accept"):
    """The device takes the offer of this round and starts training."""

    round: Count


class Decline(Message, frozen=True, kw_only=True, tag="decline"):
    """The device does not take part in this round; its owner needs to give no reason but a word."""

    round: Count
    reason: Text


class Update(Message, frozen=True, kw_only=True, tag="update"):
    """What one device learned in one round, as the algorithm of the offer wants it.

    `payloads` are its vectors, the delta of the shared weights first, each encoded with number
    `codec` of those that were offered; `figures` are its numbers; `group` is the group it counts
    in. `base` is `base_of` the model it started from. The id is `update_id(device, round)`.
    """

    round: Count
    base: Base
    samples: Count
    codec: Annotated[int, msgspec.Meta(ge=0, lt=CODECS_MAX)] = 0
    payloads: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=PAYLOADS_MAX)]
    figures: Annotated[tuple[float, ...], msgspec.Meta(max_length=FIGURES_MAX)] = ()
    group: Annotated[int, msgspec.Meta(ge=0, lt=4096)] = 0
    metrics: Metrics = {}


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """What the device decides right now, and figures about itself. No samples."""

    model_version: Count
    label: Label = ""
    confidence: float = 0.0
    reason: Text = ""
    metrics: Metrics = {}


class Trial(Message, frozen=True, kw_only=True, tag="trial"):
    """How far the trial of a release is on this device; said at each step, and when asked again.

    `phase` is `checking`, `shadow`, `watched` (in use), `kept`, `refused`, `rolled_back` or
    `replaced`; `reason` is a stable word where it went badly, `why` a sentence. `windows` were
    compared, `labelled` of them had a label. `worse` is how much larger the mean loss was than that
    of the model before (negative: smaller), `changed` the share of answers that differed.
    """

    release: Count
    phase: Label
    reason: Label = ""
    why: Text = ""
    windows: Count = 0
    labelled: Count = 0
    worse: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.0
    changed: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


# From the coordinator ----------------------------------------------------------------------------


class Enrolled(Message, frozen=True, kw_only=True, tag="enrolled"):
    """The device is in: its credential, and the bundle the fleet runs."""

    device: DeviceId
    fleet: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}$")]
    credential: Annotated[str, msgspec.Meta(max_length=4096)]
    bundle: Hash
    bundle_bytes: Count


class NotEnrolled(Message, frozen=True, kw_only=True, tag="not_enrolled"):
    """The device may not join, and why."""

    device: DeviceId
    reason: Text


class Offer(Message, frozen=True, kw_only=True, tag="offer"):
    """A task: train this model by this plan and send the update within `deadline_seconds`.

    `codecs` are those an update may be encoded with, the most faithful first, and `seed` what
    they draw from. `patches`: a shorter way to the model for a device that holds an older one.
    """

    round: Count
    model: ModelRef
    plan: LocalPlan
    algorithm: AnyAlgorithm = FedAvg()
    codecs: Annotated[tuple[Codec, ...], msgspec.Meta(min_length=1, max_length=CODECS_MAX)] = (
        Codec(),
    )
    seed: Count = 0
    patches: Patches | None = None
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)]


class Receipt(Message, frozen=True, kw_only=True, tag="receipt"):
    """What became of an update. Whatever the outcome, the device need not send it again."""

    id: Text
    outcome: Label


class RollCall(Message, frozen=True, kw_only=True, tag="roll_call"):
    """Whoever hears this checks in, each at its own moment within `spread_seconds`."""

    spread_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Published(Message, frozen=True, kw_only=True, tag="published"):
    """A new model version is out. Whoever still trains for `round` or an earlier one may stop.

    `patches` as in an offer.
    """

    round: Count
    model: ModelRef
    patches: Patches | None = None


class Pace(Message, frozen=True, kw_only=True, tag="pace"):
    """An answer to a check-in: come again in so many seconds, for the fleet is large."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)]


class Release(Message, frozen=True, kw_only=True, tag="release"):
    """A new version of the bundle: try it, beside the one in use, and say how it goes.

    `statement` is what was signed with the release key (`hedgerow.wire.releases`).
    """

    statement: Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Recall(Message, frozen=True, kw_only=True, tag="recall"):
    """Do not use this release any more: whoever has it goes back to the model before."""

    release: Count
    why: Text = ""


FromDevice = Enrol | CheckIn | Accept | Decline | Update | Report | Trial
FromCoordinator = (
    Enrolled | NotEnrolled | Offer | Receipt | Published | RollCall | Pace | Release | Recall
)

MESSAGES: tuple[type[Message], ...] = (
    *(Enrol, CheckIn, Accept, Decline, Update, Report, Trial),
    *(Enrolled, NotEnrolled, Offer, Receipt, Published, RollCall, Pace, Release, Recall),
)


def kind_of(message: Message | type[Message]) -> str:
    """The kind of a message as it stands on the wire: `update`, `offer`, …"""
    return str(message.__struct_config__.tag)


def base_of(model: ModelRef) -> bytes:
    """How an update names the model that it started from."""
    return bytes.fromhex(model.hash)[:BASE_BYTES]


def round_of(update: str) -> int:
    """The round in an id that `update_id` made."""
    return int(update.split("/")[1])


def update_id(device: str, round_number: int) -> str:
    """The id of a device's update in a round: the same update always has the same id."""
    return f"{device}/{round_number}/update"
