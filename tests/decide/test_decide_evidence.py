"""Model answers as plain numbers."""

import numpy as np
import pytest

from hedgerow.decide.evidence import probabilities, reconstruction_error


def test_probabilities_by_hand() -> None:
    got = probabilities(np.log(np.array([1, 2, 5], np.float32)))
    assert got == pytest.approx([0.125, 0.25, 0.625], rel=1e-6)


def test_large_logits_do_not_overflow() -> None:
    assert probabilities(np.array([1000, 0, -1000], np.float32)) == [1.0, 0.0, 0.0]


def test_reconstruction_error_by_hand() -> None:
    window = np.array([[[3.0, 0.0], [0.0, 1.0]]], np.float32)
    back = np.array([[[0.0, 4.0], [0.0, 1.0]]], np.float32)
    assert reconstruction_error(window, back) == pytest.approx(2.5)  # √((9 + 16) / 4)
