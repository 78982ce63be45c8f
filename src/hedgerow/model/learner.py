"""Training: a bundle's one-step graph, called over minibatches.

The graph computes `w ← w − rate·(∇ℓ(w) + pull·(w − anchor) + shift)`. Momentum and weight decay
need no second graph: with `shift = correction + λ·w + m·v` the step taken is `rate·v'`, so the new
velocity is `(w − w')/rate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.bundle import TRAIN, Bundle
from hedgerow.model.session import open_session

Array = NDArray[np.float32]
Augment = Callable[[Array, "np.random.Generator"], Array]
INPUTS = ("weights", "anchor", "shift", "x", "y", "sample_weight", "rate", "pull")
OUTPUTS = ("weights_next", "loss")


class TrainingDiverged(UsageError):
    """The loss or the weights left the finite numbers; lower the rate or clip the gradient."""


@dataclass(frozen=True)
class Trained:
    """What training left: weights `[P]`, steps taken, samples seen, mean loss over them (NaN if
    no step was taken).
    """

    weights: Vector
    steps: int
    samples: int
    loss: float


class Learner:
    """Trains any weights of one bundle. Not safe to share between threads."""

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        self.bundle = bundle
        self._session = open_session(bundle.file(TRAIN), threads=threads)
        self._core = self._session._sess

    def step(
        self,
        weights: Array,
        anchor: Vector,
        shift: Array,
        x: Array,
        y: NDArray[np.generic],
        sample_weight: Array,
        rate: float,
        pull: float,
    ) -> tuple[Array, Array]:
        """One step for K clients at once, the graph as it is.

        Shapes: weights and shift `[K, P]`, anchor `[P]`, x `[K, B, *shape]`, sample_weight
        `[K, B]`, y `[K, B]` int64 for classification, `[K, B, size]` float32 for regression,
        `[K, B, *shape]` for reconstruction. Returns the new weights `[K, P]` and losses `[K]`.
        """
        scalars = np.float32(rate), np.float32(pull)
        values = (weights, anchor, shift, x, y, sample_weight, *map(np.asarray, scalars))
        new, loss = self._core.run(list(OUTPUTS), dict(zip(INPUTS, values, strict=True)), None)
        return new, loss

    def train(
        self,
        weights: Vector,
        x: Array,
        y: NDArray[np.generic] | None,
        plan: LocalPlan,
        rng: np.random.Generator,
        *,
        sample_weight: Array | None = None,
        anchor: Vector | None = None,
        shift: Vector | None = None,
        trainable: NDArray[np.bool_] | None = None,
        augment: Augment | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Trained:
        """Train `weights [P]` on `x [n, *shape]` and `y` by `plan`; the arguments stay unchanged.

        `y` is `[n]` integers for classification, `[n, size]` for regression; for reconstruction
        None means the input itself, before `augment`. `sample_weight [n]` weighs the samples (1),
        `anchor [P]` is what `plan.pull` pulls to (the starting weights), `shift [P]` is added to
        every gradient (0), elements where `trainable [P]` is False keep their value exactly.
        `augment` maps a batch `[B, *shape]` to one of the same shape. `should_stop` is asked
        before every step. `plan.augment` is names only: whoever calls resolves them.

        Raises:
            UsageError: arguments do not fit the bundle or the plan cannot be run.
            TrainingDiverged: the loss or the weights left the finite numbers.
        """
        labels = self._check(weights, x, y, plan)
        size = min(plan.batch, len(x))
        shape = x.shape[1:]
        run = _Run(self._session, plan, weights, shape, labels, size, anchor, shift, trainable)
        weighing = np.ones(len(x), np.float32) if sample_weight is None else sample_weight
        batches = list(_batches(len(x), size, plan.epochs, rng))
        averaged = _Average(len(batches) - math.ceil(plan.average_last * len(batches)))
        loss_total, samples, steps = 0.0, 0, 0
        for rows in batches:
            if should_stop is not None and should_stop():
                break
            run.fill(x, labels, weighing, rows)
            if augment is not None:
                run.x[0, : len(rows)] = augment(run.x[0, : len(rows)].copy(), rng)
            loss = run.step()
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss became {loss} at step {steps + 1} with rate {plan.rate}; "
                    "lower the rate, set gradient_norm_max, or look for NaN in the samples"
                )
            loss_total += loss * len(rows)
            samples += len(rows)
            averaged.add(steps, run.weights)
            steps += 1
        final = averaged.result(run.weights)
        if not np.isfinite(final).all():
            raise TrainingDiverged(f"the weights left the finite numbers after {steps} steps")
        return Trained(final, steps, samples, loss_total / samples if samples else math.nan)

    def _check(
        self, weights: Vector, x: Array, y: NDArray[np.generic] | None, plan: LocalPlan
    ) -> NDArray[np.generic]:
        """The targets in the graph's type; refuses what does not fit."""
        manifest = self.bundle.manifest
        if weights.shape != (manifest.layout.size,):
            raise UsageError(
                f"weights have shape {weights.shape}, the model wants ({manifest.layout.size},)"
            )
        if x.shape[1:] != manifest.input.shape or len(x) == 0:
            raise UsageError(
                f"x has shape {x.shape}, the model wants (n, *{manifest.input.shape}) with n ≥ 1"
            )
        if plan.rate <= 0 or plan.batch < 1 or plan.epochs < 0 or not 0 <= plan.average_last <= 1:
            raise UsageError(
                f"the plan has rate {plan.rate}, batch {plan.batch}, epochs {plan.epochs}, "
                f"average_last {plan.average_last}; wanted rate > 0, batch ≥ 1, epochs ≥ 0 and "
                "average_last from 0 to 1"
            )
        task, size = manifest.output.task, manifest.output.size
        if y is None and task == "reconstruction":
            y = x
        shapes = {"classification": (), "regression": (size,), "reconstruction": x.shape[1:]}
        if y is None or y.shape != (len(x), *shapes[task]):
            got = None if y is None else y.shape
            raise UsageError(f"y has shape {got}; {task} wants {(len(x), *shapes[task])}")
        if task != "classification":
            return y.astype(np.float32, copy=False)
        if y.min() < 0 or y.max() >= size:
            raise UsageError(f"labels reach from {y.min()} to {y.max()}; wanted 0 to {size - 1}")
        return y.astype(np.int64, copy=False)


