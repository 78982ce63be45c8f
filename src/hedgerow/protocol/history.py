"""Of each stream a fixed number of steps of history, in a few bytes a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.protocol.owner_streams import History

RECENT_STEPS: Final = 10
"""Steps of the minutes that make one point of `StreamView.recent`: thirty points in all."""

NO_LABEL: Final = 255


class Ring:
    """Of each row the last `length` steps: highest score, lowest confidence, last label."""

    def __init__(self, step_seconds: float, length: int) -> None:
        self.step_seconds, self.length = step_seconds, length
        self._newest = np.zeros(0, np.int64)  # number of the newest step; 0: none yet
        self._scores = np.zeros((0, length), np.float16)
        self._confidences = np.zeros((0, length), np.float16)
        self._labels = np.zeros((0, length), np.uint8)

    def grow(self, rows: int) -> None:
        """Have room for so many rows; those that are there stay."""
        more = rows - len(self._newest)
        self._newest = np.concatenate([self._newest, np.zeros(more, np.int64)])
        blank = np.full((more, self.length), np.nan, np.float16)
        self._scores = np.concatenate([self._scores, blank])
        self._confidences = np.concatenate([self._confidences, blank])
        none = np.full((more, self.length), NO_LABEL, np.uint8)
        self._labels = np.concatenate([self._labels, none])

    def clear(self, row: int) -> None:
        """Forget a row."""
        self._newest[row] = 0
        self._scores[row] = self._confidences[row] = np.nan
        self._labels[row] = NO_LABEL

    def add(
        self,
        rows: NDArray[np.int64],
        seconds: NDArray[np.float64],
        scores: NDArray[np.float32],
        confidences: NDArray[np.float32],
        labels: NDArray[np.uint8],
    ) -> None:
        """Fold windows into the steps they ended in; all arguments `[B]`, oldest first."""
        steps = (seconds // self.step_seconds).astype(np.int64) + 1
        before = self._newest[rows]
        # A clock that went back farther than the ring is long begins the row anew.
        for row in np.unique(rows[steps < before - self.length]):
            self.clear(int(row))
        before = self._newest[rows]
        np.maximum.at(self._newest, rows, steps)
        self._wipe(rows, before)
        kept = steps > self._newest[rows] - self.length
        rows, steps = rows[kept], steps[kept] % self.length
        _fold(self._scores, rows, steps, scores[kept], np.fmax)
        _fold(self._confidences, rows, steps, confidences[kept], np.fmin)
        self._labels[rows, steps] = labels[kept]

    def _wipe(self, rows: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """Blank the steps that were entered since `before`."""
        gaps = np.minimum(self._newest[rows] - before, self.length)
        for gap in range(int(gaps.max(initial=0))):
            wide = gaps > gap
            at = (rows[wide], (self._newest[rows[wide]] - gap) % self.length)
            self._scores[at] = self._confidences[at] = np.nan
            self._labels[at] = NO_LABEL

    def history(self, row: int, silent: float, labels: Sequence[str]) -> History:
        """All steps of a row that gave nothing for `silent` seconds; `labels` by number."""
        at, known, end = self._steps(row, silent)
        numbers = self._labels[row, at]
        return History(
            step_seconds=self.step_seconds,
            end_seconds=end * self.step_seconds,
            scores=_list(np.where(known, self._scores[row, at], np.nan)),
            confidences=_list(np.where(known, self._confidences[row, at], np.nan)),
            label_numbers=[
                int(number) if ok and label_of(int(number), labels) else None
                for number, ok in zip(numbers, known, strict=True)
            ],
            labels=list(labels),
        )

    def recent(self, row: int, silent: float) -> list[float | None]:
        """Highest scores, or where nothing scores lowest confidences, of a few steps each."""
        at, known, _ = self._steps(row, silent)
        scores = np.where(known, self._scores[row, at], np.nan).reshape(-1, RECENT_STEPS)
        if not np.isnan(scores).all():
            return _list(np.fmax.reduce(scores, axis=1))
        sure = np.where(known, self._confidences[row, at], np.nan).reshape(-1, RECENT_STEPS)
        return _list(np.fmin.reduce(sure, axis=1))

    def _steps(self, row: int, silent: float) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
        """Places of the last steps, oldest first, which of them are known, and the last's number.

        Silence since the newest window is part of the picture until it would be all of it.
        """
        newest = int(self._newest[row])
        steps_silent = silent // self.step_seconds
        end = newest + int(steps_silent) if steps_silent < self.length else newest
        numbers = np.arange(end - self.length + 1, end + 1)
        known = (numbers <= newest) & (numbers > newest - self.length) & (newest > 0)
        return numbers % self.length, known, end


def _fold(
    ring: NDArray[np.float16],
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    values: NDArray[np.float32],
    fold: np.ufunc,
) -> None:
    fold.at(ring, (rows, steps), values.astype(np.float16))


def label_of(number: int, labels: Sequence[str]) -> str | None:
    """A label by its number; "other" beyond those that are kept, None where there is none."""
    if number == NO_LABEL:
        return None
    return labels[number] if number < len(labels) else "other"


def _list(values: NDArray[np.floating]) -> list[float | None]:
    """Three figures are enough to draw with, and to send."""
    return [None if np.isnan(value) else float(f"{value:.3g}") for value in values]
