"""Learning on a device: local steps on its own windows, which stay here."""

from threading import Event as Flag

import numpy as np

from hedgerow.algorithms.base import Held, LocalTask
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.resource_aware import ResourceAware, narrowed
from hedgerow.algorithms.terms import unpack_model
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import key_of
from hedgerow.io import clock
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.metrics import score
from hedgerow.model.passes import Losses, Pass, Trained
from hedgerow.model.predictor import Predictor
from hedgerow.model.samples import Samples
from hedgerow.model.widths import widest
from hedgerow.protocol.learning import Shape
from hedgerow.seal.choice import LinkQuality, choose
from hedgerow.sense.augment import augmenter
from hedgerow.sense.features import features
from hedgerow.serve.device import Outcome
from hedgerow.serve.memory import DeviceMemory
from hedgerow.serve.windows import WindowSet
from hedgerow.wire.messages import Offer
from hedgerow.wire.weights import from_bytes


class LocalTrainer:
    """Trains and fine-tunes one device's model on its windows.

    `name` names the random streams: the same name, windows and plan give the same weights. `device`
    is its id, which the coordinator knows it by (`name` if not given).
    `memory` is what it keeps from round to round; `train` answers with the next one, which counts
    once the update does and is for the caller to set. `capacity` is the share of the model that the
    device can afford to train, where the fleet allows for less than all.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        train_set: WindowSet,
        memory: DeviceMemory | None = None,
        *,
        device: str = "",
        threads: int = 1,
        capacity: float = 1.0,
        upload_seconds_max: float = 30.0,
    ) -> None:
        self.bundle = bundle
        self._name, self._device = name, device or name
        self._samples = Samples(features(train_set.x, bundle.manifest.input), train_set.y)
        self._threads, self._capacity = threads, capacity
        self._upload_seconds_max = upload_seconds_max
        self._learners: dict[int, Learner] = {}
        self._shared_size = bundle.manifest.layout.shared_size
        self.link = LinkQuality()
        private = bundle.weights[self._shared_size :]
        self.memory = DeviceMemory(private) if memory is None else memory

    def learn_from(self, samples: Samples) -> None:
        """From now on from these, in place of the windows it was made with."""
        self._samples = samples

    # Rounds ---------------------------------------------------------------------------------------

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        """One round's local half, and its vectors as payloads."""
        algorithm, began = offer.algorithm, clock.monotonic()
        memory = self.memory.of(algorithm)
        width = self._width(algorithm)
        task = self._task(algorithm, blob, offer.plan, memory, width)
        purpose = ("round", offer.round)
        contribution = drive(
            algorithm.local(task),
            lambda ask: self._run(ask, purpose, stop, width),
            lambda ask: self._losses(ask, width),
        )
        trained, group = contribution.trained, contribution.group
        shape = Shape(algorithm, self.bundle.manifest.layout, self.bundle.parts[1:])
        number = 0 if group is None else int(group[0])
        form = shape.form(number)
        index = self._codec(offer, form.size, form.shapes)
        payloads, residuals = form.encode(
            {name: vectors[0] for name, vectors in contribution.sends.items()},
            offer.codecs[index],
            offer.seed,
            self._device,
            memory.residuals,
        )
        if not offer.codecs[index].feedback:
            residuals = dict(memory.residuals)  # for the next update by one with feedback
        private = contribution.weights[0, self._shared_size :] if width == 0 else memory.private
        kept = {name: vectors[0] for name, vectors in contribution.kept.items()}
        return Outcome(
            payloads=payloads,
            samples=len(self._samples),
            metrics={
                "loss": float(trained.loss[0]),
                "steps": float(trained.steps[0]),
                "seconds": clock.monotonic() - began,
            },
            figures=tuple(float(contribution.figures[name][0]) for name in algorithm.figures),
            group=number,
            codec=index,
            memory=DeviceMemory(private, algorithm, kept, residuals).to_bytes(),
        )

    def _task(
        self,
        algorithm: AnyAlgorithm,
        blob: bytes,
        plan: LocalPlan,
        memory: DeviceMemory,
        width: int,
    ) -> LocalTask:
        layout = self.bundle.manifest.layout
        model = self._model(algorithm, blob)
        known = {name: part for name, part in memory.kept.items() if part.shape == (layout.size,)}
        fresh = any(name not in known for name in algorithm.keeps)
        zeros = np.zeros(layout.size, np.float32)
        task = LocalTask(
            weights=np.concatenate([model["weights"], memory.private])[None],
            brought={name: part for name, part in model.items() if name != "weights"},
            kept={n: (zeros if fresh else known[n])[None] for n in algorithm.keeps},
            fresh=np.array([fresh]),
            samples=np.array([len(self._samples)], np.int64),
            plan=plan,
            layout=layout,
        )
        return narrowed(task, self.bundle.parts[width], width) if width else task

    def _model(self, algorithm: AnyAlgorithm, blob: bytes) -> dict[str, Vector]:
        try:
            return dict(unpack_model(algorithm, from_bytes(blob), self._shared_size))
        except ValueError as error:
            raise UsageError(f"the model does not fit the bundle and the offer: {error}") from error

    def _width(self, algorithm: AnyAlgorithm) -> int:
        """Which of the bundle's widths this device trains; 0 is the whole model."""
        if not isinstance(algorithm, ResourceAware):
            return 0
        parts = self.bundle.parts[: algorithm.widths]
        return widest([part.layout.size for part in parts], self._capacity)

    def _codec(self, offer: Offer, size: int, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The first of the offered codecs that the link carries in time; see `choose`."""
        return choose(offer.codecs, size, self.link, self._upload_seconds_max, shapes)

    # Steps ----------------------------------------------------------------------------------------

    def _learner(self, width: int) -> Learner:
        if width not in self._learners:
            bundle = self.bundle.at_width(width) if width else self.bundle
            self._learners[width] = Learner(bundle, threads=self._threads)
        return self._learners[width]

    def _run(
        self, ask: Pass, purpose: tuple[str | int, ...], stop: Flag, width: int = 0
    ) -> Trained:
        return self._learner(width).run(
            ask,
            [self._samples],
            np.array([key_of(0, "fit", self._name, *purpose)], np.uint64),
            augment=augmenter(ask.plan.augment, self.bundle.manifest.input),
            should_stop=stop.is_set,
        )

    def _losses(self, ask: Losses, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        if ask.weights.shape[1] == self._shared_size < self.bundle.manifest.layout.size:
            private = np.broadcast_to(
                self.memory.private, (len(ask.weights), len(self.memory.private))
            )
            ask = Losses(np.concatenate([ask.weights, private], axis=1))
        return self._learner(width).losses(ask, [self._samples])

    def fit(
        self, start: Vector, plan: LocalPlan, purpose: tuple[str | int, ...], stop: Flag
    ) -> tuple[Vector, dict[str, float]]:
        """Weights `[P]` trained by `plan` from `start`, and figures; `purpose` names the draws."""
        trained = self._run(Pass(start[None], plan), purpose, stop)
        return trained.weights[0], {
            "loss": float(trained.loss[0]),
            "steps": float(trained.steps[0]),
        }

    # What the device infers with ------------------------------------------------------------------

    def fine_tune(self, blob: bytes, plan: LocalPlan, stop: Flag) -> Vector:
        """All weights, fitted to this device alone from the fleet's."""
        weights, _ = self.fit(self.whole(blob), plan, ("personalise",), stop)
        return weights

    def whole(self, blob: bytes) -> Vector:
        """The fleet's weights and this device's private ones as one vector `[P]`.

        Raises:
            UsageError: the model is of another bundle.
        """
        return whole(self.bundle, blob, self.memory)

    def serving(self, blob: bytes) -> Vector:
        """What the device infers with, by the algorithm it last took part in, `[P]`."""
        algorithm, weights = self.memory.algorithm, self.whole(blob)
        vector = from_bytes(blob)
        if algorithm is None or len(vector) != self._shared_size * (
            1 + sum(algorithm.brings.values())
        ):
            return weights
        model = self._model(algorithm, blob)
        layout = self.bundle.manifest.layout
        brought = {name: part for name, part in model.items() if name != "weights"}
        return algorithm.serving(Held(weights, brought, self.memory.kept, layout))


def whole(bundle: Bundle, blob: bytes, memory: DeviceMemory) -> Vector:
    """The weights of a model that came, with the device's own private tensors, `[P]`.

    Raises:
        UsageError: the model is of another bundle.
    """
    vector, size = from_bytes(blob), bundle.manifest.layout.shared_size
    if len(vector) < size or len(vector) % size:
        raise UsageError(f"a model of {vector.size} numbers came, the bundle has {size} shared")
    return np.concatenate([vector[:size], memory.private])


def evaluate(bundle: Bundle, predictor: Predictor, windows: WindowSet) -> float:
    """Accuracy on `windows` (for regression and reconstruction: minus the mean squared error)."""
    manifest = bundle.manifest
    outputs = predictor(features(windows.x, manifest.input))
    return score(manifest.output.task, outputs, windows.y)
