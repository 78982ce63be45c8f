"""Ditto: beside the fleet's model each device trains one of its own, held near the fleet's.

Ditto: fair and robust federated learning through personalization (Li, Hu, Beirami, Smith, 2021).
Device half: train as FedAvg and send the delta; then train the personal weights v, which stay on
the device, to minimise ℓ(v) + pull/2 · ‖v − w₀‖². Server half: as FedAvg.

A plan that calibrates (`LocalPlan.calibrate`) does so for what is sent; the personal weights may
lean to the labels of their device, since they answer for no other.
"""

from typing import Annotated

import msgspec
import numpy as np

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


class Ditto(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ditto"):
    """`pull` is the paper's λ: 0 trains alone, large values serve the fleet's model. The personal
    weights train for `epochs`, or as long as the plan says (None).
    """

    pull: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.1
    epochs: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None

    keeps = ("personal",)

    def local(self, task: LocalTask) -> LocalHalf:
        """Two passes. Personal weights begin at the model a device gets first."""
        trained = yield from training(task)
        epochs = task.plan.epochs if self.epochs is None else self.epochs
        plan = msgspec.structs.replace(task.plan, pull=self.pull, epochs=epochs, calibrate=0.0)
        start = np.where(task.fresh[:, None], task.weights, task.kept["personal"])
        own = yield from training(
            task, plan=plan, start=start, centre=task.weights, name="personal"
        )
        sends = {"delta": delta_of(task, trained)}
        return Contribution(sends, trained.weights, trained, kept={"personal": own.weights})

    def serving(self, held: Held) -> Vector:
        """Its own weights, once it has some."""
        return held.kept.get("personal", held.weights)
