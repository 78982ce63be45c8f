"""Fixed point: bounds of the error, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hedgerow.core.errors import PeerError
from hedgerow.core.fixed import (
    MAGNITUDE_MAX,
    ONE,
    TERMS_MAX,
    Fixed,
    fixed_sum,
    mean_of,
    to_fixed,
    weight_to_fixed,
)
from hedgerow.core.layout import Vector

vectors = arrays(np.float32, st.integers(0, 40), elements=st.floats(-16, 16, width=32))


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
        (1024.5, 1.0, "out_of_range"),
        (-3e38, 64.0, "out_of_range"),
        (16.5, 64.0, "out_of_range"),
    ],
)
def test_it_refuses(value: float, weight: float, reason: str) -> None:
    with pytest.raises(PeerError) as caught:
        to_fixed(np.array([0, value], np.float32), weight)
    assert caught.value.reason == reason


def test_the_bound_itself_is_allowed() -> None:
    values = np.array([1024, -1024], np.float32)
    assert to_fixed(values, 1.0).tolist() == [1024 * ONE, -1024 * ONE]


def test_nothing_is_a_vector_too() -> None:
    assert to_fixed(np.zeros(0, np.float32), 1.0).shape == (0,)


@given(
    arrays(np.float32, (5, 7), elements=st.floats(-20, 20, width=32)),
    st.lists(st.floats(2**-16, 64), min_size=5, max_size=5),
    st.floats(1e-6, 60),
)
def test_a_sum_of_rows_is_the_sum_of_each(
    values: NDArray[np.float32], weights: list[float], factor: float
) -> None:
    """Small numbers, which float64 adds up exactly, and large ones, some beyond the bound."""
    values = (values * np.float32(factor)).astype(np.float32)
    total, good = fixed_sum(values, weights)
    slow, taken = np.zeros(7, np.int64), []
    for row, weight in zip(values, weights, strict=True):
        term = accepted(row, weight)
        taken.append(term is not None)
        slow += 0 if term is None else term
    assert good.tolist() == taken
    assert np.array_equal(total, slow)


def accepted(row: Vector, weight: float) -> Fixed | None:
    try:
        return to_fixed(row, weight)
    except PeerError:
        return None


def test_rows_that_are_not_finite_are_left_out() -> None:
    values = np.array([[1, 2], [np.nan, 0], [3, np.inf], [-np.inf, 1], [5, -6]], np.float32)
    total, good = fixed_sum(values, [1.0] * 5)
    assert good.tolist() == [True, False, False, False, True]
    assert total.tolist() == [6 * ONE, -4 * ONE]
    assert fixed_sum(values[1:2], [1.0])[0].tolist() == [0, 0]


def test_large_terms_are_added_as_integers() -> None:
    """A thousand of 1,024 − 2⁻¹³: beyond what float64 adds up exactly."""
    values = np.full((1000, 3), 1024 - 2**-13, np.float32)
    weights = [1 - 2**-30] * 1000
    total, good = fixed_sum(values, weights)
    assert good.all()
    assert total.tolist() == (1000 * to_fixed(values[0], weights[0])).tolist()


def test_a_sum_beyond_what_float64_holds_is_exact_still() -> None:
    values, weight = np.full((4999, 3), 1000.3, np.float32), 1.0000002
    total, good = fixed_sum(values, [weight] * 4999)
    one = int(to_fixed(values[0], weight)[0])
    assert good.all() and total.tolist() == [4999 * one] * 3
    assert np.full((4999, 1), float(one)).sum(axis=0).tolist() != [4999 * one]  # float64 would err
