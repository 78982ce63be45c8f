"""Who takes part."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.algorithms.selection import over_selected, uniform
from hedgerow.core.streams import stream


@given(st.sets(st.text(max_size=3), max_size=20), st.integers(0, 25), st.integers(0, 1000))
def test_so_many_of_them_and_each_once(names: set[str], count: int, seed: int) -> None:
    chosen = uniform(names, count, stream(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(names))
    assert set(chosen) <= names
    assert chosen == sorted(chosen)
    assert chosen == uniform(sorted(names, reverse=True), count, stream(seed))  # order is no matter


def test_each_is_as_likely() -> None:
    counts = Counter(
        name for seed in range(2000) for name in uniform("abcdefghij", 3, stream(seed, "cohort"))
    )
    assert set(counts) == set("abcdefghij")
    assert all(520 < count < 680 for count in counts.values())  # 600 ± 4 deviations of 20.5


@pytest.mark.parametrize(
    ("cohort", "share", "invited"),
    [(10, 0.0, 10), (10, 0.1, 12), (9, 0.1, 10), (100, 0.3, 143), (1, 0.5, 2), (1, 0.9, 10)],
)
def test_enough_are_invited(cohort: int, share: float, invited: int) -> None:
    assert over_selected(cohort, share) == invited


@given(st.integers(1, 10_000), st.integers(0, 99))
def test_exactly_as_many_as_it_takes(cohort: int, percent: int) -> None:
    """Against whole numbers: the smallest n with n · (100 − percent) ≥ 100 · cohort."""
    assert over_selected(cohort, percent / 100) == -(-100 * cohort // (100 - percent))
