"""FedNova: devices that took more steps do not pull the model to themselves.

Tackling the objective inconsistency problem in heterogeneous federated optimization (Wang, Liu,
Liang, Joshi, Poor, 2020). Device half: train, send (w − w₀) / a with a, the effective steps
(`reach`: with momentum and a pull they are not the number of steps). Server half:

    w ← w + rate · mean(a) · mean((w_i − w₀) / a_i)
"""

from collections.abc import Mapping

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
from hedgerow.algorithms.reach import effective_steps


class FedNova(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fednova"):
    """`rate` is the server's."""

    rate: ServerRate = 1.0

    figures = ("steps",)

    def local(self, task: LocalTask) -> LocalHalf:
        """The formula above. a is scaled by 1 − momentum, which changes no result, so that it is
        near the number of steps; above 1,024 it counts as 1,024.
        """
        trained = yield from training(task)
        taken = effective_steps(task.plan, trained.steps) * (1 - task.plan.momentum)
        taken = np.minimum(taken, FIGURE_MAX)
        divisor = np.where(taken > 0, taken, 1)[:, None]
        delta = (delta_of(task, trained) / divisor).astype(np.float32)
        return Contribution({"delta": delta}, trained.weights, trained, {"steps": taken})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formula above."""
        factor = np.float32(self.rate * means[0].figures["steps"])
        weights = server.weights + factor * means[0].vectors["delta"]
        return Server({"weights": weights})
