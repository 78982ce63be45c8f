"""Run by the tests of a full disk, with a small disk of its own: what a device goes through."""

import sys
from pathlib import Path

import numpy as np

from hedgerow.decide.notice import Notice
from hedgerow.io.device_store import DeviceStore, OutboxItem, StoredWindow, StoreFull
from hedgerow.io.egress import EgressRecord
from hedgerow.io.keys import Identity
from hedgerow.serve.forwarding import Forwarder

DISK = Path(sys.argv[1])
BALLAST = DISK / "somebody elses file"


def fill() -> None:
    """Somebody else takes all the room there is."""
    with BALLAST.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            say(f"disk: {error.strerror}")


def window(number: int) -> StoredWindow:
    return StoredWindow(np.full((2, 128), number, np.float32), 1, float(number))


def notice(number: int, alert: bool) -> Notice:
    return Notice(
        stream="mill",
        time_seconds=float(number),
        label="fault" if alert else "normal",
        confidence=0.9,
        reason="",
        changed=True,
        alert=alert,
    )


def item(number: int) -> OutboxItem:
    return OutboxItem(f"m{number}", "exception", 8, 0.0, bytes(500))


def write_until_lost(store: DeviceStore) -> int:
    """Add windows until one is lost; how many were kept. The journal may have some room left."""
    kept = 0
    while store.add_windows([window(kept)]):
        kept += 1
        assert kept < 10_000
    return kept


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")


def when_full(store: DeviceStore, forwarder: Forwarder) -> int:
    """Everything that a store is asked for goes on; how many windows it has."""
    kept = 1 + write_until_lost(store)
    assert store.full
    assert store.drops()["disk_full"] == 1
    while store.put_outbox(item(-1)):
        assert store.acknowledge("m-1")
    lost = store.drops()["disk_full"]
    assert store.put_outbox_batch([item(n) for n in range(3)]) == 0
    assert store.add_notices([notice(1, True)]) == 0
    for number in range(10):  # decisions go on, and what they would have told is lost
        forwarder.count([notice(number, number % 2 == 0)])
    forwarder.keep()
    assert store.drops()["disk_full"] == lost + 3 + 1 + 10
    try:
        with store.transaction():
            store.set_fact("after", bytes(20_000))
        raise AssertionError("written on a full disk")
    except StoreFull as error:
        say(f"store: {error}")
    assert (store.fact("after"), store.fact("before")) == (None, b"1")
    assert store.window_count() == kept == store.load_windows()[0].shape[0]
    return kept


def main() -> None:
    """A disk fills up and is freed again."""
    identity = Identity.create()
    store = DeviceStore(DISK / "device.db")
    record = EgressRecord(DISK / "egress", identity)
    store.set_fact("before", b"1")
    store.add_windows([window(0)])
    record.left(to="hub", kind="update", purpose="learned", size=1)
    record.sign()

    fill()
    kept = when_full(store, Forwarder(store, identity))
    for number in range(1500):
        record.left(to="hub", kind="report", purpose="decided", size=number)
    assert record.unwritten > 0
    record.sign()
    lost = store.drops()["disk_full"]

    BALLAST.unlink()
    assert store.add_windows([window(1)]) == 1
    assert not store.full
    assert store.put_outbox(item(7))
    store.set_fact("after", b"2")
    record.sign()
    assert (record.unwritten, record.totals().messages) == (0, 1501)
    assert record.verify().good
    store.close()
    record.close()

    again = DeviceStore(DISK / "device.db")
    assert again.set_aside is None
    assert (again.fact("after"), again.window_count()) == (b"2", kept + 1)
    assert again.drops()["disk_full"] == lost
    again.close()
    assert EgressRecord.reading(DISK / "egress").verify().good
    say("recovered")


main()
