"""A smartwatch that plays one wearer's recordings again, at their own speed or any other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.io.data import TRAIN_SHARE, WATCH_WEARERS, Recording
from hedgerow.io.sensors.base import Block, Sensor
from hedgerow.io.surroundings import Surroundings

BLOCK_SECONDS = 0.5
PAUSE_SECONDS = 1.0
"""Between recordings the times jump, so that no window spans two of them."""


class Replay(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One wearer, 1 to 10: what was held out of the recordings, over and over.

    The first part of each recording is the wearer's labelled past. Times start when the replay does
    and run as they were recorded: at `speed` 10 the blocks come ten times faster, at `inf` without
    waiting. A reader that falls behind gets the next blocks at once, none is left out.
    """

    wearer: str
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    loop: bool = True

    def __post_init__(self) -> None:
        if self.wearer not in map(str, WATCH_WEARERS):
            raise UsageError(
                f"sensor.wearer is {self.wearer!r}; to replay recordings set it to one of "
                f"{WATCH_WEARERS[0]} to {WATCH_WEARERS[-1]}"
            )

    def recordings(self) -> list[Recording]:
        """Everything this wearer recorded."""
        return data.load_wearer(int(self.wearer))

    def past(self) -> tuple[Sequence[Recording], Sequence[Recording]]:
        """The labelled past: what to learn from, and what to judge by."""
        return data.split_in_time(self.recordings(), TRAIN_SHARE)

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Block], None]:
        """Blocks of half a second; each comes when its last sample would have been taken."""
        recordings = self.past()[1]
        count = max(1, round(BLOCK_SECONDS * around.rate_hz))
        epoch, started = around.now(), around.monotonic()
        seconds = 0.0
        while True:
            for recording in recordings:
                for first in range(0, len(recording.samples), count):
                    part = recording.samples[first : first + count]
                    due = seconds + (first + len(part)) / around.rate_hz
                    # Sleeping for nothing too lets others on the event loop have their turn.
                    await around.sleep(max(0.0, started + due / self.speed - around.monotonic()))
                    start = epoch + seconds + first / around.rate_hz
                    yield [Block(f"wearer {self.wearer}", start, part)]
                seconds += len(recording.samples) / around.rate_hz + PAUSE_SECONDS
            if not self.loop:
                return
