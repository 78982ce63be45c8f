"""Windows from large blocks of samples, many at once: for a gateway that hears many machines.

The same windows as `Windower` gives of the same samples. Between blocks only what the next window
needs is kept, where a `Windower` keeps room for several windows.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.sense.quality import QualityCheck, QualityLimits
from hedgerow.sense.windows import Window

Array = NDArray[np.float32]


class BlockWindower:
    """Cuts one stream into windows; see `Windower` for what counts as a gap.

    `check` may be shared by streams that are cut in the same thread.
    """

    __slots__ = (
        *("_after_gap", "_channels", "_check", "_hop", "_names", "_next_seconds"),
        *("_period_seconds", "_rest", "_tolerance_seconds", "_window", "gaps", "setbacks"),
    )

    def __init__(
        self, schema: InputSchema, check: QualityCheck | None = None, *, gap_periods: float = 1.5
    ) -> None:
        self._channels, self._names = len(schema.channels), schema.channels
        self._window, self._hop = schema.window, schema.hop
        self._period_seconds = 1.0 / schema.rate_hz
        self._tolerance_seconds = gap_periods * self._period_seconds
        self._check = QualityCheck(schema, QualityLimits()) if check is None else check
        self.gaps = self.setbacks = 0
        self._after_gap = False
        self._next_seconds = math.nan  # when the next sample is due; NaN: any time
        self._rest = np.empty((self._channels, 0), np.float32)

    def push(self, samples: Array, time_seconds: float) -> list[Window]:
        """The windows that `samples` `[n, C]`, from `time_seconds` on, complete; oldest first.

        Raises:
            UsageError: the block has another shape, or the time is not finite.
        """
        if samples.ndim != 2 or samples.shape[1] != self._channels:
            raise UsageError(
                f"samples have shape {samples.shape}; wanted [n, {self._channels}], one column for "
                f"each of {', '.join(self._names)}"
            )
        count = len(samples)
        if count == 0:
            return []
        self._mind_the_gap(time_seconds)
        kept = self._rest.shape[1]
        whole = np.empty((self._channels, kept + count), np.float32)
        whole[:, :kept] = self._rest
        whole[:, kept:] = samples.T
        began = time_seconds - kept * self._period_seconds
        self._next_seconds = time_seconds + count * self._period_seconds
        number = (kept + count - self._window) // self._hop + 1
        if number < 1:
            self._rest = whole
            return []
        self._rest = whole[:, number * self._hop :].copy()
        return self._cut(whole, number, began)

    def _cut(self, whole: Array, number: int, began: float) -> list[Window]:
        rows, columns = whole.strides
        shape = (number, self._channels, self._window)
        parts: Array = np.ndarray(shape, np.float32, whole, 0, (self._hop * columns, rows, columns))
        parts.flags.writeable = False
        qualities = self._check.many(parts, after_gap=self._after_gap)
        self._after_gap = False
        step = self._hop * self._period_seconds
        return [
            Window(began + place * step, part, quality)
            for place, (part, quality) in enumerate(zip(parts, qualities, strict=True))
        ]

    def _mind_the_gap(self, time_seconds: float) -> None:
        late = time_seconds - self._next_seconds
        if -self._tolerance_seconds <= late <= self._tolerance_seconds:
            return
        if not math.isfinite(time_seconds):
            raise UsageError(
                f"samples begin at {time_seconds} s; wanted the finite time of the first sample"
            )
        if math.isnan(late):
            return  # the very first block: nothing was lost
        if late > 0:
            self.gaps += 1
        else:
            self.setbacks += 1
        self._after_gap = True
        self._rest = self._rest[:, :0]
