"""FedSAM and MoFedSAM: devices look for flat minima, which differ less from one to the next.

Generalized federated learning via sharpness aware minimization (Qu, Li, Duan, Liu, Tang, Lu,
2022). Device half: each step takes the gradient at w + ascent · g/‖g‖, where g is the gradient at w
(a step costs twice). FedSAM's server half is FedAvg's; MoFedSAM adds client-level momentum
(`fedcm`): a step goes along share · gradient + (1 − share) · the fleet's last mean gradient.
"""

from typing import Annotated

import msgspec

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    LocalHalf,
    LocalTask,
    delta_of,
    training,
)
from hedgerow.algorithms.fedcm import ClientMomentum

Ascent = Annotated[float, msgspec.Meta(ge=0, le=10)]


class FedSam(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedsam"):
    """`ascent` is the paper's ρ."""

    ascent: Ascent = 0.05

    def local(self, task: LocalTask) -> LocalHalf:
        """Train with sharpness-aware gradients."""
        trained = yield from training(task, ascent=self.ascent)
        return Contribution({"delta": delta_of(task, trained)}, trained.weights, trained)


class MoFedSam(
    ClientMomentum, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mofedsam"
):
    """`share` is the paper's β, `ascent` its ρ."""

    ascent: Ascent = 0.05

    def local(self, task: LocalTask) -> LocalHalf:
        """FedCM's, with sharpness-aware gradients."""
        return self.trained_along(task, self.ascent)
