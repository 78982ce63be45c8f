"""Times of samples: even grids from polls, from values that come when they change, and by count.

A window needs samples at the model's rate, evenly spaced. `ticks` and `Gather` are for sensors that
are asked, `Held` for those that speak when something changes, `SampleClock` for those that send
samples without times.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block
from hedgerow.io.surroundings import Surroundings

SAMPLES_MAX: Final = 1 << 16
"""Most samples that wait in one stream, or that one call gives; older ones are dropped."""
_WARN_SECONDS: Final = 60.0
_COMPARE_SECONDS: Final = 30.0
_RATE_OFF_MAX: Final = 0.05
_JUMP_SECONDS: Final = 60.0
"""Readers ask every second or so; time that passed faster was not lived through."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


def in_order(given: Mapping[str, T], around: Surroundings, setting: str) -> tuple[T, ...]:
    """The values of a setting that has one for each channel, in the order of the model's channels.

    Raises:
        UsageError: a channel of the model is missing, or one is named that the model does not have.
    """
    missing = [channel for channel in around.channels if channel not in given]
    unknown = [channel for channel in given if channel not in around.channels]
    if missing or unknown:
        raise UsageError(
            f"{setting} names {', '.join(given) or 'no channel'}; the model wants "
            f"{', '.join(around.channels)}: "
            + "; ".join(
                f"{what} {', '.join(names)}"
                for what, names in (("add", missing), ("take out", unknown))
                if names
            )
        )
    return tuple(given[channel] for channel in around.channels)


async def ticks(around: Surroundings, period_seconds: float) -> AsyncGenerator[float, None]:
    """The Unix time of each tick as it comes, one every `period_seconds`, at once the first.

    Ticks that pass while the reader is busy are left out, and said so once a minute at most.
    """
    due = around.monotonic()
    missed, warned = 0, -math.inf
    while True:
        # Sleeping for nothing too lets others on the event loop have their turn.
        await around.sleep(max(0.0, due - around.monotonic()))
        # Lateness is taken off: the wall clock may be set meanwhile, the timer runs on.
        yield around.now() - max(0.0, around.monotonic() - due)
        late = math.floor((around.monotonic() - due) / period_seconds)
        due += (late + 1) * period_seconds
        missed += late
        if missed and around.monotonic() - warned >= _WARN_SECONDS:
            _log.warning(
                "a reading takes longer than the %.3g s from one sample to the next: %d left out",
                period_seconds,
                missed,
            )
            missed, warned = 0, around.monotonic()


class Gather:
    """Rows that come one a tick, gathered to blocks of about `block_seconds`.

    A stream whose next row is not there in time has a gap: its block ends before it.
    """

    def __init__(self, rate_hz: float, block_seconds: float) -> None:
        self._period = 1.0 / rate_hz
        self._rows_max = min(max(1, round(block_seconds * rate_hz)), SAMPLES_MAX)
        self._waiting: dict[str, tuple[float, list[ArrayLike]]] = {}

    def add(self, seconds: float, rows: Mapping[str, ArrayLike]) -> list[Block]:
        """One row `[channels]` of each stream, read at `seconds`; the blocks now complete."""
        done: list[Block] = []
        for stream, row in rows.items():
            first, waiting = self._waiting.get(stream, (seconds, []))
            if abs(first + len(waiting) * self._period - seconds) > self._period / 2:
                done += self.end(stream)
                first, waiting = seconds, []
            waiting.append(row)
            self._waiting[stream] = first, waiting
            if len(waiting) >= self._rows_max:
                done += self.end(stream)
        for stream in self._waiting.keys() - rows.keys():
            done += self.end(stream)
        return done

    def end(self, stream: str) -> list[Block]:
        """What waits of `stream`, as no block or one."""
        if stream not in self._waiting:
            return []
        first, rows = self._waiting.pop(stream)
        return [Block(stream, first, np.asarray(rows, np.float32))]


