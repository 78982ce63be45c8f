"""Figures of merit on numbers worked out by hand."""

import math

import numpy as np
import pytest

from hedgerow.model.metrics import accuracy, cross_entropy, mean_squared_error, score, softmax


def test_by_hand() -> None:
    logits = np.log(np.array([[1, 3], [1, 1], [9, 1]], np.float32))
    y = np.array([1, 0, 1])
    assert np.allclose(softmax(logits), [[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])
    assert accuracy(logits, y) == pytest.approx(2 / 3)
    wanted = -(math.log(0.75) + math.log(0.5) + math.log(0.1)) / 3
    assert cross_entropy(logits, y) == pytest.approx(wanted)
    a = np.array([[1, 2], [3, 4]], np.float32)
    assert mean_squared_error(a, a + np.array([[0, 1], [0, 2]], np.float32)) == 1.25
    assert score("classification", logits, y) == pytest.approx(2 / 3)
    assert score("regression", a, a + np.float32(2)) == -4
    assert math.isnan(accuracy(logits[:0], y[:0]))


def test_softmax_of_large_logits_stays_finite() -> None:
    assert np.allclose(softmax(np.array([[1000.0, 1000.0]], np.float32)), 0.5)
