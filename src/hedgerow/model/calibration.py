"""Logit calibration: what a device learns does not lean to the labels it happens to hold.

With τ·log π_y added to the logit of each label y, where π are the device's own label frequencies,
the loss already grants the frequent labels their head start, and the weights need not learn it.
Long-tail learning via logit adjustment (Menon et al., 2021); for federated label skew Federated
learning with label distribution skew via logits calibration (Zhang et al., 2022).

The graph stays as it is: the same is had by adding to the output's bias before the first step and
taking that off after the last. Pull and weight decay act on the weights without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.bundle import Manifest
from hedgerow.model.passes import Rows
from hedgerow.model.samples import Samples

ABSENT = 0.1
"""A label a device has none of counts as this many samples: none would be minus infinity."""


class Calibration:
    """Offsets `[m, size]` of the output's bias, which lies at `place` in the flat vector."""

    def __init__(self, place: slice, offsets: NDArray[np.float32]) -> None:
        self.place = place
        self.offsets = offsets

    def on(self, weights: Rows) -> Rows:
        """A copy of `weights [m, P]` with the offsets."""
        out = weights.copy()
        out[:, self.place] += self.offsets
        return out

    def off(self, weights: Rows) -> None:
        """Take the offsets off `weights [m, P]` again."""
        weights[:, self.place] -= self.offsets

    def shift(
        self, given: NDArray[np.float32] | None, strength: float, size: int
    ) -> NDArray[np.float32]:
        """`given` (`[P]` or `[m, P]`) less `strength` times the offsets, `[m, P]`: what pull and
        decay of that strength would otherwise make of them.
        """
        out = np.zeros((len(self.offsets), size), np.float32)
        if given is not None:
            out += given
        out[:, self.place] -= np.float32(strength) * self.offsets
        return out


def calibration_of(manifest: Manifest, strength: float, clients: Sequence[Samples]) -> Calibration:
    """Offsets for each of `clients` from the labels it holds.

    Raises:
        UsageError: the model answers with no logits, or names no bias; or it has no such label.
    """
    output = manifest.output
    if output.task != "classification" or not output.bias:
        raise UsageError(
            f"calibrate is {strength}, but the model {manifest.name} has no bias behind its "
            f"logits that is named in the output schema (task {output.task}); set calibrate = 0, "
            "or export the model anew with a bias in its last layer"
        )
    counts = np.stack([_counts(client, output.size) for client in clients])
    known = np.maximum(counts, ABSENT)
    prior = known / known.sum(axis=1, keepdims=True)
    offsets = (strength * np.log(prior)).astype(np.float32)
    return Calibration(manifest.layout.slices[output.bias], offsets)


def _counts(client: Samples, size: int) -> NDArray[np.float64]:
    assert client.y is not None
    labels = client.y.astype(np.int64, copy=False)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= size:
        raise UsageError(
            f"labels reach from {labels.min()} to {labels.max()}; wanted 0 to {size - 1}"
        )
    counted: NDArray[np.float64] = np.bincount(labels, client.weight, size).astype(np.float64)
    return counted