class _Run:
    """Buffers bound to the graph for one call of `train`: weights go back and forth between two."""

    def __init__(
        self,
        session: ort.InferenceSession,
        plan: LocalPlan,
        weights: Vector,
        shape: tuple[int, ...],
        labels: NDArray[np.generic],
        size: int,
        anchor: Vector | None,
        shift: Vector | None,
        trainable: NDArray[np.bool_] | None,
    ) -> None:
        self._core = session._sess
        self._plan = plan
        self._pair = [np.array(weights, np.float32)[None], np.empty((1, len(weights)), np.float32)]
        self._turn = 0
        self._clipped = plan.gradient_norm_max > 0
        self._correction = np.zeros_like(self._pair[0]) if shift is None else shift[None].copy()
        self._anchor = np.array(weights if anchor is None else anchor, np.float32)
        self._frozen = None if trainable is None else ~trainable
        self._velocity = np.zeros_like(self._pair[0])
        self._gradient = np.empty_like(self._pair[0])
        self._spare = np.empty_like(self._pair[0])
        self._corrects = shift is not None
        self._shift = np.zeros_like(self._pair[0]) if self._clipped else self._correction.copy()
        self.x = np.zeros((1, size, *shape), np.float32)
        self._y = np.zeros((1, size, *labels.shape[1:]), labels.dtype)
        self._sample_weight = np.zeros((1, size), np.float32)
        self._loss = np.zeros(1, np.float32)
        # With clipping the graph only computes the gradient: rate 1, nothing added.
        self._rate = np.array(1.0 if self._clipped else plan.rate, np.float32)
        self._pull = np.array(0.0 if self._clipped else plan.pull, np.float32)
        self._bindings = [self._bind(session, turn) for turn in (0, 1)]

    @property
    def weights(self) -> Vector:
        """The current weights `[P]`, a view."""
        current: Vector = self._pair[self._turn][0]
        return current

    def fill(
        self,
        x: Array,
        labels: NDArray[np.generic],
        weighing: Array,
        rows: NDArray[np.int64],
    ) -> None:
        """Copy a batch in. A ragged one leaves older rows behind it, at weight 0."""
        count = len(rows)
        np.take(x, rows, axis=0, out=self.x[0, :count], mode="clip")
        np.take(labels, rows, axis=0, out=self._y[0, :count], mode="clip")
        np.take(weighing, rows, out=self._sample_weight[0, :count], mode="clip")
        self._sample_weight[0, count:] = 0

    def step(self) -> float:
        """Take one step and return its loss."""
        plan = self._plan
        old, new = self._pair[self._turn], self._pair[1 - self._turn]
        if not self._clipped and (plan.momentum or plan.weight_decay):
            np.multiply(self._velocity, np.float32(plan.momentum), out=self._shift)
            if self._corrects:
                self._shift += self._correction
            if plan.weight_decay:
                self._shift += np.multiply(old, np.float32(plan.weight_decay), out=self._spare)
        self._core.run_with_iobinding(self._bindings[self._turn]._iobinding, None)
        if self._clipped:
            self._take_clipped(old, new)
        elif plan.momentum:
            np.subtract(old, new, out=self._velocity)
            self._velocity /= np.float32(plan.rate)
        if self._frozen is not None:
            np.copyto(new[0], old[0], where=self._frozen)
        self._turn = 1 - self._turn
        return float(self._loss[0])

    def _take_clipped(self, old: Array, new: Array) -> None:
        """Make the step in NumPy from the bare gradient, with nothing allocated."""
        plan, gradient, spare = self._plan, self._gradient, self._spare
        np.subtract(old, new, out=gradient)
        if self._frozen is not None:
            gradient[0, self._frozen] = 0
        norm = math.sqrt(np.dot(gradient[0], gradient[0]))
        if norm > plan.gradient_norm_max:
            gradient *= np.float32(plan.gradient_norm_max / norm)
        if plan.pull:
            np.subtract(old, self._anchor, out=spare)
            spare *= np.float32(plan.pull)
            gradient += spare
        if self._corrects:
            gradient += self._correction
        if plan.weight_decay:
            gradient += np.multiply(old, np.float32(plan.weight_decay), out=spare)
        if plan.momentum:
            self._velocity *= np.float32(plan.momentum)
            self._velocity += gradient
            gradient = self._velocity
        np.multiply(gradient, np.float32(plan.rate), out=spare)
        np.subtract(old, spare, out=new)

    def _bind(self, session: ort.InferenceSession, turn: int) -> ort.IOBinding:
        binding = session.io_binding()
        values: list[NDArray[np.generic]] = [self._pair[turn], self._anchor, self._shift]
        values += [self.x, self._y, self._sample_weight, self._rate, self._pull]
        for name, array in zip(INPUTS, values, strict=True):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in zip(OUTPUTS, (self._pair[1 - turn], self._loss), strict=True):
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding


class _Average:
    """The mean of the weights after each step from `first` on."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._count = 0
        self._total: NDArray[np.float64] | float = 0.0

    def add(self, step: int, weights: Vector) -> None:
        """Count the weights after step number `step` (from 0)."""
        if step >= self._first:
            self._total = self._total + weights.astype(np.float64)
            self._count += 1

    def result(self, last: Vector) -> Vector:
        """The mean, or a copy of `last` if nothing was counted."""
        if self._count == 0:
            return last.copy()
        return np.asarray(self._total / self._count, np.float32)


def _batches(
    count: int, size: int, epochs: float, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each batch: a fresh order every epoch, the last epoch perhaps cut short."""
    left = round(epochs * count)
    while left > 0:
        order = rng.permutation(count)[:left]
        left -= len(order)
        for start in range(0, len(order), size):
            yield order[start : start + size]
