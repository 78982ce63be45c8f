"""FedDyn: each device's objective is bent until its minimum is the fleet's.

Federated learning based on dynamic regularization (Acar, Zhao, Navarro, Mattina, Whatmough,
Saligrama, 2021). A device keeps h_i, its gradient at the model it last sent. Device half:

    minimise ℓ(w) − ⟨h_i, w⟩ + α/2 · ‖w − w₀‖²;    h_i ← h_i − α · (w − w₀);    send w − w₀

Server half, n of N devices having sent:

    h ← h − α · n/N · mean(w − w₀);    w ← w₀ + mean(w − w₀) − h / α

Nothing more than in FedAvg travels. With `ascent` the gradients are sharpness-aware (`fedsam`),
which goes most of the way to FedSMOO (Sun, Shen, Chen, Ding, Tao, 2023).
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np

from hedgerow.algorithms.base import (
    Algorithm,
    Contribution,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    delta_of,
    training,
)
from hedgerow.core.layout import Vector
from hedgerow.model.passes import Rows


class FedDyn(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="feddyn"):
    """`alpha` as above (paper: 0.1 to 0.01; smaller is bolder); it is added to the plan's pull."""

    alpha: Annotated[float, msgspec.Meta(ge=1e-6, le=1000)] = 0.1
    ascent: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0

    keeps = ("gradient",)

    def begin(self, weights: Vector) -> Server:
        """H = 0."""
        return Server({"weights": weights}, {"h": np.zeros_like(weights)})

    def local(self, task: LocalTask) -> LocalHalf:
        """The formulas above; private tensors have no h and are held by the pull alone."""
        shared = task.layout.shared_size
        own = task.kept["gradient"][:, :shared]
        plan = msgspec.structs.replace(task.plan, pull=task.plan.pull + self.alpha)
        trained = yield from training(task, plan=plan, shift=-own, ascent=self.ascent)
        delta = delta_of(task, trained)
        kept: Rows = np.zeros_like(task.weights)
        kept[:, :shared] = own - np.float32(self.alpha) * delta
        sends = {"delta": delta}
        return Contribution(sends, trained.weights, trained, kept={"gradient": kept})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formulas above."""
        mean = means[0]
        delta = mean.vectors["delta"]
        share = mean.terms / max(fleet, mean.terms, 1)
        h: Vector = server.kept["h"] - np.float32(self.alpha * share) * delta
        weights = server.weights + delta - h / np.float32(self.alpha)
        return Server({"weights": weights}, {"h": h})
