"""Fine-tuning: FedAvg, and each device infers with what it made of the model itself.

Improving federated learning personalization via model agnostic meta learning (Jiang, Konečný, Rush,
Kannan, 2019), where FedAvg and a little local training is found to be hard to beat. Device half: as
FedAvg, but the weights it ends with are kept and served. Server half: as FedAvg.

With a plan that calibrates (`LocalPlan.calibrate`) the served weights do not lean to the labels of
their device either, which costs accuracy there: `ditto` trains weights of its own without.
"""

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    Held,
    LocalHalf,
    LocalTask,
    delta_of,
    training,
)
from hedgerow.core.layout import Vector


class FineTune(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="finetune"):
    """Settings: the server's `rate` and `momentum`."""

    keeps = ("personal",)

    def local(self, task: LocalTask) -> LocalHalf:
        """As FedAvg."""
        trained = yield from training(task)
        kept = {"personal": trained.weights}
        return Contribution({"delta": delta_of(task, trained)}, trained.weights, trained, kept=kept)

    def serving(self, held: Held) -> Vector:
        """Its own weights, once it has some."""
        return held.kept.get("personal", held.weights)
