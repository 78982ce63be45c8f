"""Events from a device to its coordinator over a real server: each counts once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hedgerow.io import clock
from hedgerow.io.authority import Authority
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.device_store import DeviceStore, OutboxItem
from hedgerow.io.egress import EgressRecord
from hedgerow.io.keys import Identity
from hedgerow.io.links import LinkDown, Update
from hedgerow.io.nats_link import NatsDeviceLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.serve.events import EventCounter
from hedgerow.serve.forwarding import Forwarder
from hedgerow.wire.events import Event, Occurrence, encode_event, seal_events
from tests.io.fleet import FLEET, Coordinator, Device, coordinator, device, until

EPOCH = b"12345678"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.load_or_create(tmp_path / "authority", FLEET, clock.now())


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server", authority) as running:
        yield running


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[CoordinatorStore]:
    made = CoordinatorStore(f"sqlite:///{tmp_path / 'coordinator.db'}")
    yield made
    made.close()


class NoLink:
    """For counters that are handed their messages."""

    def events(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        raise AssertionError

    async def purge_events(self, before_sequence: int) -> None:
        raise AssertionError


class Heard:
    def __init__(self) -> None:
        self.numbers: Counter[int] = Counter()

    def __call__(self, device: str, events: object) -> None:
        assert isinstance(events, list)
        self.numbers.update(int(event.time_seconds) for event in events)


@asynccontextmanager
async def counting(
    server: EmbeddedServer, authority: Authority, kept: CoordinatorStore, heard: Heard
) -> AsyncIterator[EventCounter]:
    hub = Coordinator(server, authority)
    await hub.link.connect()
    counter = EventCounter(kept, hub.link, heard)
    task = asyncio.create_task(counter.run())
    try:
        yield counter
    finally:
        task.cancel()
        await asyncio.wait([task])
        await hub.link.close()


def occurrence(number: int) -> Occurrence:
    return Occurrence(stream="mill", time_seconds=float(number), label="fault")


def item(number: int, priority: int = 8) -> OutboxItem:
    return OutboxItem(f"m{number}", "exception", priority, 0.0, encode_event(occurrence(number)))


def batch(me: Identity, *numbers: int, lane: int = 8, sequence: int = 1) -> Update:
    items = [(number, encode_event(occurrence(number))) for number in numbers]
    return Update(sequence, me.public, seal_events(EPOCH, lane, items, me.public, me.sign))


def test_what_a_device_forwards_is_counted_and_cleared(
    server: EmbeddedServer, authority: Authority, kept: CoordinatorStore, tmp_path: Path
) -> None:
    heard = Heard()
    store = DeviceStore(tmp_path / "device.db")

    async def scene() -> None:
        mill = Device(server, authority)
        record = EgressRecord(tmp_path / "egress", mill.identity)
        forwarder = Forwarder(store, mill.identity)
        link = NatsDeviceLink(
            server.url,
            FLEET,
            mill.credentials,
            mill.received.append,
            forwarder.on_state,
            mill.meter,
            record,
        )
        forwarder.attach(link)
        store.put_outbox_batch([item(number, 4 + 4 * (number % 2)) for number in range(3_000)])
        async with counting(server, authority, kept, heard) as counter:
            task = asyncio.create_task(forwarder.run())
            await link.connect()
            await until(lambda: len(heard.numbers) == 3_000)
            assert sum(counter.store.sums().values()) == 3_000
            await until(lambda: store.outbox_count() == 0)
            task.cancel()
            await asyncio.wait([task])
        await link.close()
        kinds = record.totals().kinds
        assert set(kinds) == {"login", "events"}
        assert kinds["events"].bytes == mill.meter.bytes_up["events"]
        assert record.verify().good
        record.close()

    asyncio.run(scene())
    assert set(heard.numbers.values()) == {1}
    store.close()


def test_a_coordinator_that_was_away_counts_what_came_meanwhile_once(
    server: EmbeddedServer, authority: Authority, kept: CoordinatorStore
) -> None:
    heard = Heard()

    async def scene() -> None:
        async with coordinator(server, authority), device(server, authority) as mill:
            await until(lambda: mill.up)
            async with counting(server, authority, kept, heard):
                await mill.link.send_events(batch(mill.identity, 1, 2).data, "1-2")
                await until(lambda: len(heard.numbers) == 2)
            await mill.link.send_events(batch(mill.identity, 2, 3).data, "2-3")
            await mill.link.send_events(batch(mill.identity, 4).data, "4-4")
            async with counting(server, authority, kept, heard) as counter:
                await until(lambda: len(heard.numbers) == 4)
                assert counter.again == 1

    asyncio.run(scene())
    assert set(heard.numbers.values()) == {1}


def test_each_lane_has_its_own_numbers(kept: CoordinatorStore) -> None:
    me, counter = Identity.create(), EventCounter(kept, NoLink())

    def fresh(*messages: Update) -> list[float]:
        found: list[Event] = [one for _, events in counter.count(messages) for one in events]
        return [one.time_seconds for one in found if isinstance(one, Occurrence)]

    assert fresh(batch(me, 3, 5, sequence=1), batch(me, 1, 2, lane=4, sequence=2)) == [3, 5, 1, 2]
    assert fresh(batch(me, 3, 5, sequence=3), batch(me, 5, 6, sequence=4)) == [6]
    assert fresh(batch(Identity.create(), 1, sequence=5)) == [1]
    assert counter.again == 3
    assert counter.store.next_sequence() == 6
    assert [device for device, _ in counter.store.recent(1)] != [me.public]


@pytest.mark.parametrize(
    ("numbers", "reason"), [((2, 1), "disordered"), ((1, 1), "disordered"), ((), "malformed")]
)
def test_a_batch_out_of_order_counts_nothing(
    kept: CoordinatorStore, numbers: tuple[int, ...], reason: str
) -> None:
    me, counter = Identity.create(), EventCounter(kept, NoLink())
    assert counter.count([batch(me, *numbers, sequence=9)]) == []
    assert counter.refused == {reason: 1}
    assert counter.store.next_sequence() == 10  # it is not read for ever


def test_somebody_elses_batch_is_refused(kept: CoordinatorStore) -> None:
    counter = EventCounter(kept, NoLink())
    forged = batch(Identity.create(), 1)._replace(device=Identity.create().public)
    assert counter.count([forged]) == []
    assert counter.refused == {"forged": 1}


def test_a_stream_that_is_full_makes_a_device_wait_and_nobody_loses(
    server: EmbeddedServer, authority: Authority, kept: CoordinatorStore
) -> None:
    """More batches than one device may have unread, then a coordinator that begins to read."""
    heard = Heard()

    async def send(device: Device, number: int) -> str:
        """What the server says against it."""
        try:
            await device.link.send_events(batch(device.identity, number).data, f"{number}")
        except LinkDown as error:
            return str(error)
        return ""

    async def scene() -> None:
        async with coordinator(server, authority), device(server, authority) as mill:
            await until(lambda: mill.up)
            sent = 0
            while not (refused := await send(mill, sent + 1)):
                sent += 1
            assert sent == 256
            assert "maximum messages per subject" in refused
            async with counting(server, authority, kept, heard):
                for number in range(sent + 1, sent + 200):
                    async with asyncio.timeout(20):
                        while await send(mill, number):
                            await asyncio.sleep(0.01)
                await until(lambda: len(heard.numbers) == sent + 199)

    asyncio.run(scene())
    assert set(heard.numbers.values()) == {1}
