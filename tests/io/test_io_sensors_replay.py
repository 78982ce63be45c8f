"""A wearer's recordings, played again."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.io.data import Recording
from hedgerow.io.plugins import sensor
from hedgerow.io.sensors.base import Block
from hedgerow.io.sensors.replay import Replay
from hedgerow.io.surroundings import Surroundings


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def around(self) -> Surroundings:
        return Surroundings(
            device="test",
            state=Path(),
            channels=("a", "b"),
            rate_hz=8.0,
            now=lambda: 1000.0,
            monotonic=self.clock,
            sleep=self.sleep,
        )


@pytest.fixture(autouse=True)
def two_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 and 40 samples; the last 6 and 12 are played."""

    def wearer(number: int) -> list[Recording]:
        return [
            Recording(np.arange(n * 2, dtype=np.float32).reshape(n, 2), label, "left")
            for n, label in ((20, 4), (40, 5))
        ]

    monkeypatch.setattr(data, "load_wearer", wearer)


def play(replay: Replay, time: Time, count: int = 99, busy_seconds: float = 0.0) -> list[Block]:
    async def run() -> list[Block]:
        blocks: list[Block] = []
        async for batch in replay.batches(time.around()):
            blocks += batch
            time.seconds += busy_seconds
            if len(blocks) >= count:
                break
        return blocks

    return asyncio.run(run())


def test_replay_keeps_the_recorded_times_at_any_speed() -> None:
    time = Time()
    blocks = play(Replay(wearer="3", speed=10.0, loop=False), time)
    # 8 Hz in blocks of 4: the first recording lasts 0.75 s, the second starts a second later.
    assert [(b.time_seconds, len(b.samples)) for b in blocks] == [
        *((1000.0, 4), (1000.5, 2)),
        *((1001.75, 4), (1002.25, 4), (1002.75, 4)),
    ]
    assert {b.stream for b in blocks} == {"wearer 3"}
    assert time.slept == pytest.approx([0.05, 0.025, 0.15, 0.05, 0.05])
    assert blocks[0].samples[0, 0] == 28  # what was learned from is not played


def test_replay_loops_with_times_that_go_on() -> None:
    blocks = play(Replay(wearer="3"), Time(), count=6)
    assert blocks[5].time_seconds == 1000 + 0.75 + 1 + 1.5 + 1
    assert np.array_equal(blocks[5].samples, blocks[0].samples)


def test_replay_catches_up_after_a_slow_reader_and_never_waits_at_infinite_speed() -> None:
    time = Time()
    play(Replay(wearer="3", loop=False), time, busy_seconds=3.0)
    assert time.slept == [0.5, 0.0, 0.0, 0.0, 0.0]
    time = Time()
    play(Replay(wearer="3", loop=False, speed=float("inf")), time)
    assert time.slept == [0.0] * 5


def test_replay_refuses_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"wearer is '11'.*1 to 10"):
        sensor({"kind": "replay", "wearer": "11"})
    with pytest.raises(UsageError, match=r"speed.*docs/sensors.md"):
        sensor({"kind": "replay", "wearer": "3", "speed": 0})
    with pytest.raises(UsageError, match=r"kind 'radar'; wanted one of .*mqtt.*replay"):
        sensor({"kind": "radar"})
