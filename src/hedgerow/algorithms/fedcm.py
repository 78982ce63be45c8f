"""FedCM: every local step goes partly where the fleet went last (client-level momentum).

FedCM: Federated learning with client-level momentum (Xu, Wang, Wang, Yao, 2021). The server brings
Δ, the fleet's mean gradient of the last round. Device half, each step:

    w ← w − rate · (share · ∇ℓ(w) + (1 − share) · Δ)

Server half:  w ← w + rate · mean(w_i − w₀);    Δ ← −mean(w_i − w₀) / mean(rate_i · a_i)

with a_i the effective steps of a device (`reach`), of which the paper has the same for all. A
device keeps nothing, so rare ones do as well as others. In the first round there is no Δ yet, and
the own gradient counts in full: the paper's Δ of 0 would slow the first 1/share rounds.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np

from hedgerow.algorithms.base import (
    FIGURE_MAX,
    Algorithm,
    Contribution,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    ServerRate,
    delta_of,
    training,
)
from hedgerow.algorithms.reach import reach

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class ClientMomentum(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Abstract: `share` of the own gradient in each step (the paper's α, there 0.1 for hundreds of
    rounds), `rate` of the server.
    """

    rate: ServerRate = 1.0
    share: Share = 0.3

    figures = ("reach",)

    @property
    def brings(self) -> Mapping[str, int]:
        """Δ, as a gradient."""
        return {"momentum": 1}

    def trained_along(self, task: LocalTask, ascent: float = 0.0) -> LocalHalf:
        """The device's half. With the rate `share · rate` and the shift `(1 − share)/share · Δ` a
        step of the graph is that of the paper.
        """
        momentum = task.brought["momentum"]
        share = self.share if momentum.any() else 1.0
        plan = msgspec.structs.replace(task.plan, rate=task.plan.rate * share)
        shift = np.float32((1 - share) / share) * momentum
        trained = yield from training(task, plan=plan, shift=shift, ascent=ascent)
        far = np.minimum(reach(plan, trained.steps) / share, FIGURE_MAX)
        sends = {"delta": delta_of(task, trained)}
        return Contribution(sends, trained.weights, trained, {"reach": far})

    def local(self, task: LocalTask) -> LocalHalf:
        """The device's half."""
        return self.trained_along(task)

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formulas above. Where nobody took a step, Δ stays."""
        delta, far = means[0].vectors["delta"], means[0].figures["reach"]
        weights = server.weights + np.float32(self.rate) * delta
        momentum = -delta / np.float32(far) if far > 0 else server.model["momentum"]
        return Server({"weights": weights, "momentum": momentum})


class FedCM(ClientMomentum, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedcm"):
    """See above."""
