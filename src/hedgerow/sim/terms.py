"""A batch's contribution as the rows that are summed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.algorithms.terms import joined
from hedgerow.core.layout import Layout
from hedgerow.model.passes import Rows


def well(contribution: Contribution) -> NDArray[np.bool_]:
    """Whose training did not diverge, `[K]`."""
    diverged = contribution.trained.diverged
    count = len(contribution.trained.loss)
    return np.ones(count, np.bool_) if diverged is None else ~diverged


def terms(
    algorithm: Algorithm,
    contribution: Contribution,
    layout: Layout,
    figures: list[NDArray[np.float64]],
) -> Rows:
    """Every client's update as `terms.joined` makes one, `[K, …]`."""
    mask = algorithm.travels(layout)
    vectors = [contribution.sends[name] for name in algorithm.sends]
    parts = vectors if mask is None else [vector[:, mask] for vector in vectors]
    return joined(parts, figures)
