"""From a stream of samples to windows, in blocks of any size.

    windower = Windower(schema)
    for samples, time_seconds in sensor:              # samples [n, C], time of the first one
        for window in windower.push(samples, time_seconds):
            ...                                       # window.samples [C, T]

Time is sample time: when a block says it begins elsewhere than the last one ended, samples were
lost, and no window spans the place.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.sense.quality import Quality, QualityCheck, QualityLimits

_BUFFER_WINDOWS = 5
"""Length of a buffer in windows: a kept window keeps so much memory alive."""


class Window(msgspec.Struct, frozen=True, eq=False, gc=False):
    """`samples` f32 `[C, T]`, the first of them taken at `start_seconds`.

    `samples` is a read-only view, each channel contiguous. It stays as it is for as long as it is
    held: the windower begins a new buffer rather than write over an old one.
    """

    start_seconds: float
    samples: NDArray[np.float32]
    quality: Quality


class Windower:
    """Cuts one stream of samples into windows of `schema.window`, one every `schema.hop`.

    A block may begin up to `gap_periods` sample periods off the end of the one before (jitter of
    the clock); beyond that the stream starts over: later is a gap, earlier a clock set back.
    `gaps` and `setbacks` count them.
    """

    def __init__(
        self,
        schema: InputSchema,
        *,
        limits: QualityLimits | None = None,
        gap_periods: float = 1.5,
    ) -> None:
        """Raises UsageError when `limits` do not fit the schema."""
        self._channels = len(schema.channels)
        self._names = schema.channels
        self._window = schema.window
        self._hop = schema.hop
        self._period_seconds = 1.0 / schema.rate_hz
        self._tolerance_seconds = gap_periods * self._period_seconds
        self._check = QualityCheck(schema, QualityLimits() if limits is None else limits)
        self.gaps = 0
        self.setbacks = 0
        self._new_buffer(_BUFFER_WINDOWS * schema.window)
        self._start = 0  # where in the buffer the next window begins
        self._end = 0  # where in the buffer the next sample goes
        self._next_seconds = math.nan  # when the next sample is due; NaN: any time
        self._after_gap = False

    def push(self, samples: NDArray[np.float32], time_seconds: float) -> list[Window]:
        """Takes `samples` `[n, C]`, the first of them taken at `time_seconds`; any n from 0 up.

        Returns:
            the windows that these samples completed, oldest first.

        Raises:
            UsageError: the block has another shape, or the time is not finite.
        """
        count, channels = samples.shape if samples.ndim == 2 else (0, -1)
        if channels != self._channels:
            raise UsageError(
                f"samples have shape {samples.shape}; wanted [n, {self._channels}], one column for "
                f"each of {', '.join(self._names)}"
            )
        if count == 0:
            return []
        late = time_seconds - self._next_seconds
        if not -self._tolerance_seconds <= late <= self._tolerance_seconds:
            self._restart(time_seconds, late)
        end = self._end
        if end + count > self._length:
            end = self._renew(count)
        self._by_time[end : end + count] = samples
        self._end = end = end + count
        self._next_seconds = following = time_seconds + count * self._period_seconds
        windows = []
        start, width = self._start, self._window
        while start + width <= end:
            part = self._shown[:, start : start + width]
            quality = self._check(part, self._after_gap)
            windows.append(Window(following - (end - start) * self._period_seconds, part, quality))
            self._after_gap = False
            start += self._hop
        self._start = start
        return windows

    def _restart(self, time_seconds: float, late_seconds: float) -> None:
        """Begins a new stretch at `time_seconds`; what no full window held is let go."""
        if not math.isfinite(time_seconds):
            raise UsageError(
                f"samples begin at {time_seconds} s; wanted the finite time of the first sample"
            )
        if math.isnan(late_seconds):
            return  # the very first block: nothing was lost
        if late_seconds > 0:
            self.gaps += 1
        else:
            self.setbacks += 1
        self._after_gap = True
        self._start = self._end

    def _renew(self, count: int) -> int:
        """Begins a new buffer with room for `count` samples; returns where they go.

        The old buffer stays untouched for whoever holds a window of it.
        """
        old, start, end = self._buffer, self._start, self._end
        kept = end - start
        self._new_buffer(max(_BUFFER_WINDOWS * self._window, kept + count))
        self._buffer[:, :kept] = old[:, start:end]
        self._start, self._end = 0, kept
        return kept

    def _new_buffer(self, length: int) -> None:
        self._length = length
        self._buffer = np.empty((self._channels, length), np.float32)
        self._by_time = self._buffer.T
        self._shown = self._buffer.view()
        self._shown.flags.writeable = False
