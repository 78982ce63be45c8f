"""Whether a stream has changed for good: ADWIN, Page-Hinkley and population stability.

    watch = DriftWatch(streams=2000)
    statistic = watch.update(rows, values)      # rows i64 [B], values f32 [B] from 0 to 1
    statistic >= 1                              # drift

All streams at once, without a loop over them, in bounded memory. A detector's statistic is told
over its own limit, so 1 is drift for each. Values are a window's rank among those a stream was
calibrated on (see `Thresholds.rank`), or one less the confidence of a classification.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.model.normal import Rows, grown, turns

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

_SHORTEST: Final = 5
"""Blocks on either side of a cut at least: the bound's variance is an estimate."""
_BUCKETS: Final = 5
_LEVELS: Final = 10
_BINS: Final = 10


class DriftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ADWIN and Page-Hinkley see means of `block` windows, as neighbours are alike: loads last.

    `adwin_confidence` is δ of the paper. `page_hinkley_slack` is the change of the mean that is let
    pass and `page_hinkley_limit` what the sum of what is beyond may reach. Population stability
    compares each `stability_windows` with the reference, and may reach `stability_limit`.
    """

    block: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 512
    adwin_confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.002
    page_hinkley_slack: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    page_hinkley_limit: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    stability_windows: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 8192
    stability_limit: Annotated[float, msgspec.Meta(gt=0)] = 0.25


class PageHinkley:
    """A rise of the mean. Page, Biometrika 41 (1954); Hinkley, Biometrika 58 (1971).

    The sum of `value − mean so far − slack`, over its least so far: beyond `limit` the mean rose.
    """

    def __init__(self, streams: int, slack: float, limit: float) -> None:
        self._slack, self._limit = slack, limit
        self._count = np.zeros(streams, np.int64)
        self._mean, self._sum, self._least = np.zeros((3, streams))

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        self._count = grown(self._count, streams)
        self._mean, self._sum, self._least = (
            grown(part, streams) for part in (self._mean, self._sum, self._least)
        )

    def reset(self, rows: Rows) -> None:
        """Begin anew."""
        self._count[rows] = 0
        self._mean[rows] = self._sum[rows] = self._least[rows] = 0

    def update(self, rows: Rows, values: Wide) -> Wide:
        """The statistic over its limit, `[B]`, after one value of each of these streams."""
        self._count[rows] += 1
        self._mean[rows] += (values - self._mean[rows]) / self._count[rows]
        self._sum[rows] += values - self._mean[rows] - self._slack
        self._least[rows] = np.minimum(self._least[rows], self._sum[rows])
        statistic: Wide = (self._sum[rows] - self._least[rows]) / self._limit
        return statistic


class Adwin:
    """A change of the mean of values from 0 to 1. Bifet and Gavaldà, SDM 2007 (ADWIN2).

    The window of the past is kept as buckets of 1, 2, 4 … values, at most five of each size, with
    their sums and their squared deviations. Wherever two parts of it have means further apart than
    the paper's bound, the oldest bucket goes. At most `10` sizes: beyond some 5,000 values the
    oldest go in any case.
    """

    def __init__(self, streams: int, confidence: float) -> None:
        self._confidence = confidence
        self._total = np.zeros((streams, _LEVELS, _BUCKETS + 1))
        self._spread = np.zeros((streams, _LEVELS, _BUCKETS + 1))
        self._held = np.zeros((streams, _LEVELS), np.int64)
        # Oldest first: large buckets, then small ones, in each level from the left.
        sizes = np.repeat(2.0 ** np.arange(_LEVELS)[::-1], _BUCKETS + 1)
        self._sizes = sizes
        self._places = np.tile(np.arange(_BUCKETS + 1), (_LEVELS, 1))

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        self._total = grown(self._total, streams)
        self._spread = grown(self._spread, streams)
        self._held = grown(self._held, streams)

    def reset(self, rows: Rows) -> None:
        """Begin anew."""
        self._held[rows] = 0

    def width(self, row: int) -> int:
        """Values in a stream's window."""
        return int((self._held[row] * 2 ** np.arange(_LEVELS)).sum())

    def mean(self, row: int) -> float:
        """The mean of a stream's window; NaN of none."""
        held = self._places < self._held[row][:, None]
        return float(self._total[row][held].sum()) / (self.width(row) or np.nan)

    def update(self, rows: Rows, values: Wide) -> Wide:
        """The statistic over the bound, `[B]`, after one value of each of these streams.

        1 or more: the mean changed, and what is left of the window lies after the change.
        """
        self._insert(rows, values)
        statistic = self._widest_gap(rows)
        cut = np.flatnonzero(statistic >= 1)
        while len(cut):
            self._drop_oldest(rows[cut])
            cut = cut[self._widest_gap(rows[cut]) >= 1]
        return statistic

    def _insert(self, rows: Rows, values: Wide) -> None:
        total, spread = values, np.zeros(len(rows))
        for level in range(_LEVELS):
            place = self._held[rows, level]
            self._total[rows, level, place] = total
            self._spread[rows, level, place] = spread
            self._held[rows, level] += 1
            rows = rows[place == _BUCKETS]
            if not len(rows):
                return
            # Six are one too many: the two oldest become one of the next size.
            a, b = self._total[rows, level, 0], self._total[rows, level, 1]
            apart = (a - b) / 2**level
            spread = self._spread[rows, level, :2].sum(axis=1) + 2**level / 2 * apart**2
            total = a + b
            for part in (self._total, self._spread):
                part[rows, level, :-2] = part[rows, level, 2:]
            self._held[rows, level] -= 2

    def _drop_oldest(self, rows: Rows) -> None:
        level = _LEVELS - 1 - np.argmax(self._held[rows][:, ::-1] > 0, axis=1)
        for part in (self._total, self._spread):
            part[rows, level, :-1] = part[rows, level, 1:]
        self._held[rows, level] -= 1

    def _widest_gap(self, rows: Rows) -> Wide:
        """The largest difference of means over the bound, over all cuts, `[B]`."""
        held = self._places < self._held[rows][:, :, None]
        flat = (len(rows), -1)
        there = held[:, ::-1].reshape(flat)
        size = np.where(there, self._sizes, 0)
        total = np.where(there, self._total[rows][:, ::-1].reshape(flat), 0)
        spread = np.where(there, self._spread[rows][:, ::-1].reshape(flat), 0)
        n, whole = size.sum(axis=1, keepdims=True), total.sum(axis=1, keepdims=True)
        safe = np.maximum(n, 1)
        own = np.divide(total, size, out=np.zeros_like(total), where=there)
        between = size * (own - whole / safe) ** 2
        variance = (spread + between).sum(axis=1, keepdims=True) / safe
        older, first = np.cumsum(size, axis=1), np.cumsum(total, axis=1)
        newer, second = n - older, whole - first
        fits = there & (older >= _SHORTEST) & (newer >= _SHORTEST)
        m = 1 / (1 / np.maximum(older, 1) + 1 / np.maximum(newer, 1))
        log = np.log(2 * np.log(np.maximum(n, 2)) / self._confidence)
        bound = np.sqrt(2 / m * variance * log) + 2 / (3 * m) * log
        gap = np.abs(first / np.maximum(older, 1) - second / np.maximum(newer, 1))
        widest: Wide = np.where(fits, gap / bound, 0).max(axis=1)
        return widest


