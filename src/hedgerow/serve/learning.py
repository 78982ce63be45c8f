"""Learning on a device: local steps on its own windows, which stay here."""

from threading import Event as Flag

import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.metrics import score
from hedgerow.model.predictor import Predictor
from hedgerow.sense.augment import augmenter
from hedgerow.sense.features import features
from hedgerow.serve.device import Outcome
from hedgerow.serve.windows import WindowSet
from hedgerow.wire.messages import Offer
from hedgerow.wire.weights import from_bytes, to_bytes


class LocalTrainer:
    """Trains and fine-tunes one device's model on its windows.

    `name` names the random streams: the same name, windows and plan give the same weights.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        train_set: WindowSet,
        private: Vector | None = None,
        *,
        threads: int = 1,
    ) -> None:
        self.bundle = bundle
        self._name = name
        self._x, self._y = features(train_set.x, bundle.manifest.input), train_set.y
        self._learner = Learner(bundle, threads=threads)
        self._shared_size = bundle.manifest.layout.shared_size
        self.private = bundle.weights[self._shared_size :] if private is None else private

    def train(self, offer: Offer, shared: bytes, stop: Flag) -> Outcome:
        """One round's local training; the private tensors learn too and stay.

        They count once the update does: `private` is for the caller to set, as training may have
        been stopped.
        """
        start = self.whole(shared)
        weights, metrics = self.fit(start, offer.plan, ("round", offer.round), stop)
        delta = weights[: self._shared_size] - start[: self._shared_size]
        return Outcome(
            payload=to_bytes(delta),
            samples=len(self._y),
            metrics=metrics,
            private=to_bytes(weights[self._shared_size :]),
        )

    def fine_tune(self, shared: bytes, plan: LocalPlan, stop: Flag) -> Vector:
        """All weights, fitted to this device alone from the shared ones."""
        weights, _ = self.fit(self.whole(shared), plan, ("personalise",), stop)
        return weights

    def whole(self, shared: bytes) -> Vector:
        """Shared weights and this device's private ones as one vector `[P]`."""
        vector = from_bytes(shared)
        if vector.shape != (self._shared_size,):
            raise UsageError(
                f"a model of {vector.size} shared parameters came, the bundle has "
                f"{self._shared_size}"
            )
        return np.concatenate([vector, self.private])

    def fit(
        self, start: Vector, plan: LocalPlan, purpose: tuple[str | int, ...], stop: Flag
    ) -> tuple[Vector, dict[str, float]]:
        """Weights `[P]` trained by `plan` from `start`, and figures; `purpose` names the draws."""
        trained = self._learner.train(
            start,
            self._x,
            self._y,
            plan,
            stream(0, "fit", self._name, *purpose),
            augment=augmenter(plan.augment, self.bundle.manifest.input),
            should_stop=stop.is_set,
        )
        return trained.weights, {"loss": trained.loss, "steps": float(trained.steps)}


def evaluate(bundle: Bundle, predictor: Predictor, windows: WindowSet) -> float:
    """Accuracy on `windows` (for regression and reconstruction: minus the mean squared error)."""
    manifest = bundle.manifest
    outputs = predictor(features(windows.x, manifest.input))
    return score(manifest.output.task, outputs, windows.y)
