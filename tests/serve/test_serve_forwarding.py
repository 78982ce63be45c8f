import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hedgerow.decide.notice import Notice
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity, verify
from hedgerow.io.links import LinkDown, MessageRefused
from hedgerow.serve.forwarding import Forwarder, ForwardRules
from hedgerow.wire.events import Events, Occurrence, Summary, open_events


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeviceStore]:
    made = DeviceStore(tmp_path / "device.db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def me() -> Identity:
    return Identity.create()


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Link:
    """A fleet's stream that can be away, or full, or refuse."""

    def __init__(self, me: Identity) -> None:
        self._me = me
        self.batches: list[Events] = []
        self.ids: list[str] = []
        self.fault: Exception | None = None

    async def send_events(self, data: bytes, message_id: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.batches.append(open_events(data, self._me.public, verify))
        self.ids.append(message_id)

    @property
    def told(self) -> list[Occurrence | Summary]:
        return [item.event for batch in self.batches for item in batch.items]


def notice(time: float, label: str = "normal", score: float = 0.5, stream: str = "mill") -> Notice:
    return Notice(
        stream=stream,
        time_seconds=time,
        label=label,
        confidence=0.8,
        reason="",
        changed=False,
        alert=label == "fault",
        score=score,
        model="vibration 1.0",
    )


@asynccontextmanager
async def running(forwarder: Forwarder) -> AsyncIterator[None]:
    task = asyncio.create_task(forwarder.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def made(store: DeviceStore, me: Identity, clock: Clock, **rules: object) -> Forwarder:
    async def soon(seconds: float) -> None:
        await asyncio.sleep(0.005)

    settings = ForwardRules(**rules)  # type: ignore[arg-type]
    return Forwarder(store, me, settings, now=clock, monotonic=clock, sleep=soon)


def test_an_alert_is_told_when_it_begins_and_when_it_ends(store: DeviceStore, me: Identity) -> None:
    forwarder = made(store, me, Clock())
    labels = ["normal", "fault", "fault", "fault", "normal", "fault"]
    forwarder.count([notice(n, label) for n, label in enumerate(labels)])
    forwarder.keep()
    assert [one.id for one in store.outbox()] == [f"exception/mill/{n}.000" for n in (1, 4, 5)]


def test_every_change_is_told_or_nothing_is(store: DeviceStore, me: Identity) -> None:
    changed = Notice(
        stream="watch", time_seconds=1.0, label="walking", confidence=1, reason="", changed=True
    )
    made(store, me, Clock(), exceptions="none").count([changed, notice(2, "fault")])
    chatty = made(store, me, Clock(), exceptions="changes")
    chatty.count([changed, notice(3, "normal"), notice(4, "fault")])
    chatty.keep()
    assert [one.id for one in store.outbox()] == ["exception/watch/1.000", "exception/mill/4.000"]


def test_a_stream_that_flaps_is_not_told_for_ever(store: DeviceStore, me: Identity) -> None:
    clock = Clock()
    forwarder = made(store, me, clock, exceptions_per_period=5, summary_seconds=60.0)
    for number in range(100):
        forwarder.count([notice(number, "fault" if number % 2 else "normal")])
    forwarder.count([notice(1, "fault", stream="fan")])
    forwarder.keep()
    assert store.outbox_count() == 6
    clock.seconds += 60.0
    forwarder.keep()
    told = {one.stream: one for one in store.outbox(kind="summary")}
    assert set(told) == {"mill", "fan"}
    link = Link(me)

    async def scene() -> None:
        forwarder.attach(link)
        forwarder.on_state(True)
        async with running(forwarder):
            await until(lambda: forwarder.sent == 8)

    asyncio.run(scene())
    summary = next(one for one in link.told if isinstance(one, Summary) and one.stream == "mill")
    assert (summary.windows, summary.alerts, summary.withheld) == (100, 50, 94)
    assert summary.labels == {"normal": 50, "fault": 50}
    assert (summary.since_seconds, summary.until_seconds) == (0.0, 1060.0)


def test_a_summary_has_the_quantiles_of_the_scores(store: DeviceStore, me: Identity) -> None:
    clock = Clock()
    forwarder = made(store, me, clock)
    forwarder.count([notice(n, score=n / 1_000) for n in range(1, 1_001)])
    forwarder.count([notice(0, score=float("nan"))])
    clock.seconds += 3_600.0
    forwarder.keep()
    (item,) = store.outbox()
    assert len(item.body) < 250
    link = Link(me)

    async def scene() -> None:
        forwarder.attach(link)
        forwarder.on_state(True)
        async with running(forwarder):
            await until(lambda: link.told)

    asyncio.run(scene())
    (summary,) = link.told
    assert isinstance(summary, Summary)
    assert summary.scores is not None and summary.confidence == pytest.approx(0.8)
    assert summary.scores.half == pytest.approx(0.5, rel=0.05)
    assert summary.scores.most == pytest.approx(0.9, rel=0.05)
    assert summary.scores.nearly_all == pytest.approx(0.99, rel=0.05)
    assert summary.scores.highest == 1.0


def test_nothing_goes_while_the_link_is_down_or_sharing_is_paused(
    store: DeviceStore, me: Identity
) -> None:
    link, forwarder = Link(me), made(store, me, Clock())

    async def scene() -> None:
        forwarder.attach(link)
        forwarder.paused = True
        async with running(forwarder):
            forwarder.count([notice(1, "fault")])
            forwarder.on_state(True)
            await asyncio.sleep(0.05)
            assert (link.batches, store.outbox_count()) == ([], 1)
            forwarder.on_state(False)
            forwarder.paused = False
            await asyncio.sleep(0.05)
            assert link.batches == []
            forwarder.on_state(True)
            await until(lambda: store.outbox_count() == 0)
        assert len(link.told) == 1

    asyncio.run(scene())


def test_what_is_not_acknowledged_is_sent_again_the_same(store: DeviceStore, me: Identity) -> None:
    link, forwarder = Link(me), made(store, me, Clock())
    link.fault = LinkDown("away")

    async def scene() -> None:
        forwarder.attach(link)
        forwarder.on_state(True)
        async with running(forwarder):
            forwarder.count([notice(1, "fault")])
            await until(store.outbox_count)
            await asyncio.sleep(0.05)
            assert store.outbox_count() == 1
            link.fault = None
            await until(lambda: forwarder.sent == 1)

    asyncio.run(scene())
    assert store.drops() == {}


def test_what_the_server_will_never_take_is_dropped_and_counted(
    store: DeviceStore, me: Identity
) -> None:
    link, forwarder = Link(me), made(store, me, Clock())
    link.fault = MessageRefused("too_large", "8 bytes")

    async def scene() -> None:
        forwarder.attach(link)
        forwarder.on_state(True)
        async with running(forwarder):
            forwarder.count([notice(1, "fault")])
            await until(lambda: store.drops() == {"refused_by_server": 1})
            link.fault = None
            forwarder.count([notice(2, "normal")])
            await until(lambda: forwarder.sent == 1)

    asyncio.run(scene())


def test_a_restart_goes_on_with_half_made_summaries(store: DeviceStore, me: Identity) -> None:
    clock = Clock()
    first = made(store, me, clock)
    first.count([notice(n) for n in range(10)])
    asyncio.run(first.close())
    second = made(store, me, clock)
    second.count([notice(n) for n in range(10, 15)])
    clock.seconds += 3_600.0
    second.keep()
    assert store.outbox_count() == 1
    third = made(store, me, clock)  # killed after the summary was kept: it is not made once more
    clock.seconds += 3_600.0
    third.keep()
    assert store.outbox_count() == 1


def test_what_is_being_made_of_a_period_is_forgotten_with_it(
    store: DeviceStore, me: Identity
) -> None:
    clock = Clock()
    forwarder = made(store, me, clock)
    forwarder.count([notice(500.0, "fault"), notice(500.0, stream="fan")])
    forwarder.forget(400.0, 600.0, "mill")
    clock.seconds += 3_600.0
    forwarder.keep()
    assert [one.id for one in store.outbox()] == ["summary/fan/500.000"]
