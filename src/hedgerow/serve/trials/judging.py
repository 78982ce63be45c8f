"""How far the answers of two models are apart, and which of them is wrong: numbers for evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import Task

Array = NDArray[np.float32]
Values = NDArray[np.float64]
TINY = 1e-12


def changes(task: Task, given: Array, one: Array, other: Array) -> Values:
    """How much the answers of two models `[B, size]` differ, from 0 to 1 a window, `[B]`.

    Classes: 1 where they are not the same. Values: the distance, as a share of both magnitudes.
    Reconstructions: the mean squared distance, as a share of that of the input `given [B, *shape]`.
    """
    if task == "classification":
        return np.asarray(one.argmax(axis=1) != other.argmax(axis=1), np.float64)
    a, b = one.astype(np.float64), other.astype(np.float64)
    if task == "regression":
        magnitudes = (np.abs(a) + np.abs(b)).mean(axis=1)
        return np.asarray(np.abs(a - b).mean(axis=1) / (magnitudes + TINY), np.float64)
    power = np.square(given.reshape(len(given), -1).astype(np.float64)).mean(axis=1)
    apart = np.square(a - b).mean(axis=1)
    return np.asarray(np.minimum(1.0, apart / (power + TINY)), np.float64)


def losses(task: Task, given: Array, answers: Array, labels: NDArray[np.int64]) -> Values:
    """Loss of each answer from 0 to 1, `[B]`; NaN where the truth is not known.

    Classes: 1 where the label (−1: none) is another. Reconstructions are their own judge: the share
    of the input's power that did not come back, at most 1. Of values the truth is not known.
    """
    if task == "classification":
        wrong = (answers.argmax(axis=1) != labels).astype(np.float64)
        return np.where(labels >= 0, wrong, np.nan)
    if task == "regression":
        return np.full(len(answers), np.nan)
    flat = given.reshape(len(given), -1).astype(np.float64)
    missed = np.square(answers.astype(np.float64) - flat).mean(axis=1)
    power = np.square(flat).mean(axis=1)
    return np.asarray(np.minimum(1.0, missed / (power + TINY)), np.float64)


class Thinner:
    """Takes of each stream only windows that share no sample, so that each says something new."""

    def __init__(self, window: int, hop: int) -> None:
        self._stride = -(-window // hop)
        self._seen = np.zeros(0, np.int64)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these windows to take; `rows [B]` number their streams, in order of time."""
        if self._stride == 1 or not len(rows):
            return np.ones(len(rows), bool)
        if rows.max() >= len(self._seen):
            grown = np.zeros(int(rows.max()) + 1, np.int64)
            grown[: len(self._seen)] = self._seen
            self._seen = grown
        order = np.argsort(rows, kind="stable")
        streams = rows[order]
        first = np.flatnonzero(np.r_[True, streams[1:] != streams[:-1]])
        within = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
        number = np.empty(len(rows), np.int64)
        number[order] = self._seen[streams] + within
        np.add.at(self._seen, rows, 1)
        return np.asarray(number % self._stride == 0, bool)
