"""Fixed point: bounds of the error, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hedgerow.core.errors import PeerError
from hedgerow.core.fixed import (
    MAGNITUDE_MAX,
    ONE,
    TERMS_MAX,
    mean_of,
    to_fixed,
    weight_to_fixed,
)
from hedgerow.core.layout import Vector

vectors = arrays(np.float32, st.integers(0, 40), elements=st.floats(-64, 64, width=32))


def test_by_hand() -> None:
    fixed = to_fixed(np.array([1, -0.5, 2**-32, 2**-33, 3 * 2**-33], np.float32), 1.0)
    assert fixed.tolist() == [2**32, -(2**31), 1, 0, 2]  # halves go to the even neighbour
    assert to_fixed(np.array([3], np.float32), 0.5).tolist() == [3 * 2**31]
    assert weight_to_fixed(0.5) == 2**31
    assert mean_of(np.array([3 * ONE], np.int64), 2 * ONE).tolist() == [1.5]


@given(vectors, st.integers(1, 65536))
def test_the_error_is_at_most_half_a_unit(values: Vector, samples: int) -> None:
    weight = samples / 1024
    exact = values.astype(np.float64) * weight
    error = np.abs(to_fixed(values, weight).astype(np.float64) / ONE - exact)
    assert np.max(error, initial=0.0) <= 0.5 / ONE


@given(vectors, st.integers(1, 65536))
def test_the_mean_of_one_is_the_one_it_is_of(values: Vector, samples: int) -> None:
    weight = samples / 1024
    mean = mean_of(to_fixed(values, weight), weight_to_fixed(weight))
    np.testing.assert_allclose(mean, values, rtol=2**-23, atol=0.51 / ONE / weight)


def test_the_largest_sum_there_can_be_fits() -> None:
    top = int(to_fixed(np.array([MAGNITUDE_MAX], np.float32), 1.0)[0])
    assert top * TERMS_MAX < 2**63


@pytest.mark.parametrize(
    ("value", "weight", "reason"),
    [
        (float("nan"), 1.0, "not_finite"),
        (float("inf"), 1.0, "not_finite"),
        (float("-inf"), 1.0, "not_finite"),
        (4096.5, 1.0, "out_of_range"),
        (-3e38, 64.0, "out_of_range"),
        (65.0, 64.0, "out_of_range"),
    ],
)
def test_it_refuses(value: float, weight: float, reason: str) -> None:
    with pytest.raises(PeerError) as caught:
        to_fixed(np.array([0, value], np.float32), weight)
    assert caught.value.reason == reason


def test_the_bound_itself_is_allowed() -> None:
    values = np.array([4096, -4096], np.float32)
    assert to_fixed(values, 1.0).tolist() == [4096 * ONE, -4096 * ONE]


def test_nothing_is_a_vector_too() -> None:
    assert to_fixed(np.zeros(0, np.float32), 1.0).shape == (0,)
