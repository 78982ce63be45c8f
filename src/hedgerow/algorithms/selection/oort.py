"""Oort: devices that both have something to teach and are quick about it, and some that are new.

Oort: efficient federated learning via guided participant selection (Lai, Zhu, Madhyastha,
Chowdhury, OSDI 2021). For device i, picked last in round L, of n samples with losses ℓ, in round R:

    U = n · √(mean ℓ²), clipped at a quantile and normalised to 0…1
    U ← (U + √(0.1 · ln R / L)) · (T / t)^α where its training takes t > T seconds

A share ε of the places, `explore` decaying to `explore_min`, goes to devices never heard of, quick
ones first if that is known. The others are drawn in proportion to U from those that reach `cut` of
the last place's U. The pacer raises T, a quantile of all training times, when two windows of
`window` rounds show that the utility gained is falling.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np

from hedgerow.algorithms.selection.base import (
    Floats,
    Memory,
    Places,
    Policy,
    Pool,
    RoundFacts,
    Share,
    weighted,
)


class Oort(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oort"):
    """Settings by the letters above; `quantile` is where T begins, `quantile_step` what the pacer
    adds, `slow_power` is α. The figures are the paper's.
    """

    explore: Share = 0.9
    explore_decay: Share = 0.98
    explore_min: Share = 0.2
    slow_power: Annotated[float, msgspec.Meta(ge=0, le=10)] = 2.0
    clip: Share = 0.95
    cut: Share = 0.95
    quantile: Share = 0.3
    quantile_step: Share = 0.05
    window: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """Explore and exploit; where one side has too few devices the other takes its places."""
        known = ~np.isnan(pool.loss_squared)
        new, old = np.flatnonzero(~known), np.flatnonzero(known)
        share = max(self.explore * self.explore_decay ** (pool.round - 1), self.explore_min)
        exploring = min(max(round(share * count), count - len(old)), len(new))
        explored = new[weighted(_quickness(pool.seconds[new]), exploring, rng)]
        exploiting = count - exploring
        if exploiting == 0:
            return explored
        scores = self.scores(pool.take(old))
        last = np.partition(scores, len(scores) - exploiting)[len(scores) - exploiting]
        able = np.flatnonzero(scores >= self.cut * last)
        drawn = able[weighted(scores[able] + 1e-12, exploiting, rng)]
        return np.concatenate([explored, old[drawn]])

    def scores(self, pool: Pool) -> Floats:
        """The utility of each, `[N]`; every loss must be known."""
        utility = utility_of(pool.samples, pool.loss_squared)
        utility = np.minimum(utility, _quantile(utility, self.clip))
        least, span = utility.min(), np.ptp(utility)
        normal = (utility - least) / span if span > 0 else np.ones(len(pool))
        score = normal + np.sqrt(0.1 * math.log(max(pool.round, 1)) / np.maximum(pool.last, 1))
        timed = pool.seconds[~np.isnan(pool.seconds)]
        if len(timed):
            patience = self.quantile if pool.memory.quantile is None else pool.memory.quantile
            wanted = _quantile(timed, patience)
            slow = pool.seconds > wanted  # False where it is unknown
            score[slow] *= (wanted / pool.seconds[slow]) ** self.slow_power
        return np.asarray(score, np.float64)

    def remember(self, memory: Memory, facts: RoundFacts) -> Memory:
        """The pacer: after every `window` rounds it compares them with the `window` before."""
        told = [memory.past[outcome.id] for outcome in facts.outcomes if outcome.id in memory.past]
        squares = [_squared(past.loss, past.loss_squared) for past in told]
        gained = math.fsum(
            past.samples * math.sqrt(square)
            for past, square in zip(told, squares, strict=True)
            if square is not None
        )
        utilities = (*memory.utilities, gained)[-2 * self.window :]
        quantile = self.quantile if memory.quantile is None else memory.quantile
        if facts.round % self.window == 0 and len(utilities) == 2 * self.window:
            before, after = utilities[: self.window], utilities[self.window :]
            if math.fsum(before) > math.fsum(after):
                quantile = min(quantile + self.quantile_step, 1.0)
        return msgspec.structs.replace(memory, utilities=utilities, quantile=quantile)


def utility_of(samples: Floats, loss_squared: Floats) -> Floats:
    """Samples times the root of the mean squared loss, `[N]`."""
    return np.asarray(samples * np.sqrt(loss_squared), np.float64)


def _quantile(values: Floats, share: float) -> float:
    """The least of the values that so large a share does not exceed (the inverted distribution)."""
    place = max(math.ceil(len(values) * share - 1), 0)
    return float(np.partition(values, place)[place])


def _squared(loss: float | None, loss_squared: float | None) -> float | None:
    if loss_squared is not None:
        return loss_squared
    return None if loss is None else loss * loss


def _quickness(seconds: Floats) -> Floats:
    """Weights 1/t; a time that is not known counts as the median of those that are."""
    known = seconds[~np.isnan(seconds)]
    middle = float(np.median(known)) if len(known) else 1.0
    filled = np.where(np.isnan(seconds), middle, seconds)
    return np.asarray(1.0 / np.maximum(filled, 1e-3), np.float64)
