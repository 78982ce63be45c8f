"""Tests that may be looked at after every window and still keep their error rate.

A `Wager` bets against a claim about a mean. It starts with a capital of 1; where the claim holds,
the capital is a non-negative supermartingale, so it ever reaches 1/α with probability at most α
(Ville's inequality). Nothing has to be fixed in advance: not the number of windows, not when to
look. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
J. R. Stat. Soc. B 86 (2024), with a fixed mixture of bets in place of a predicted one; Shafer,
"Testing by betting", J. R. Stat. Soc. A 184 (2021).

Assumed: each value lies within its bounds, and its mean given all earlier ones is on the claimed
side. Values need not be independent or of one distribution. Windows of one machine often err in
runs; whoever bets joins neighbours to one value first (`blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9)
"""Shares of the capital that the bets of the mixture may lose at one value, each 1/8 of it all."""


class Wager(msgspec.Struct, frozen=True):
    """Capital of a bet that pays `gain ≥ −loss_max` at each value, with mean ≤ 0 by the claim."""

    loss_max: float
    logs: tuple[float, ...] = (0.0,) * len(FRACTIONS)
    """Logarithm of the capital of each bet of the mixture."""

    def after(self, gains: Iterable[float]) -> Wager:
        """The capital after these gains, in their order."""
        gain = np.fromiter(gains, np.float64)
        shares = np.asarray(FRACTIONS)[:, None] / self.loss_max
        won = np.log1p(shares * np.maximum(gain, -self.loss_max)).sum(axis=1)
        return Wager(self.loss_max, tuple((np.asarray(self.logs) + won).tolist()))

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital."""
        top = max(self.logs)
        return top + math.log(sum(math.exp(one - top) for one in self.logs) / len(self.logs))

    def shows(self, error: float) -> bool:
        """Whether the claim is refuted, at that probability of refuting a true one."""
        return self.log_capital >= -math.log(error)


def mean_below(limit: float, high: float) -> Wager:
    """A bet against "the mean is at least `limit`" of values ≤ `high`; it pays `limit − value`."""
    return Wager(high - limit)


def mean_above(limit: float, low: float) -> Wager:
    """A bet against "the mean is at most `limit`" of values ≥ `low`; it pays `value − limit`."""
    return Wager(limit - low)


def blocks(values: Sequence[float], size: int) -> tuple[list[float], list[float]]:
    """Means of whole blocks of `size` neighbours, and what is left over for the next ones."""
    whole = len(values) // size * size
    means = np.asarray(values[:whole], np.float64).reshape(-1, size).mean(axis=1)
    return means.tolist(), list(values[whole:])


def sign_test(losses: NDArray[np.float64]) -> float:
    """Exact one-sided p-value of "it is as often better as worse", against "more often worse".

    `losses` are paired differences; those that are 0 say nothing. For right and wrong answers this
    is McNemar's exact test (McNemar, Psychometrika 12, 1947). A fixed sample, looked at once. The
    pairs are taken to be independent. 1 where none differs.
    """
    worse, better = int(np.sum(losses > 0)), int(np.sum(losses < 0))
    count = worse + better
    if count == 0:
        return 1.0
    ways = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(worse, count + 1)
    ]
    return min(1.0, math.fsum(math.exp(way - count * math.log(2)) for way in ways))
