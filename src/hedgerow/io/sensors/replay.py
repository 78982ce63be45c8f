"""A sensor that plays recordings again, at the speed they were made or any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data import Recording


class Block(NamedTuple):
    """Samples as a sensor hands them over.

    `time_seconds` is when the first sample was taken, `samples` f32 `[n, channels]`, `label` what
    the wearer was doing if that is known.
    """

    time_seconds: float
    samples: NDArray[np.float32]
    label: int | None


@dataclass(frozen=True)
class ReplaySensor:
    """Plays `recordings` one after the other in blocks of `block` samples; the last may be shorter.

    Times run at `rate_hz` from `start_seconds`, whatever the speed: at `speed` 10 the blocks come
    ten times faster than they were recorded, at `float("inf")` without waiting. Between recordings
    the times jump by `pause_seconds`, so that no window spans two of them. `loop` starts over at
    the end, for ever, with times that go on. `clock` gives seconds that never run backwards and
    `sleep` waits for seconds. A reader that falls behind gets the next blocks at once, none is
    left out.
    """

    recordings: Sequence[Recording]
    rate_hz: float
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    block: int = 25
    speed: float = 1.0
    loop: bool = False
    labelled: bool = True
    start_seconds: float = 0.0
    pause_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.rate_hz > 0 or not self.speed > 0 or self.block < 1 or self.pause_seconds < 0:
            raise UsageError(
                f"replay has rate {self.rate_hz} Hz, speed {self.speed}, block {self.block}, "
                f"pause {self.pause_seconds} s; wanted rate > 0, speed > 0, block ≥ 1, pause ≥ 0"
            )
        if not any(len(recording.samples) for recording in self.recordings):
            raise UsageError("replay has no samples to play; give it at least one recording")

    async def blocks(self) -> AsyncIterator[Block]:
        """The blocks; each comes when its last sample would have been taken."""
        started = self.clock()
        time_seconds = 0.0
        while True:
            for recording in self.recordings:
                samples = recording.samples
                label = recording.label if self.labelled else None
                for first in range(0, len(samples), self.block):
                    part = samples[first : first + self.block]
                    due = time_seconds + (first + len(part)) / self.rate_hz
                    # Sleeping for nothing too lets others on the event loop have their turn.
                    await self.sleep(max(0.0, started + due / self.speed - self.clock()))
                    yield Block(
                        self.start_seconds + time_seconds + first / self.rate_hz, part, label
                    )
                time_seconds += len(samples) / self.rate_hz + self.pause_seconds
            if not self.loop:
                return
