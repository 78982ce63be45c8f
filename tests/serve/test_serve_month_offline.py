"""A month without a network, in virtual time: caps hold, then what matters most goes first."""

import asyncio
import resource
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

from hedgerow.decide.notice import Notice
from hedgerow.io.device_store import DeviceStore, StoredWindow, StoreLimits
from hedgerow.io.keys import Identity
from hedgerow.serve.forwarding import (
    EXCEPTION_PRIORITY,
    SUMMARY_PRIORITY,
    Forwarder,
    ForwardRules,
)
from hedgerow.wire.events import Item, Occurrence, Summary
from tests.io.keeping import Hands, window
from tests.serve.test_serve_forwarding import Link, until

DAY = 86_400.0
STEP = 3_600.0
A_DAY = 24
"""Steps a day."""
STREAMS = 72
LIMITS = StoreLimits(
    windows_bytes_max=200_000,
    notices_bytes_max=200_000,
    outbox_bytes_max=3_000_000,
    outbox_age_seconds_max=14 * DAY,
)


class Month:
    """A device with 72 machines, each of which is bad for a moment twice a day."""

    def __init__(self, home: Path) -> None:
        self.hands = Hands()
        self.home = home
        self.me = Identity.create()
        self.told = 0
        self.open()

    def open(self) -> None:
        """Power came: after a restart, with the clocks of another boot."""
        boot = self.hands.clocks(f"boot at {self.hands.boot}")
        self.store = DeviceStore(self.home / "device.db", LIMITS, boot)
        self.forwarder = Forwarder(
            *(self.store, self.me, ForwardRules(batch_events=500)),
            now=lambda: self.hands.wall,
            monotonic=lambda: self.hands.boot,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(0.002)

    def step(self, number: int) -> None:
        """An hour: one decision a machine, with what the store keeps of it."""
        self.hands.wait(STEP)
        time = self.hands.wall
        notices = [
            Notice(
                stream=f"machine {machine}",
                time_seconds=time,
                label="fault" if (bad := self._bad(number, machine)) else "normal",
                confidence=0.9,
                reason="1.4 times the threshold" if bad else "as ever",
                changed=bad,
                alert=bad,
                score=1.4 if bad else 0.4,
            )
            for machine in range(STREAMS)
        ]
        self.forwarder.count(notices)
        with self.store.transaction():
            self.forwarder.keep()
            self.store.add_notices(notices)
            self.store.add_windows([StoredWindow(window(1).x, 0, time, "train", "machine 1")])

    def _bad(self, number: int, machine: int) -> bool:
        return number % (A_DAY // 2) == machine % (A_DAY // 2)

    def disk(self) -> int:
        """Bytes of the database and its journal."""
        return sum(path.stat().st_size for path in self.home.glob("device.db*"))


def test_a_month_offline(tmp_path: Path) -> None:
    month = Month(tmp_path)
    steps = int(30 * DAY / STEP)
    memory: list[int] = []
    for number in range(steps):
        month.step(number)
        if number % 150 == 149:  # power fails now and then, and the clock is wrong at times
            asyncio.run(month.forwarder.close())
            month.store.close()
            if number == 299:
                month.hands.wall -= 20 * 365 * DAY
            if number == 449:
                month.hands.wall += 20 * 365 * DAY
            month.open()
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            assert month.store.outbox_bytes() <= LIMITS.outbox_bytes_max
            assert month.store.notices_bytes() <= LIMITS.notices_bytes_max
            assert month.store.windows_bytes() <= LIMITS.windows_bytes_max
    assert memory[-1] - memory[1] < 20_000  # kB
    assert month.disk() < 2 * (3_000_000 + 400_000) + 4 * 2**20  # and the journal
    month.store.expire()
    drops, waiting = month.store.drops(), month.store.outbox_count()
    assert drops["outbox_full"] > 0
    # Only summaries made room; exceptions went by age alone.
    exceptions = sum(one.kind == "exception" for one in month.store.outbox(100_000))
    fortnight = 14 * 2 * 2 * STREAMS  # each machine twice a day, where it begins and where it ends
    assert abs(exceptions - fortnight) <= 2 * STREAMS
    assert drops["outbox_expired"] > fortnight / 2
    link = Link(month.me)

    async def scene() -> None:
        month.forwarder.attach(link)
        month.forwarder.on_state(True)
        task = asyncio.create_task(month.forwarder.run())
        await until(lambda: month.store.outbox_count() == 0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scene())
    check_order(link, waiting, exceptions, month.hands.wall)
    assert month.store.drops() == drops  # nothing more was lost on the way
    month.store.close()


def check_order(link: Link, waiting: int, exceptions: int, now: float) -> None:
    """Everything that waited came once: exceptions first, each kind oldest first."""
    lanes = [batch.lane for batch in link.batches]
    assert lanes == sorted(lanes, reverse=True)
    assert set(lanes) == {EXCEPTION_PRIORITY, SUMMARY_PRIORITY}
    items: list[Item] = [item for batch in link.batches for item in batch.items]
    assert len(items) == waiting == len({item.number for item in items})
    kinds = Counter(type(item.event) for item in items)
    assert kinds == {Occurrence: exceptions, Summary: waiting - exceptions}
    for batch in link.batches:
        numbers = [item.number for item in batch.items]
        assert numbers == sorted(numbers)
    for item in items:
        event = item.event
        if isinstance(event, Occurrence) and event.time_seconds > 0:
            assert now - event.time_seconds < 14 * DAY + STEP or event.time_seconds < 1.3e9
