"""When samples were taken: steady times from jittery stamps, and blocks from single samples."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.io.sensors.base import Block

_FOLLOW: Final = 0.05
"""Share of the deviation that is followed a block; the sensor's clock drifts slowly."""

_NUDGE_PERIODS: Final = 0.25
"""The most that the time between two blocks may differ from that of their samples."""

_JITTER_PERIODS_MIN: Final = 1.5


class Timeline:
    """Steady times for the blocks of many streams that follow each other without a gap.

    Messages arrive with jitter, and clocks stamp in milliseconds; samples are taken steadily. A
    block that begins within half its length of where the one before ended follows on it, a little
    nearer to its stamp; beyond that samples were lost or a clock was set, and the stamp holds.
    """

    def __init__(self, rate_hz: float, streams_max: int) -> None:
        """Of more than `streams_max` streams, the one that came first is forgotten."""
        self._period_seconds = 1.0 / rate_hz
        self._streams_max = streams_max
        self._next_seconds: dict[str, float] = {}

    def begin(self, stream: str, stamp_seconds: float, count: int) -> float:
        """When the first of `count` samples was taken that were stamped with `stamp_seconds`."""
        period = self._period_seconds
        begin = stamp_seconds
        due = self._next_seconds.get(stream)
        if due is None:
            if len(self._next_seconds) >= self._streams_max:
                del self._next_seconds[next(iter(self._next_seconds))]
        else:
            late = stamp_seconds - due
            if abs(late) < max(count / 2, _JITTER_PERIODS_MIN) * period:
                most = _NUDGE_PERIODS * period
                begin = due + min(max(_FOLLOW * late, -most), most)
        self._next_seconds[stream] = begin + count * period
        return begin

    def forget(self, stream: str) -> None:
        """The stream ended; the next block begins where it says."""
        self._next_seconds.pop(stream, None)


def blocks_of(
    stream: str,
    times: NDArray[np.float64],
    samples: NDArray[np.float32],
    rate_hz: float,
    *,
    historical: bool = False,
) -> list[Block]:
    """Blocks of samples `[n, channels]` that were each taken at `times` `[n]`, ascending.

    A new block begins wherever the next sample is more than half a period off.
    """
    count = len(times)
    if count == 0:
        return []
    if count == 1:
        return [Block(stream, float(times[0]), samples, historical)]
    off = np.abs(np.diff(times) * rate_hz - 1.0) > 0.5
    edges = [0, *(np.flatnonzero(off) + 1).tolist(), count]
    return [
        Block(stream, float(times[first]), samples[first:last], historical)
        for first, last in itertools.pairwise(edges)
    ]
