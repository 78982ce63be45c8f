"""Uniform selection: each candidate is as likely as any other (McMahan et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from hedgerow.algorithms.selection.base import Places, Policy, Pool, Share


class Uniform(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="uniform"):
    """Fair by itself, in the long run: `fairness_share` evens out what chance leaves."""

    fairness_share: Share = 0.0

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """By lot."""
        return rng.permutation(len(pool))[:count]


def uniform(candidates: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` of the candidates, each as likely as any other; all, where there are fewer."""
    ordered = sorted(candidates)
    chosen = rng.permutation(len(ordered))[:count]
    return sorted(ordered[i] for i in chosen)


def over_selected(cohort: int, share: float) -> int:
    """How many to invite so that `cohort` answer although a `share` of those invited does not."""
    return math.ceil(round(cohort / (1 - share), 6))  # 1 / (1 - 0.9) is a bit above 10
