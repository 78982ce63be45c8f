"""Bets that may be looked at at any time keep their error rate, and still find what is there."""

import math

import numpy as np
import pytest

from hedgerow.decide.sequential import (
    FRACTIONS,
    Wager,
    blocks,
    mean_above,
    mean_below,
    sign_test,
)


def capital_by_hand(loss_max: float, gains: list[float]) -> float:
    """The mixture written out: each bet by itself, then their mean."""
    each = [1.0] * len(FRACTIONS)
    for gain in gains:
        each = [
            one * (1 + share / loss_max * gain) for one, share in zip(each, FRACTIONS, strict=True)
        ]
    return sum(each) / len(each)


def test_the_capital_is_the_mean_of_the_bets() -> None:
    gains = [0.03, -0.97, 0.5, 0.03, 1.0]
    wager = mean_below(0.03, 1.0).after(gains[:2]).after(gains[2:])
    assert math.exp(wager.log_capital) == pytest.approx(capital_by_hand(0.97, gains))


def test_it_begins_with_one_and_never_goes_broke() -> None:
    assert math.exp(mean_above(0.0, -1.0).log_capital) == pytest.approx(1.0)
    ruined = mean_above(0.0, -1.0).after([-1.0] * 10_000)
    assert math.isfinite(ruined.log_capital)
    assert not ruined.shows(0.05)


def refutes(wager: Wager, gains: np.ndarray, error: float) -> bool:
    """Whether it ever refutes, looked at after every single value."""
    logs = np.zeros(len(FRACTIONS))
    shares = np.asarray(FRACTIONS)[:, None] / wager.loss_max
    paths = logs[:, None] + np.cumsum(np.log1p(shares * gains), axis=1)
    top = paths.max(axis=0)
    capital = top + np.log(np.exp(paths - top).mean(axis=0))
    return bool((capital >= -math.log(error)).any())


def differences(rng: np.random.Generator, worse: float, better: float, n: int) -> np.ndarray:
    """Paired losses: 1 with probability `worse`, −1 with `better`, else 0."""
    draw = rng.random(n)
    return np.where(draw < worse, 1.0, np.where(draw < worse + better, -1.0, 0.0))


@pytest.mark.parametrize(("worse", "better"), [(0.05, 0.05), (0.2, 0.2), (0.01, 0.01), (0.5, 0.5)])
def test_a_model_that_is_no_worse_is_seldom_called_worse(worse: float, better: float) -> None:
    """600 models on 3000 windows, looked at after each: at most 5% are wronged, and by chance."""
    rng = np.random.default_rng(7)
    wronged = sum(
        refutes(mean_above(0.0, -1.0), differences(rng, worse, better, 3000), 0.05)
        for _ in range(600)
    )
    assert wronged <= 0.05 * 600 + 3 * math.sqrt(600 * 0.05 * 0.95)


@pytest.mark.parametrize("changed", [0.04, 0.1, 0.4])
def test_a_model_worse_by_the_margin_seldom_takes_over(changed: float) -> None:
    rng = np.random.default_rng(8)
    margin, through = 0.03, 0
    for _ in range(600):
        worse, better = (changed + margin) / 2, (changed - margin) / 2
        gains = margin - differences(rng, worse, better, 3000)
        through += refutes(mean_below(margin, 1.0), gains, 0.025)
    assert through <= 0.025 * 600 + 3 * math.sqrt(600 * 0.025 * 0.975)


def test_what_is_there_is_found() -> None:
    """Five points worse is found within 2000 windows, no worse within 4000, by nearly all."""
    rng = np.random.default_rng(9)
    found = sum(
        refutes(mean_above(0.0, -1.0), differences(rng, 0.08, 0.03, 2000), 0.05) for _ in range(100)
    )
    cleared = sum(
        refutes(mean_below(0.03, 1.0), 0.03 - differences(rng, 0.04, 0.04, 4000), 0.025)
        for _ in range(100)
    )
    assert found >= 90
    assert cleared >= 90


def test_blocks_join_neighbours_and_leave_the_rest() -> None:
    assert blocks([1.0, 0.0, 1.0, 1.0, 0.5], 2) == ([0.5, 1.0], [0.5])
    assert blocks([1.0], 2) == ([], [1.0])


def test_the_sign_test_by_hand() -> None:
    """9 worse and 1 better of 10: (C(10,9) + C(10,10)) / 2^10 = 11/1024."""
    losses = np.array([1.0] * 9 + [-1.0] + [0.0] * 50)
    assert sign_test(losses) == pytest.approx(11 / 1024)
    assert sign_test(-losses) == pytest.approx(1 - 1 / 1024)
    assert sign_test(np.zeros(5)) == 1.0


def test_the_sign_test_takes_many_windows() -> None:
    assert sign_test(np.ones(5000)) == pytest.approx(0.0, abs=1e-300)
    assert sign_test(np.r_[np.ones(2500), -np.ones(2500)]) == pytest.approx(0.5, abs=0.01)
