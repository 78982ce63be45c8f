"""FedLESAM: sharpness-aware training at the cost of plain training.

Locally estimated global perturbations are better than local perturbations for federated
sharpness-aware minimization (Fan, Hu, Yao, Tian, Zhang, Sugiyama, Wang, 2024). Device half: each
step takes the gradient at w + ascent · e, where e points back from the model that came to the one
before it: uphill for the fleet, and known without a second gradient. Server half: as FedAvg.

In the paper a device takes the difference to the last model it happened to get; here the server
brings its own last step, which is the same where a device takes part in every round.
"""

from collections.abc import Mapping

import numpy as np

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    delta_of,
    training,
)
from hedgerow.algorithms.fedsam import Ascent


class FedLesam(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedlesam"):
    """`ascent` is the paper's ρ."""

    ascent: Ascent = 0.05

    @property
    def brings(self) -> Mapping[str, int]:
        """The model's last step."""
        return {"step": 1}

    def local(self, task: LocalTask) -> LocalHalf:
        """Train as above; plainly in the first round, when there was no step yet."""
        step = task.brought["step"].astype(np.float64)
        length = np.sqrt(np.dot(step, step))
        along = np.zeros(task.layout.size, np.float32)
        if length > 0:
            along[: len(step)] = -step / length
        ascent = self.ascent if length > 0 else 0.0
        trained = yield from training(task, ascent=ascent, ascent_along=along if ascent else None)
        return Contribution({"delta": delta_of(task, trained)}, trained.weights, trained)

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """FedAvg's, and the step it made."""
        after = super().server(server, means, fleet)
        return Server({**after.model, "step": after.weights - server.weights}, after.kept)
