"""FedAdam and FedYogi: the server treats the mean delta as a gradient and adapts its steps.

Adaptive federated optimization (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan,
2021), algorithm 2. Device half: as FedAvg. Server half, with Δ the mean delta:

    m ← β₁·m + (1 − β₁)·Δ
    Adam: v ← β₂·v + (1 − β₂)·Δ²        Yogi: v ← v − (1 − β₂)·Δ²·sign(v − Δ²)
    w ← w + rate · m / (√v + τ)

v starts at τ², and nothing corrects for the start, as in the paper.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Mean, Server, ServerRate
from hedgerow.core.layout import Vector

Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Wide = NDArray[np.float64]


class Adaptive(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Abstract: `rate`, `beta1`, `beta2` and `tau` of the formulas above.

    `tau` says how adaptive the server is: coordinates whose deltas stay below it move in proportion
    to them, as in FedAvg, the others by about `rate`.
    """

    rate: ServerRate = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3

    def squares(self, v: Wide, delta: Wide) -> Wide:
        """The next v `[S]`."""
        raise NotImplementedError

    def begin(self, weights: Vector) -> Server:
        """M = 0, v = τ²."""
        first = np.zeros_like(weights)
        second = np.full_like(weights, np.float32(self.tau**2))
        return Server({"weights": weights}, {"m": first, "v": second})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formulas above, in float64."""
        delta = means[0].vectors["delta"].astype(np.float64)
        m = self.beta1 * server.kept["m"].astype(np.float64) + (1 - self.beta1) * delta
        v = self.squares(server.kept["v"].astype(np.float64), delta)
        weights = server.weights + self.rate * m / (np.sqrt(v) + self.tau)
        kept = {"m": m.astype(np.float32), "v": v.astype(np.float32)}
        return Server({"weights": weights.astype(np.float32)}, kept)


class FedAdam(Adaptive, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedadam"):
    """Squares fade whatever comes: the server forgets coordinates that once moved far."""

    def squares(self, v: Wide, delta: Wide) -> Wide:
        """The next v `[S]`."""
        return self.beta2 * v + (1 - self.beta2) * delta**2


class FedYogi(Adaptive, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedyogi"):
    """Squares change by no more than the newest delta says: steadier where deltas are sparse."""

    def squares(self, v: Wide, delta: Wide) -> Wide:
        """The next v `[S]`."""
        return v - (1 - self.beta2) * delta**2 * np.sign(v - delta**2)
