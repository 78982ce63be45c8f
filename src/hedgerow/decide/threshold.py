"""Thresholds from the data, one for each stream, for a stated rate of false alarms.

A stream's own values while all is well are collected, then the tail beyond them is reckoned by
peaks over threshold: what lies beyond the highest sixteenth follows a generalised Pareto
distribution (Pickands 1975; Balkema and de Haan 1974). The tail's shape is hard to tell from one
stream's few peaks, so all streams share it, by the mean of their ratios of moments (Hosking and
Wallis, *Regional Frequency Analysis*, 1997; the moments: Hosking and Wallis, Technometrics 29,
1987), while place and scale are each stream's own.

Assumed: the time of calibration is like the time after it. What holds then: the share of normal
values beyond the limit is about `rate`. Neighbours need not be independent for that mean; but the
fewer independent values there are, the rougher the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.normal import Rows, grown, turns

Array = NDArray[np.float32]

PEAK_SHARE: Final = 1 / 16
PEAKS_MIN: Final = 8
DECILES: Final = 10
_SHAPE_MAX: Final = 0.5
_PRIOR_PEAKS: Final = 64.0
"""An exponential tail, shape 0, counts for so many peaks: it is the tail of what is bounded below
and made of many parts, as distances are, and a few peaks alone would swing from 0 to 0.5."""


def alarm_rate(per_day: float, hop_seconds: float, hold: int) -> float:
    """The share of normal windows that may exceed, for at most `per_day` false alarms of a stream.

    An alarm needs `hold` windows in a row, so alarms · hold ≤ windows beyond, however windows
    depend on each other. (Where they are independent it is far fewer.)
    """
    return min(0.5, per_day * hold * hop_seconds / 86_400)


class Thresholds:
    """A limit for each stream, from its first `windows` values.

    `limit [S]` is NaN until a stream has given them. `rate` is the share of normal values beyond.
    """

    def __init__(self, streams: int, windows: int, rate: float) -> None:
        """Raises UsageError for too few windows to have a tail, or a rate that is none."""
        if windows * PEAK_SHARE < PEAKS_MIN or not 0 < rate < 1:
            raise UsageError(
                f"thresholds from {windows} windows at rate {rate}; wanted at least "
                f"{round(PEAKS_MIN / PEAK_SHARE)} windows and a rate between 0 and 1"
            )
        self.windows, self.rate = windows, rate
        self.limit = np.full(streams, np.nan, np.float32)
        self._count = np.zeros(streams, np.int64)
        self._collecting = np.ones(streams, np.bool_)
        self._edges = np.zeros((streams, DECILES - 1), np.float32)
        self._place = np.zeros(streams)  # where the tail begins
        self._excess = np.zeros(streams)  # mean excess over it
        self._ratio = np.zeros(streams)  # second over first probability-weighted moment
        self._slot = np.full(streams, -1, np.int64)
        self._values = np.empty((0, windows), np.float32)
        self._free: list[int] = []

    @property
    def shape(self) -> float:
        """The tail's shape ξ, of all streams together; 0 is exponential, more is heavier."""
        known = np.isfinite(self.limit)
        if not known.any():
            return 0.0
        t = float(self._ratio[known].mean())
        peaks = int(known.sum()) * self._peaks
        found = (1 - 4 * t) / (1 - 2 * t)
        return float(np.clip(found * peaks / (peaks + _PRIOR_PEAKS), 0, _SHAPE_MAX))

    @property
    def nbytes(self) -> int:
        """Memory of it all: values are kept only while a stream is calibrated."""
        arrays = (
            self.limit,
            self._count,
            self._collecting,
            self._edges,
            self._place,
            self._excess,
            self._ratio,
        )
        return sum(array.nbytes for array in arrays) + self._slot.nbytes + self._values.nbytes

    @property
    def _peaks(self) -> int:
        return max(PEAKS_MIN, round(self.windows * PEAK_SHARE))

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        if streams <= len(self.limit):
            return
        self.limit = grown(self.limit, streams, np.nan)
        self._count = grown(self._count, streams)
        self._collecting = grown(self._collecting, streams, True)
        self._edges = grown(self._edges, streams)
        self._place = grown(self._place, streams)
        self._excess = grown(self._excess, streams)
        self._ratio = grown(self._ratio, streams)
        self._slot = grown(self._slot, streams, -1)

    def progress(self, row: int) -> float:
        """The share of its windows that a stream has given, 0 to 1."""
        return 1.0 if not self._collecting[row] else float(self._count[row] / self.windows)

    def collect(self, rows: Rows, values: Array) -> Rows:
        """Take in values f32 `[B]` of streams that are being calibrated; a row may come twice.

        Returns:
            the rows that now have a new limit.
        """
        done = [np.zeros(0, np.int64)]
        if not self._collecting[rows].any():
            return done[0]
        for places in turns(rows):
            places = places[self._collecting[rows[places]]]
            here = rows[places]
            for row in here[self._slot[here] < 0].tolist():
                self._slot[row] = self._take_slot()
            self._values[self._slot[here], self._count[here]] = values[places]
            self._count[here] += 1
            full = here[self._count[here] == self.windows]
            for row in full.tolist():
                self._fit(row)
            done.append(full)
        new = np.concatenate(done)
        if len(new):
            self._set_limits()
        return new

    def renew(self, rows: Rows) -> None:
        """Collect anew; the old limit holds until then. Those that still collect go on."""
        self._collecting[rows] = True

    def forget(self, rows: Rows) -> None:
        """Collect anew; until then there is no limit."""
        for row in rows.tolist():
            self._give_back(row)
        self.limit[rows] = np.nan
        self._collecting[rows] = True

    def rank(self, rows: Rows, values: Array) -> Array:
        """Where values lie among those a stream was calibrated on, 0 to 1, even if all is well."""
        edges = self._edges[rows]
        below = (values[:, None] > edges).sum(axis=1)
        low = np.where(below > 0, edges[np.arange(len(rows)), np.maximum(below - 1, 0)], 0)
        high = np.where(
            below < DECILES - 1, edges[np.arange(len(rows)), np.minimum(below, DECILES - 2)], np.inf
        )
        width = high - low
        within = np.where(
            np.isfinite(width) & (width > 0), (values - low) / np.where(width > 0, width, 1), 0.5
        )
        ranked: Array = ((below + np.clip(within, 0, 1)) / DECILES).astype(np.float32)
        return ranked

    def quantile(self, row: int, rate: float) -> float:
        """The value that a share `rate` of a stream's normal values exceeds."""
        return float(self._reach(np.array([row]), rate)[0])

    def _take_slot(self) -> int:
        if not self._free:
            used = len(self._values)
            more = max(4, used // 2)
            self._values = np.concatenate(
                [self._values, np.empty((more, self.windows), np.float32)]
            )
            self._free = list(range(used, used + more))
        return self._free.pop()

    def _give_back(self, row: int) -> None:
        if self._slot[row] >= 0:
            self._free.append(int(self._slot[row]))
            self._slot[row] = -1
            self._count[row] = 0
            if len(self._free) == len(self._values):  # nobody is calibrated any more
                self._values, self._free = np.empty((0, self.windows), np.float32), []

    def _fit(self, row: int) -> None:
        values = np.sort(self._values[self._slot[row]].astype(np.float64))
        self._edges[row] = np.quantile(values, np.arange(1, DECILES) / DECILES)
        peaks = self._peaks
        place = values[-peaks - 1]
        excess = values[-peaks:] - place
        mean = max(float(excess.mean()), 1e-6 * max(1.0, abs(float(place))))
        beyond = (
            1 - (np.arange(1, peaks + 1) - 0.35) / peaks
        )  # plotting positions of the 1987 paper
        self._place[row], self._excess[row] = place, mean
        self._ratio[row] = float((excess * beyond).mean()) / mean
        self.limit[row] = 0.0  # known; `_set_limits` says what it is
        self._collecting[row] = False
        self._give_back(row)

    def _set_limits(self) -> None:
        known = np.flatnonzero(np.isfinite(self.limit))
        self.limit[known] = self._reach(known, self.rate)

    def _reach(self, rows: Rows, rate: float) -> NDArray[np.float64]:
        xi = self.shape
        steps = np.log(max(1.0, self._peaks / (self.windows * rate)))
        reach = steps if xi < 1e-6 else np.expm1(xi * steps) / xi
        out: NDArray[np.float64] = self._place[rows] + self._excess[rows] * (1 - xi) * reach
        return out

    # What is kept ---------------------------------------------------------------------------------

    def arrays(self, streams: int) -> dict[str, NDArray[np.generic]]:
        """What to keep of the first `streams` rows; whoever is being calibrated begins again."""
        return {
            "limit": self.limit[:streams].copy(),
            "edges": self._edges[:streams].copy(),
            "place": self._place[:streams].copy(),
            "excess": self._excess[:streams].copy(),
            "ratio": self._ratio[:streams].copy(),
        }

    def take(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """Put back what `arrays` gave. Raises ValueError where they do not fit one another."""
        limit = np.asarray(arrays["limit"], np.float32)
        streams = len(limit)
        edges = np.asarray(arrays["edges"], np.float32)
        parts = [np.asarray(arrays[name], np.float64) for name in ("place", "excess", "ratio")]
        fits = all(part.shape == (streams,) and np.isfinite(part).all() for part in parts)
        if limit.ndim != 1 or edges.shape != (streams, DECILES - 1) or not fits:
            raise ValueError(f"thresholds of {limit.shape} streams do not fit one another")
        self.grow(streams)
        self.limit[:streams], self._edges[:streams] = limit, edges
        self._place[:streams], self._excess[:streams], self._ratio[:streams] = parts
        self._collecting[:streams] = np.isnan(limit)
        self._set_limits()


FACTOR_LEAST: Final = 0.8
FACTOR_MOST: Final = 4.0
_CAUGHT: Final = 0.9


def chosen_factor(normal: Sequence[float], fault: Sequence[float]) -> float:
    """What labels make of a threshold: a factor over the one from the data, 0.8 to 4.

    Given are scores (1: at the threshold from the data) of windows that somebody called `normal`,
    and of windows called a `fault`. Without labels it is 1. Windows called normal do not alarm: the
    factor goes above the highest of them. If that, or 1, misses more than a tenth of the faults, it
    comes down to catch nine in ten, but not below what is normal: a false alarm that somebody has
    already complained of is not given again. Windows "of a fault" that lie below all that the
    factor may come down to count for nothing: nobody draws a period to the window, and a machine
    that is well before and after its fault is not to alarm for it.
    """
    highest = max(normal, default=0.0) * 1.05
    wanted = max(1.0, highest)
    shown = [score for score in fault if score >= FACTOR_LEAST]
    if shown:
        catching = float(np.quantile(np.asarray(shown, np.float64), 1 - _CAUGHT)) * 0.95
        wanted = max(min(wanted, catching), highest)
    return float(np.clip(wanted, FACTOR_LEAST, FACTOR_MOST))
