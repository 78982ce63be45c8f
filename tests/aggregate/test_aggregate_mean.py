"""The exact sum: no order, no tree and no restart changes a bit of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hedgerow.aggregate.mean import ExactSum
from hedgerow.core.errors import UsageError
from hedgerow.core.fixed import TERMS_MAX, Fixed, to_fixed, weight_to_fixed

SIZE = 5
Term = tuple[Fixed, int]

vectors = arrays(np.float32, SIZE, elements=st.floats(-15, 15, width=32))
terms = st.lists(
    st.tuples(vectors, st.integers(1, 65536)).map(
        lambda pair: (to_fixed(pair[0], pair[1] / 1024), weight_to_fixed(pair[1] / 1024))
    ),
    min_size=1,
    max_size=12,
)


def sum_of(given_terms: list[Term]) -> ExactSum:
    total = ExactSum(SIZE)
    for term, weight in given_terms:
        total.add(term, weight)
    return total


def test_by_hand() -> None:
    total = ExactSum(2)
    total.add(to_fixed(np.array([1, 2], np.float32), 1.0), weight_to_fixed(1.0))
    total.add(to_fixed(np.array([4, -2], np.float32), 0.5), weight_to_fixed(0.5))
    assert total.mean().tolist() == [2.0, np.float32(1 / 1.5)]
    assert total.mean().dtype == np.float32
    assert total.terms == 2


@given(terms, st.randoms(use_true_random=False))
def test_no_order_changes_it(given_terms: list[Term], random: st.DrawFn) -> None:
    shuffled = list(given_terms)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sum_of(shuffled).digest() == sum_of(given_terms).digest()


@given(terms, st.data())
def test_no_tree_changes_it(given_terms: list[Term], data: st.DataObject) -> None:
    leaves = [sum_of([term]) for term in given_terms]
    while len(leaves) > 1:
        first = leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))
        second = leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))
        first.merge(second)
        leaves.append(first)
    flat = sum_of(given_terms)
    assert leaves[0].digest() == flat.digest()
    np.testing.assert_array_equal(leaves[0].mean(), flat.mean())


@given(terms)
def test_the_mean_is_the_mean(given_terms: list[Term]) -> None:
    """Against plain Python integers."""
    weight = sum(weight for _, weight in given_terms)
    slow = [sum(int(term[i]) for term, _ in given_terms) / weight for i in range(SIZE)]
    np.testing.assert_allclose(sum_of(given_terms).mean(), slow, rtol=1e-6, atol=1e-30)


def test_floats_would_not_do() -> None:
    """Why the sum is of integers: three numbers, two orders, two sums."""
    assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)


def test_the_digest_tells_apart_what_the_mean_does_not() -> None:
    once, twice = ExactSum(1), ExactSum(1)
    term, weight = to_fixed(np.array([2], np.float32), 1.0), weight_to_fixed(1.0)
    once.add(term, weight)
    twice.add(term, weight)
    twice.add(term, weight)
    assert once.mean().tolist() == twice.mean().tolist() == [2.0]
    assert once.digest() != twice.digest()


def test_what_it_refuses() -> None:
    total = ExactSum(2)
    with pytest.raises(UsageError, match="mean of no updates"):
        total.mean()
    with pytest.raises(UsageError, match="cannot take"):
        total.add(np.zeros(3, np.int64), 1)
    full = ExactSum(2)
    full.terms = TERMS_MAX
    with pytest.raises(UsageError, match="at most 1048576 terms"):
        full.add(np.zeros(2, np.int64), 1)


@given(
    arrays(np.float32, (4, SIZE), elements=st.floats(-15, 15, width=32)),
    st.lists(st.floats(2**-16, 64), min_size=4, max_size=4),
)
def test_rows_at_once_are_rows_one_by_one(
    values: NDArray[np.float32], weights: list[float]
) -> None:
    once, each = ExactSum(SIZE), ExactSum(SIZE)
    assert once.add_rows(values, weights).all()
    for row, weight in zip(values, weights, strict=True):
        each.add(to_fixed(row, weight), weight_to_fixed(weight))
    assert once.digest() == each.digest()


def test_a_row_that_is_refused_weighs_nothing() -> None:
    total = ExactSum(2)
    values = np.array([[1, 2], [np.nan, 1]], np.float32)
    assert total.add_rows(values, [0.5, 2.0]).tolist() == [True, False]
    assert total.terms == 1 and total.weight_total == weight_to_fixed(0.5)
    assert total.mean().tolist() == [1.0, 2.0]
