"""FedProx: devices are pulled to the model that came.

Federated optimization in heterogeneous networks (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith,
2020). Device half: training minimises ℓ(w) + pull/2 · ‖w − w₀‖². Server half: as FedAvg.
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


class FedProx(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedprox"):
    """`pull` is the paper's μ; it replaces that of the plan."""

    pull: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.01

    def local(self, task: LocalTask) -> LocalHalf:
        """Train with the pull; private tensors are pulled to where they began this round."""
        plan = msgspec.structs.replace(task.plan, pull=self.pull)
        trained = yield from training(task, plan=plan)
        return Contribution({"delta": delta_of(task, trained)}, trained.weights, trained)