class Held:
    """Values that come when they change, as samples on an even grid: each holds until the next.

    A channel that said nothing for `stale_seconds` has no value, and so has the stream until every
    channel spoke: there no samples are. NaN is a value: the sensor says that it cannot tell.
    """

    def __init__(self, channels: int, rate_hz: float, *, stale_seconds: float = math.inf) -> None:
        self._rate = rate_hz
        self._stale = stale_seconds
        self._times: list[list[float]] = [[] for _ in range(channels)]
        self._values: list[list[float]] = [[] for _ in range(channels)]
        self._next = math.nan  # the tick to come; NaN: before the first
        self._asked = math.nan
        self.lost = 0

    def put(self, channel: int, seconds: float, value: float) -> None:
        """`channel` took `value` at `seconds`; the first value also says where the grid begins."""
        if not math.isfinite(seconds):
            return
        times, values = self._times[channel], self._values[channel]
        if len(times) >= SAMPLES_MAX:
            del times[0], values[0]
            self.lost += 1
        times.append(seconds)
        values.append(value)

    def until(self, seconds: float) -> list[tuple[float, NDArray[np.float32]]]:
        """Samples `[n, channels]` at the ticks up to `seconds`, as stretches with their time."""
        before, self._asked = self._asked, seconds
        if abs(seconds - before) > _JUMP_SECONDS:
            self._begin_anew(seconds)
        if math.isnan(self._next):
            if not all(self._times):
                return []
            self._next = max(min(times) for times in self._times)
        count = math.floor((seconds - self._next) * self._rate + 1e-6) + 1
        if count <= 0:
            return []
        if count > SAMPLES_MAX:
            self.lost += count - SAMPLES_MAX
            self._next += (count - SAMPLES_MAX) / self._rate
            count = SAMPLES_MAX
        when = self._next + np.arange(count) / self._rate
        samples = np.empty((count, len(self._times)), np.float32)
        there = np.ones(count, np.bool_)
        for channel in range(len(self._times)):
            there &= self._sampled(channel, when, samples[:, channel])
        self._next += count / self._rate
        self._forget_before(self._next)
        edges = np.flatnonzero(np.diff(there, prepend=False, append=False))
        return [
            (float(when[first]), samples[first:end])
            for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]

    def _sampled(
        self, channel: int, when: NDArray[np.float64], out: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Writes what `channel` had at each time; where it had a value that is not too old."""
        times = np.array(self._times[channel])
        order = np.argsort(times, kind="stable")
        # Times may differ from ticks by rounding alone.
        last = np.searchsorted(times[order], when + 1e-6, side="right") - 1
        if not len(times):
            return np.zeros(len(when), np.bool_)
        chosen = order[np.maximum(last, 0)]
        out[:] = np.array(self._values[channel])[chosen]
        fresh: NDArray[np.bool_] = (last >= 0) & (when - times[chosen] <= self._stale)
        return fresh

    def _begin_anew(self, seconds: float) -> None:
        """The clock was set, or the machine slept: what held before holds from now on."""
        self._next = math.nan
        for times, values in zip(self._times, self._values, strict=True):
            if not times:
                continue
            value = values[max(range(len(times)), key=times.__getitem__)]
            times[:], values[:] = ([seconds], [value]) if self._stale == math.inf else ([], [])

    def _forget_before(self, seconds: float) -> None:
        """Keeps of each channel what comes after, and the value that still holds."""
        for times, values in zip(self._times, self._values, strict=True):
            pairs = sorted(zip(times, values, strict=True), key=lambda pair: pair[0])
            held = max((at for at, pair in enumerate(pairs) if pair[0] < seconds), default=0)
            times[:] = [pair[0] for pair in pairs[held:]]
            values[:] = [pair[1] for pair in pairs[held:]]


class SampleClock:
    """Times of samples that come without any: counted at the rate, steered by when they arrive.

    Each block moves by at most one sample period towards its arrival, less than what counts as a
    gap; so the clock of the sensor may be some percent off ours, and the arrival may jitter. From
    `jump_seconds` off it starts anew: samples were lost, or our clock was set.
    """

    _GAIN: Final = 0.1

    def __init__(self, rate_hz: float, *, jump_seconds: float = 1.0) -> None:
        self._period = 1.0 / rate_hz
        self._jump = jump_seconds
        self._next = math.nan
        self._counted, self._counted_from = 0, math.nan

    def stamp(self, count: int, end_seconds: float) -> float:
        """When the first of `count` samples was taken; the last one ended at `end_seconds`."""
        off = end_seconds - count * self._period - self._next
        if not abs(off) <= self._jump:  # NaN: the very first
            self._next += off
            if math.isnan(off):
                self._next = end_seconds - count * self._period
        else:
            self._next += min(max(self._GAIN * off, -self._period), self._period)
        first = self._next
        self._next += count * self._period
        self._compare(count, end_seconds)
        return first

    def _compare(self, count: int, end_seconds: float) -> None:
        """Says now and then when samples come at quite another rate than the model's."""
        passed = end_seconds - self._counted_from
        if 0 <= passed < _COMPARE_SECONDS:
            self._counted += count
            return
        rate = (self._counted + count) / passed if passed > 0 else math.nan
        if abs(rate * self._period - 1) > _RATE_OFF_MAX and passed < 2 * _COMPARE_SECONDS:
            _log.warning(
                "samples come at %.4g Hz, the model wants %.4g Hz; change the sensor's rate",
                rate,
                1 / self._period,
            )
        self._counted, self._counted_from = 0, end_seconds

    def lost(self) -> None:
        """Samples were lost: the next block is timed by its arrival alone."""
        self._next = self._counted_from = math.nan


class Pace:
    """Plays what was recorded at `speed` times real time; infinite: without waiting."""

    def __init__(self, around: Surroundings, speed: float) -> None:
        if not speed > 0:
            raise UsageError(f"speed is {speed}; wanted one above 0, 1 for real time, or inf")
        self._around = around
        self._speed = speed
        self._started = around.monotonic()

    async def until(self, seconds: float) -> None:
        """Returns when `seconds` after the start would have passed; at once for who is behind."""
        due = self._started + seconds / self._speed
        await self._around.sleep(max(0.0, due - self._around.monotonic()))
