"""Runs a device's half: hands what it asks for to a learner, and the answers back."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Answer, Contribution, LocalHalf
from hedgerow.model.passes import Losses, Pass, Trained


def drive(
    half: LocalHalf,
    train: Callable[[Pass], Trained],
    losses: Callable[[Losses], NDArray[np.float64]],
) -> Contribution:
    """The contribution `[K, …]` that `half` ends with."""
    ask = next(half)
    while True:
        answer: Answer = train(ask) if isinstance(ask, Pass) else losses(ask)
        try:
            ask = half.send(answer)
        except StopIteration as end:
            contribution: Contribution = end.value
            return contribution
