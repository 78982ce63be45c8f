"""Accuracy against bytes for each codec, on watch data and Fashion-MNIST.

Every row trains a fleet from the bundle's starting point through the shipping graph, encodes and
decodes each update and each patch with the codec that ships, sums with integers, and counts the
bytes of whole messages as the wire has them: an update with its envelope up; the offer, and the
model or every patch the device has missed, down. The other messages of a round (check-in, accept,
receipt, published) are the same for all codecs and are left out.

The reference is plain FedAvg (McMahan et al., 2017) in float32: same model, same cohort, same local
plan, no server momentum, constant rate. Loss is its accuracy less the row's, ratios are its bytes
over the row's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.bench.compression_trials import TRIALS, Trial
from hedgerow.bench.datasets import federated
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.io import data as store
from hedgerow.model.bundle import Bundle
from hedgerow.protocol.learning import Shape, Sums, next_server, seed_of
from hedgerow.seal.codec import summary
from hedgerow.seal.patch import make_patch
from hedgerow.sim.data import FederatedData
from hedgerow.sim.data_settings import DataSettings
from hedgerow.sim.engine import Engine
from hedgerow.sim.learning import Clients, Learning, Sent, outcomes
from hedgerow.sim.postage import COORDINATOR, device_id, sealed_bytes
from hedgerow.sim.residuals import Residuals
from hedgerow.wire.messages import BASE_BYTES, BlobRef, ModelRef, Offer, Patches, Update

LAST = 5
"""Accuracy is the mean over the models of the last so many rounds: rounds of few differ."""
LOSS_POINTS_MAX = 0.5
HASH = "0" * 64


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One codec on one data set. Bytes are those of a device in all its rounds, on average.

    `payload_up` is the vectors alone, `bytes_up` and `bytes_down` whole messages and downloads of
    devices that take part; one that is not chosen fetches nothing before it is. The ratios
    `_at_target` compare with what plain FedAvg has cost up to the first round at which it is
    measured as good as this row less half a point (all its rounds, where it never is).
    """

    dataset: str
    name: str
    up: str
    down: str
    algorithm: str
    rounds: int
    epochs: float
    accuracy: float
    payload_up: int
    bytes_up: int
    bytes_down: int
    accuracy_loss_points: float
    up_ratio: float
    both_ratio: float
    payload_ratio: float
    up_ratio_at_target: float
    both_ratio_at_target: float


class Best(msgspec.Struct, frozen=True):
    """The row with the fewest bytes up among those that lose at most half a point.

    `up_ratio` and `both_ratio` are to the same accuracy: against what plain FedAvg had spent when
    it was first measured as good as the row less half a point. Those of `_all_rounds` are against
    all that its run has spent.
    """

    up_ratio: float
    both_ratio: float
    up_ratio_all_rounds: float
    both_ratio_all_rounds: float
    accuracy_loss_points: float
    name: str


class CompressionResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench compression --json` prints."""

    results: list[Row]
    best: dict[str, Best]


@dataclass
class Course:
    """What a run came to, in sums over all devices and rounds."""

    accuracies: list[tuple[int, float]] = field(default_factory=list)
    updates: int = 0
    payload_up: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def accuracy(self) -> float:
        """The mean over the last rounds."""
        return float(np.mean([accuracy for _, accuracy in self.accuracies[-LAST:]]))


class Scoring(Protocol):
    """Accuracy of weights `[S]` on what the data set is judged by."""

    def __call__(self, weights: Vector) -> float:
        """From 0 to 1."""


@dataclass(frozen=True)
class Ground:
    """A data set with its fleet: what every trial on it shares. `counts [N]` training samples."""

    name: str
    bundle: Bundle
    counts: NDArray[np.int64]
    cohort: int
    learning: Learning
    score: Scoring
    every: int = 5


def run(ground: Ground, trial: Trial, seed: int = 0) -> Course:
    """Train one fleet from the starting point and count its bytes."""
    fleet, course = _Fleet(ground, trial, seed), Course()
    for index in range(trial.rounds):
        fleet.round(index, course)
        if index % ground.every == ground.every - 1 or index >= trial.rounds - LAST:
            course.accuracies.append((index + 1, ground.score(fleet.held)))
    return course


class _Fleet:
    """Server, residuals and held models of one run."""

    def __init__(self, ground: Ground, trial: Trial, seed: int) -> None:
        layout = ground.bundle.manifest.layout
        self.ground, self.trial, self.seed = ground, trial, seed
        self.shape = Shape(trial.algorithm, layout)
        self.form = self.shape.form(0)
        self.server = trial.algorithm.begin(ground.bundle.weights[: layout.shared_size].copy())
        self.held: Vector = self.server.weights
        self.residuals = Residuals(len(ground.counts))
        self.patches: list[int] = []
        self.version = np.zeros(len(ground.counts), np.int64)

    def round(self, index: int, course: Course) -> None:
        """One round of the cohort: down, learn, up, sum, next model."""
        trial, ground = self.trial, self.ground
        plan = trial.algorithm.plan_of_round(trial.plan, index, trial.rounds)
        rng = stream(self.seed, "cohort", index)
        clients = np.sort(rng.permutation(len(ground.counts))[: ground.cohort])
        for client in clients.tolist():
            course.bytes_down += self._down(client, plan)
        seed, sums = seed_of(self.seed, "round", index), Sums()
        model = {**self.server.model, "weights": self.held}
        for client, sent, vectors in self._learned(model, plan, clients, index, seed):
            samples = int(ground.counts[client])
            sums.add(*self.shape.term_of(vectors, sent.figures, samples, 0, sent.loss))
            update = Update(
                round=index + 1,
                base=bytes(BASE_BYTES),
                samples=samples,
                payloads=sent.payloads,
                figures=sent.figures,
                metrics={"loss": sent.loss, "steps": float(sent.steps)},
            )
            course.updates += 1
            course.payload_up += sent.size
            course.bytes_up += sealed_bytes(update, device_id(client))
        self.server = next_server(self.shape, self.server, sums, len(ground.counts))
        self._publish(index)

    def _learned(
        self, model: dict[str, Vector], plan: LocalPlan, clients: Clients, index: int, seed: int
    ) -> Iterator[tuple[int, Sent, list[Vector]]]:
        """Each client's update as it travels, and as the coordinator reads it."""
        learning, up = self.ground.learning, self.trial.up
        came = outcomes(
            *(learning, self.shape, model, plan, clients, index, up, seed, self.residuals)
        )
        for client, _, _, outcome in came:
            if outcome is not None:
                outcome.book(client, learning, self.residuals, self.shape)
                sent, name = outcome.sent, device_id(client)
                yield client, sent, self.form.decode(sent.payloads, up, seed, name)

    def _publish(self, index: int) -> None:
        wanted, codec = self.server.weights, self.trial.down
        if codec is None:
            self.held = wanted
            return
        seed = seed_of(self.seed, "down", index)
        patch, self.held = make_patch(codec, self.held, wanted, seed, self.form.shapes)
        self.patches.append(len(patch))

    def _down(self, client: int, plan: LocalPlan) -> int:
        """Bytes of the offer and of what a device needs to hold today's model."""
        whole = 4 * self.form.size * (1 + sum(self.trial.algorithm.brings.values()))
        missed = self.patches[self.version[client] :]
        self.version[client] = len(self.patches)
        patches = None
        if self.trial.down is not None and missed and sum(missed) < whole and len(missed) <= 64:
            blobs = tuple(BlobRef(sha256=bytes(32), bytes=size) for size in missed)
            patches = Patches(since=1000, codec=self.trial.down, seed=1 << 47, blobs=blobs)
        offer = Offer(
            round=1000,
            model=ModelRef(version=1000, hash=HASH, bytes=whole),
            plan=plan,
            algorithm=self.trial.algorithm,  # type: ignore[arg-type]
            codecs=(self.trial.up,),
            seed=1 << 47,
            patches=patches,
            deadline_seconds=600.0,
        )
        if self.trial.down is not None and not missed:  # it has the model, from its bundle
            whole = 0
        return sealed_bytes(offer, COORDINATOR) + (whole if patches is None else sum(missed))


# Rows ---------------------------------------------------------------------------------------------


def row_of(ground: Ground, trial: Trial, course: Course, reference: Course) -> Row:
    """One run against the reference."""
    wanted = course.accuracy - LOSS_POINTS_MAX / 100
    good = [index for index, accuracy in reference.accuracies if accuracy >= wanted]
    rounds = reference.accuracies[-1][0]
    share = (good[0] if good else rounds) / rounds
    devices = len(ground.counts)
    both, reference_both = (c.bytes_up + c.bytes_down for c in (course, reference))
    return Row(
        dataset=ground.name,
        name=trial.name,
        up=summary(trial.up),
        down="whole models" if trial.down is None else summary(trial.down),
        algorithm=msgspec.json.encode(trial.algorithm).decode(),
        rounds=trial.rounds,
        epochs=trial.plan.epochs,
        accuracy=round(course.accuracy, 4),
        payload_up=round(course.payload_up / devices),
        bytes_up=round(course.bytes_up / devices),
        bytes_down=round(course.bytes_down / devices),
        accuracy_loss_points=round(100 * (reference.accuracy - course.accuracy), 2),
        up_ratio=round(reference.bytes_up / course.bytes_up, 1),
        both_ratio=round(reference_both / both, 1),
        payload_ratio=round(reference.payload_up / course.payload_up, 1),
        up_ratio_at_target=round(share * reference.bytes_up / course.bytes_up, 1),
        both_ratio_at_target=round(share * reference_both / both, 1),
    )


def best_of(rows: Sequence[Row]) -> dict[str, Best]:
    """By data set, the row with the fewest bytes up among those that lose little."""
    best: dict[str, Row] = {}
    for row in rows:
        there = best.get(row.dataset)
        fits = row.accuracy_loss_points <= LOSS_POINTS_MAX
        if fits and (there is None or row.up_ratio_at_target > there.up_ratio_at_target):
            best[row.dataset] = row
    return {
        name: Best(
            up_ratio=row.up_ratio_at_target,
            both_ratio=row.both_ratio_at_target,
            up_ratio_all_rounds=row.up_ratio,
            both_ratio_all_rounds=row.both_ratio,
            accuracy_loss_points=row.accuracy_loss_points,
            name=row.name,
        )
        for name, row in best.items()
    }


# The bench ----------------------------------------------------------------------------------------

Told = Callable[[Row, float], None]


def bench_compression(
    datasets: Sequence[str], trials: Sequence[str], seed: int, workers: int | None, told: Told
) -> CompressionResult:
    """Run the trials of these names (none: all), and the reference; fetches data if need be.

    `told` hears each row as it is done, and the seconds it took.
    """
    from hedgerow.bench.experiments import bundle_of

    rows: list[Row] = []
    for name in datasets:
        store.fetch(name)
        bundle = bundle_of(MODELS[name], Path())
        settings = DataSettings(source=name, clients=FLEETS[name])
        data = federated(settings, bundle.manifest.input, seed)
        with Engine(bundle, data, workers=workers, seed=seed) as engine:
            score = Scores(engine, data, bundle.weights)
            ground = Ground(name, bundle, data.counts, COHORTS[name], engine, score)
            reference: Course | None = None
            for trial in TRIALS[name](bundle.manifest.plan):
                if reference is not None and trials and trial.name not in trials:
                    continue
                started = time.perf_counter()
                course = run(ground, trial, seed)
                reference = course if reference is None else reference
                rows.append(row_of(ground, trial, course, reference))
                told(rows[-1], time.perf_counter() - started)
    return CompressionResult(rows, best_of(rows))


MODELS = {"watch": "watch", "fashion": "fashion"}
FLEETS = {"watch": 10, "fashion": 100}
COHORTS = {"watch": 10, "fashion": 10}


class Scores:
    """Watch: the mean over wearers on their later time. Fashion: the official test set."""

    def __init__(self, engine: Engine, data: FederatedData, start: Vector) -> None:
        self._engine, self._start = engine, start
        self._wearers = np.arange(len(data)) if data.names else None
        self._test = data.test

    def __call__(self, weights: Vector) -> float:
        """Accuracy of weights `[S]`; private tensors are the bundle's."""
        whole = np.concatenate([weights, self._start[len(weights) :]])
        if self._wearers is not None:
            return float(np.mean(self._engine.evaluate_many(whole, self._wearers)))
        assert self._test is not None
        return self._engine.evaluate(whole, self._test.x, self._test.y)
