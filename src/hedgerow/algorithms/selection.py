"""Who takes part in a round."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def uniform(candidates: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` of the candidates, each as likely as any other; all, where there are fewer."""
    ordered = sorted(candidates)
    chosen = rng.permutation(len(ordered))[:count]
    return sorted(ordered[i] for i in chosen)


def over_selected(cohort: int, share: float) -> int:
    """How many to invite so that `cohort` answer although a `share` of those invited does not."""
    return math.ceil(round(cohort / (1 - share), 6))  # 1 / (1 - 0.9) is a bit above 10
