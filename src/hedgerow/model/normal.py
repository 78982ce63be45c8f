"""What is normal for each of many streams: the usual value and spread of every feature.

    normal = Normal(streams=2000, size=64)
    normal.learn(rows, features)               # rows i64 [B], features f32 [B, D]
    x = normal.standardise(rows, features)     # in usual deviations from the usual value
    distance(x)                                # about 1 for a normal window

Learned as windows come, in O(streams · D) memory and without a loop over streams. One odd window
moves it little: the first few are taken by their median, later ones count for no more than four
deviations (Huber's winsorising; Huber and Ronchetti, *Robust Statistics*, 2009, 1.7), and the mean
and variance follow by Welford's recursion (Technometrics 4, 1962).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)

FIRST: Final = 8
"""Windows of a stream whose median begins its normal."""
CLIP: Final = 8.0
"""Standardised features end here, so that one broken band does not outweigh all others."""
_WINSOR: Final = np.float32(4.0)
_DEVIATION_MIN: Final = np.float32(0.02)
"""A band's least deviation, of a logarithm of power: what never moved may move by 2% each."""
_MAD_TO_DEVIATION: Final = np.float32(1.4826)


def turns(rows: Rows) -> Iterator[NDArray[np.int64]]:
    """Places of a batch, `[n]` each, such that no row comes twice in one; in the rows' order."""
    if len(rows) < 2:
        yield np.arange(len(rows))
        return
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(begins) == len(rows):
        yield np.arange(len(rows))
        return
    sizes = np.diff(np.r_[begins, len(rows)])
    for turn in range(int(sizes.max())):
        yield order[begins[sizes > turn] + turn]


def grown(array: NDArray[_Number], streams: int, fill: float = 0) -> NDArray[_Number]:
    """The array `[S, …]` with rows for `streams`, new ones holding `fill`; itself if it has them.

    Grows by half at least, so that streams that come one by one do not copy it each time.
    """
    if len(array) >= streams:
        return array
    out = np.full((max(streams, len(array) * 3 // 2), *array.shape[1:]), fill, array.dtype)
    out[: len(array)] = array
    return out


def distance(x: Array) -> Array:
    """Root mean square of standardised features `[B, …]`, f32 `[B]`."""
    flat = x.reshape(len(x), -1)
    square: Array = np.vecdot(flat, flat)
    root: Array = np.sqrt(square / np.float32(flat.shape[1]))
    return root


class Normal:
    """Usual value and deviation of `size` features for each stream, by row number."""

    def __init__(self, streams: int, size: int) -> None:
        self.size = size
        self.seen = np.zeros(streams, np.int64)
        """Windows learned from, `[S]`."""
        self._mean = np.zeros((streams, size), np.float32)
        self._deviation = np.ones((streams, size), np.float32)
        self._first: dict[int, Array] = {}

    def __len__(self) -> int:
        return len(self.seen)

    def grow(self, streams: int) -> None:
        """Have rows for so many streams."""
        self.seen = grown(self.seen, streams)
        self._mean = grown(self._mean, streams)
        self._deviation = grown(self._deviation, streams, 1)

    @property
    def nbytes(self) -> int:
        """Memory of it all."""
        first = sum(part.nbytes for part in self._first.values())
        return self.seen.nbytes + self._mean.nbytes + self._deviation.nbytes + first

    def standardise(self, rows: Rows, features: Array) -> Array:
        """Features f32 `[B, D]` in deviations from what is usual for their streams, within ±8.

        Of a stream that has not begun: 0.
        """
        x = features - self._mean[rows]
        x /= self._deviation[rows]
        np.clip(x, -CLIP, CLIP, out=x)
        x[self.seen[rows] < FIRST] = 0
        return x

    def learn(self, rows: Rows, features: Array) -> None:
        """Take in windows, features f32 `[B, D]`, all finite; a row may come more than once."""
        for places in turns(rows):
            here = rows[places]
            begun = self.seen[here] >= FIRST
            for place in places[~begun].tolist():
                self._begin(int(rows[place]), features[place])
            if begun.any():
                going, given = here[begun], features[places[begun]]
                self._follow(going, (given - self._mean[going]) / self._deviation[going])

    def follow(self, rows: Rows, x: Array) -> None:
        """Take in windows of streams that have begun, as `standardise` gave them, f32 `[B, D]`."""
        for places in turns(rows):
            self._follow(rows[places], x[places])

    def forget(self, rows: Rows) -> None:
        """Begin anew."""
        self.seen[rows] = 0
        for row in rows.tolist():
            self._first.pop(row, None)

    def _begin(self, row: int, features: Array) -> None:
        first = self._first.setdefault(row, np.empty((FIRST, self.size), np.float32))
        first[self.seen[row]] = features
        self.seen[row] += 1
        if self.seen[row] == FIRST:
            median = np.median(first, axis=0)
            self._mean[row] = median
            spread = np.median(np.abs(first - median), axis=0) * _MAD_TO_DEVIATION
            # A few windows may lie close by chance; neighbouring bands vary much alike.
            self._deviation[row] = np.maximum(spread, np.maximum(np.median(spread), _DEVIATION_MIN))
            del self._first[row]

    def _follow(self, rows: Rows, x: Array) -> None:
        self.seen[rows] += 1
        rate = (1 / self.seen[rows]).astype(np.float32)[:, None]
        z = np.clip(x, -_WINSOR, _WINSOR)
        deviation = self._deviation[rows]
        self._mean[rows] += rate * z * deviation
        # Welford: the product of the distances to the old mean and to the new one.
        z *= z
        z *= 1 - rate
        z -= 1
        z *= rate
        z += 1
        deviation *= np.sqrt(z, out=z)
        self._deviation[rows] = np.maximum(deviation, _DEVIATION_MIN, out=deviation)

    # What is kept ---------------------------------------------------------------------------------

    def arrays(self, streams: int) -> dict[str, NDArray[np.generic]]:
        """What to keep of the first `streams` rows; streams that have not begun begin again."""
        seen = np.where(self.seen[:streams] < FIRST, 0, self.seen[:streams])
        return {
            "seen": seen,
            "mean": self._mean[:streams].copy(),
            "deviation": self._deviation[:streams].copy(),
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> Normal:
        """What `arrays` gave. Raises ValueError where they do not fit one another."""
        seen = np.asarray(arrays["seen"], np.int64)
        mean = np.asarray(arrays["mean"], np.float32)
        deviation = np.asarray(arrays["deviation"], np.float32)
        if mean.ndim != 2 or mean.shape != deviation.shape or seen.shape != mean.shape[:1]:
            raise ValueError(f"normals of {seen.shape} streams with {mean.shape} features")
        if not (np.isfinite(mean).all() and (deviation > 0).all() and np.isfinite(deviation).all()):
            raise ValueError("normals that are not finite or have a deviation of 0")
        normal = cls(len(seen), mean.shape[1])
        normal.seen, normal._mean, normal._deviation = seen, mean.copy(), deviation.copy()
        return normal
