"""Power of choice: of a few drawn by lot, those the model serves worst.

Towards understanding biased client selection in federated learning (Cho, Wang, Joshi, 2020), the
variant that uses the loss last reported (rpow-d): d = ⌈draw · count⌉ candidates are drawn, the
`count` with the highest loss are chosen. A device whose loss nobody knows counts as the highest.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np

from hedgerow.algorithms.selection.base import Places, Policy, Pool, highest, weighted


class PowerOfChoice(
    Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="power_of_choice"
):
    """`draw` 1 is a plain draw; the larger, the more the highest losses are preferred. `by`: all
    are as likely to be drawn, or as they have samples (the paper's way).
    """

    draw: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 3.0
    by: Literal["equal", "samples"] = "equal"

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """The rule above."""
        drawn = min(math.ceil(round(self.draw * count, 6)), len(pool))
        weights = pool.samples if self.by == "samples" else np.ones(len(pool))
        places = weighted(weights, drawn, rng)
        return places[highest(pool.loss[places], count, rng)]
