import msgspec
import pytest

from hedgerow.core.errors import PeerError
from hedgerow.io.keys import Identity, verify
from hedgerow.wire import codec
from hedgerow.wire.events import (
    ITEMS_MAX,
    Events,
    Item,
    Occurrence,
    Quantiles,
    Summary,
    encode_event,
    kind_in,
    open_events,
    seal_events,
)
from hedgerow.wire.messages import Accept

EPOCH = b"12345678"
FAULT = Occurrence(stream="mill", time_seconds=1.0, label="outer race", alert=True, score=1.8)
HOUR = Summary(
    stream="mill",
    since_seconds=0.0,
    until_seconds=3600.0,
    windows=7200,
    labels={"normal": 7199, "outer race": 1},
    scores=Quantiles(0.3, 0.5, 0.8, 1.8),
)


@pytest.fixture(scope="module")
def me() -> Identity:
    return Identity.create()


def sealed(me: Identity, *events: Occurrence | Summary, lane: int = 8) -> bytes:
    items = [(number, encode_event(event)) for number, event in enumerate(events, 1)]
    return seal_events(EPOCH, lane, items, me.public, me.sign)


def test_events_come_out_as_they_went_in(me: Identity) -> None:
    batch = open_events(sealed(me, FAULT, HOUR), me.public, verify)
    assert batch == Events(epoch=EPOCH, lane=8, items=(Item(1, FAULT), Item(2, HOUR)))
    assert kind_in(sealed(me, FAULT)) == "events"


def test_a_batch_by_somebody_else_is_refused(me: Identity) -> None:
    with pytest.raises(PeerError, match="forged"):
        open_events(sealed(me, FAULT), Identity.create().public, verify)


def test_another_message_is_no_batch(me: Identity) -> None:
    with pytest.raises(PeerError, match="malformed"):
        open_events(codec.seal(Accept(round=1), me.public, me.sign), me.public, verify)


@pytest.mark.parametrize(
    "event",
    [
        b"\xc1",
        msgspec.msgpack.encode({"kind": "sample", "x": [1.0]}),
        msgspec.msgpack.encode({"kind": "exception", "stream": "a" * 201, "time_seconds": 0.0}),
        msgspec.msgpack.encode({"kind": "summary", "stream": "a", "windows": -1}),
        encode_event(msgspec.structs.replace(HOUR, labels={str(n): 1 for n in range(34)})),
    ],
)
def test_what_is_no_event_spoils_its_batch(me: Identity, event: bytes) -> None:
    data = seal_events(EPOCH, 8, [(1, event)], me.public, me.sign)
    with pytest.raises(PeerError, match="malformed"):
        open_events(data, me.public, verify)


def test_a_batch_is_bounded(me: Identity) -> None:
    with pytest.raises(PeerError, match="malformed"):
        open_events(sealed(me), me.public, verify)
    with pytest.raises(PeerError, match="malformed"):
        open_events(sealed(me, *[FAULT] * (ITEMS_MAX + 1)), me.public, verify)
    with pytest.raises(PeerError, match="malformed"):
        open_events(sealed(me, FAULT, lane=256), me.public, verify)


def test_what_holds_no_message_has_no_kind() -> None:
    assert kind_in(b"ready") == ""
    assert kind_in(b"") == ""