class Stability:
    """A change of the distribution: the population stability index over ten equal bins of 0 to 1.

    PSI = Σ (p − q) ln(p / q), which is Jeffreys' divergence; 0.1 is a small shift by custom, 0.25 a
    large one (Siddiqi, *Credit Risk Scorecards*, 2006). Half a window is added to each bin, so that
    an empty one stays finite. The reference is a stream's first `windows`, or even if `uniform`.
    """

    def __init__(self, streams: int, windows: int, limit: float, *, uniform: bool) -> None:
        self._windows, self._limit, self._uniform = windows, limit, uniform
        self._counts = np.zeros((streams, _BINS), np.int32)
        self._count = np.zeros(streams, np.int64)
        self._reference = np.full((streams, _BINS), 1 / _BINS)
        self._known = np.full(streams, uniform)
        self.index = np.zeros(streams)
        """Of each stream's last whole `windows`, `[S]`."""

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        self._counts = grown(self._counts, streams)
        self._count = grown(self._count, streams)
        self._reference = grown(self._reference, streams, 1 / _BINS)
        self._known = grown(self._known, streams, self._uniform)
        self.index = grown(self.index, streams)

    def reset(self, rows: Rows) -> None:
        """Begin anew, with another reference."""
        self._counts[rows] = 0
        self._count[rows] = 0
        self._reference[rows] = 1 / _BINS
        self._known[rows] = self._uniform
        self.index[rows] = 0

    def update(self, rows: Rows, values: Wide) -> Wide:
        """The index over its limit, `[B]`, after one value of each of these streams."""
        bins = np.clip((values * _BINS).astype(np.int64), 0, _BINS - 1)
        self._counts[rows, bins] += 1
        self._count[rows] += 1
        full = rows[self._count[rows] == self._windows]
        if len(full):
            share = (self._counts[full] + 0.5) / (self._windows + 0.5 * _BINS)
            known, fresh = self._known[full], ~self._known[full]
            reference = self._reference[full]
            index = ((share - reference) * np.log(share / reference)).sum(axis=1)
            self.index[full] = np.where(known, index, 0)
            self._reference[full[fresh]] = share[fresh]
            self._known[full] = True
            self._counts[full] = 0
            self._count[full] = 0
        return self.index[rows] / self._limit


