"""From threads to the event loop: bounded, in order, and over when either side is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from hedgerow.io.sensors.mailbox import Mailbox, produced


async def everything(mailbox: Mailbox[int]) -> list[int]:
    taken: list[int] = []
    while items := await mailbox.take():
        taken += items
    return taken


def test_a_patient_thread_waits_for_room_and_nothing_is_lost() -> None:
    most = 0

    def count(mailbox: Mailbox[int]) -> None:
        for number in range(10_000):
            assert mailbox.put(number)

    async def run() -> list[int]:
        nonlocal most
        async with produced(count, size=10, lossy=False, name="count") as mailbox:
            taken: list[int] = []
            while items := await mailbox.take():
                most = max(most, len(items))
                taken += items
            assert mailbox.lost == 0
            return taken

    assert asyncio.run(run()) == list(range(10_000))
    assert most <= 10


def test_a_live_thread_loses_the_oldest_and_counts_it() -> None:
    def count(mailbox: Mailbox[int]) -> None:
        for number in range(1000):
            mailbox.put(number)
        done.set()

    done = threading.Event()

    async def run() -> tuple[list[int], int]:
        async with produced(count, size=10, lossy=True, name="count") as mailbox:
            await asyncio.to_thread(done.wait)
            return await everything(mailbox), mailbox.lost

    assert asyncio.run(run()) == (list(range(990, 1000)), 990)


def test_what_the_thread_raises_comes_after_what_it_gave() -> None:
    def fail(mailbox: Mailbox[int]) -> None:
        mailbox.put(1)
        raise OSError("unplugged")

    async def run() -> None:
        async with produced(fail, size=10, lossy=True, name="fail") as mailbox:
            await asyncio.sleep(0.05)
            assert await mailbox.take() == [1]
            with pytest.raises(OSError, match="unplugged"):
                await mailbox.take()

    asyncio.run(run())


@pytest.mark.parametrize("lossy", [False, True])
def test_a_thread_ends_when_nobody_reads_any_more(lossy: bool) -> None:
    threads: list[threading.Thread] = []

    def endless(mailbox: Mailbox[int]) -> None:
        threads.append(threading.current_thread())
        numbers: Iterator[int] = iter(int, 1)
        while mailbox.put(next(numbers)):
            pass

    async def run() -> None:
        async with produced(endless, size=5, lossy=lossy, name="endless") as mailbox:
            await mailbox.take()

    asyncio.run(run())
    assert not threads[0].is_alive()
