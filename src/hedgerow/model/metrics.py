"""Figures of merit, in plain NumPy."""

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import Task

Array = NDArray[np.float32]


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis, same shape as `logits`."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def accuracy(logits: Array, y: NDArray[np.int64]) -> float:
    """Share of the rows of `logits [B, size]` that are largest at `y [B]`; NaN for no rows."""
    if len(y) == 0:
        return float("nan")
    return float(np.mean(np.argmax(logits, axis=-1) == y))


def cross_entropy(logits: Array, y: NDArray[np.int64]) -> float:
    """Mean softmax cross-entropy in nats of `logits [B, size]` against `y [B]`."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    total = np.log(np.exp(wide - top).sum(axis=-1)) + top[:, 0]
    return float(np.mean(total - wide[np.arange(len(y)), y]))


def mean_squared_error(output: Array, y: Array) -> float:
    """Mean over rows and elements of `(output - y)²`; both are `[B, …]` of one shape."""
    return float(np.mean(np.square(output.astype(np.float64) - y)))


def score(task: Task, output: Array, y: NDArray[np.generic]) -> float:
    """Higher is better: accuracy for classification, else minus the mean squared error."""
    if task == "classification":
        return accuracy(output, y.astype(np.int64))
    return -mean_squared_error(output, y.astype(np.float32))
