"""What is asked of a learner and what it answers, for K clients at once.

Shapes: P is the size of the whole model; every array that differs from client to client leads
with K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan

Rows: TypeAlias = NDArray[np.float32]
"""One row a client: `[K, P]`, or `[K, S]` where it says so."""
Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Pass:
    """Local training asked for: `w ← w − rate·(∇ℓ(w) + pull·(w − anchor) + shift)` by `plan`.

    `weights [K, P]` where to start, `anchor [P]` what `plan.pull` pulls to (None: each to where it
    started), `shift [K, P]` or `[P]` is added to every gradient (None: 0), elements where
    `trainable [P]` is False keep their value. `ascent`: sharpness-aware steps take the gradient at
    `w + ascent·e`, where `e` is the gradient scaled to length 1, or `ascent_along [P]` (the same
    for all) scaled to length 1, which saves computing the gradient twice. `name` tells the random
    streams of several passes apart.
    """

    weights: Rows
    plan: LocalPlan
    anchor: Vector | None = None
    shift: NDArray[np.float32] | None = None
    trainable: NDArray[np.bool_] | None = None
    ascent: float = 0.0
    ascent_along: Vector | None = None
    name: str = "train"


@dataclass(frozen=True)
class Trained:
    """The answer to a `Pass`: weights `[K, P]`; steps, samples seen and mean loss, each `[K]`.

    The loss is NaN where no step was taken. `diverged [K]` (None: nobody): a client whose loss or
    weights left the finite numbers comes back with the weights it began with and a loss of NaN.
    """

    weights: Rows
    steps: Counts
    samples: Counts
    loss: NDArray[np.float64]
    diverged: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Losses:
    """Asks for the mean loss `[K, C]` of each model of `weights [C, P]` on each client's data."""

    weights: Rows