class DriftWatch:
    """All three over many streams; the statistic is the largest of theirs.

    `uniform`: values are even from 0 to 1 while all is well, as ranks are.
    """

    def __init__(
        self, streams: int, settings: DriftSettings | None = None, *, uniform: bool = False
    ) -> None:
        given = settings or DriftSettings()
        self.settings = given
        self._adwin = Adwin(streams, given.adwin_confidence)
        self._hinkley = PageHinkley(streams, given.page_hinkley_slack, given.page_hinkley_limit)
        self._stability = Stability(
            streams, given.stability_windows, given.stability_limit, uniform=uniform
        )
        self._sum = np.zeros(streams)
        self._count = np.zeros(streams, np.int64)
        self._blocks = np.zeros(streams)  # statistic of the last whole block
        self.statistic = np.zeros(streams)
        """Over the limit, `[S]`: of the last whole block and of the last stability windows."""

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        if streams <= len(self._sum):
            return
        for part in (self._adwin, self._hinkley, self._stability):
            part.grow(streams)
        self._sum, self._blocks, self.statistic = (
            grown(part, streams) for part in (self._sum, self._blocks, self.statistic)
        )
        self._count = grown(self._count, streams)

    def reset(self, rows: Rows) -> None:
        """What these streams do from now on is what later is compared with."""
        for part in (self._adwin, self._hinkley, self._stability):
            part.reset(rows)
        self._sum[rows] = self._blocks[rows] = self.statistic[rows] = 0
        self._count[rows] = 0

    def update(self, rows: Rows, values: Array) -> Array:
        """Statistics over the limit f32 `[B]` after values f32 `[B]`; a row may come twice."""
        for places in turns(rows):
            here, given = rows[places], values[places].astype(np.float64)
            stability = self._stability.update(here, given)
            self._sum[here] += given
            self._count[here] += 1
            full = here[self._count[here] == self.settings.block]
            if len(full):
                means = self._sum[full] / self.settings.block
                self._blocks[full] = np.maximum(
                    self._adwin.update(full, means), self._hinkley.update(full, means)
                )
                self._sum[full] = 0
                self._count[full] = 0
            self.statistic[here] = np.maximum(self._blocks[here], stability)
        now: Array = self.statistic[rows].astype(np.float32)
        return now
