"""The exact weighted mean: an integer sum that no order of arrival can change.

Communication-efficient learning of deep networks from decentralized data (McMahan et al., 2017),
equation for w_{t+1}; the fixed point is `hedgerow.core.fixed`.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.fixed import ONE, TERMS_MAX, Fixed, fixed_sum, mean_of
from hedgerow.core.layout import Vector


class ExactSum:
    """A running sum of weighted updates `[P]`, exact, commutative and mergeable."""

    def __init__(self, size: int) -> None:
        self.total: Fixed = np.zeros(size, np.int64)
        self.weight_total = 0
        self.terms = 0

    def add(self, term: Fixed, weight: int) -> None:
        """Add one update, already weighted; both in fixed point."""
        self._merge(term, weight, 1)

    def add_rows(self, values: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.bool_]:
        """Add a row of `values [K, size]` for each of `weights [K]`: the same sum as one by one.

        Rows that are not finite or out of range are left out; which were added is the answer.
        """
        total, good = fixed_sum(values, weights)
        chosen = np.rint(np.array(weights, np.float64)[good] * ONE)  # as `weight_to_fixed`
        self._merge(total, sum(map(int, chosen.tolist())), len(chosen))
        return good

    def merge(self, other: "ExactSum") -> None:
        """Add another sum, as an edge server or a second worker made it."""
        self._merge(other.total, other.weight_total, other.terms)

    def mean(self) -> Vector:
        """Σ weight·update / Σ weight, float32 `[P]`.

        Raises:
            UsageError: nothing was added.
        """
        if self.weight_total <= 0:
            raise UsageError("the mean of no updates was asked for; add at least one first")
        return mean_of(self.total, self.weight_total)

    def digest(self) -> str:
        """SHA-256 of the sum: the same updates give the same digest, whatever their order."""
        head = f"{self.terms}/{self.weight_total}/".encode()
        return hashlib.sha256(head + self.total.astype("<i8").tobytes()).hexdigest()

    def _merge(self, total: Fixed, weight: int, terms: int) -> None:
        if total.shape != self.total.shape:
            raise UsageError(f"a sum of shape {self.total.shape} cannot take {total.shape}")
        if self.terms + terms > TERMS_MAX:
            raise UsageError(f"a sum takes at most {TERMS_MAX} terms; split it into several sums")
        self.total += total
        self.weight_total += weight
        self.terms += terms
