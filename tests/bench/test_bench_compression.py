"""What the compression bench counts, on a fleet small enough to count by hand."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.bench.compression import Course, Ground, best_of, row_of, run
from hedgerow.bench.compression_trials import Trial
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.model.passes import Trained
from hedgerow.seal.codec import Codec
from hedgerow.seal.eden import Eden
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK
from hedgerow.serve.apps import app_bundle
from hedgerow.sim.learning import Clients, Model

TARGET = np.float32(0.5)
CLIENTS, COHORT = 6, 2
EDEN = Codec(stages=(Eden(bits=1),), feedback=True)
STC = Codec(stages=(TopK(share=0.05), Ternary()), feedback=True)


class Pull:
    """Every client goes half of the way from where it starts to `TARGET`, in all elements."""

    def contributions(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Iterator[tuple[Clients, Contribution]]:
        for client in clients:
            weights = model["weights"][None]
            delta = (TARGET - weights) / np.float32(2)
            one = np.ones(1, np.int64)
            trained = Trained(weights + delta, one, one, np.zeros(1))
            yield np.array([client]), Contribution({"delta": delta}, trained.weights, trained)


def score(weights: Vector) -> float:
    return float(1 - np.mean(np.abs(weights - TARGET)))


@pytest.fixture(scope="module")
def ground() -> Ground:
    counts = np.full(CLIENTS, 1024, np.int64)
    return Ground("toy", app_bundle("watch"), counts, COHORT, Pull(), score)


def trial(rounds: int, up: Codec = Codec(), down: Codec | None = None) -> Trial:  # noqa: B008
    return Trial("toy", FedAvg(), LocalPlan(), rounds, up, down)


def test_float32_by_hand(ground: Ground) -> None:
    course = run(ground, trial(8))
    size = ground.bundle.manifest.layout.shared_size
    assert course.updates == 8 * COHORT
    assert course.payload_up == 8 * COHORT * 4 * size
    assert 100 < course.bytes_up / (8 * COHORT) - 4 * size < 200  # the envelope
    assert 8 * COHORT * 4 * size < course.bytes_down < 8 * COHORT * (4 * size + 2000)
    start = ground.bundle.weights[:size]
    left = np.mean(np.abs(start - TARGET)) * np.array([2.0**-n for n in range(4, 9)])
    assert course.accuracy == pytest.approx(1 - left.mean(), abs=1e-6)
    assert [index for index, _ in course.accuracies] == [4, 5, 6, 7, 8]


def test_a_device_that_is_always_there_fetches_one_patch_a_round(ground: Ground) -> None:
    everybody = replace(ground, cohort=CLIENTS)
    offers = run(everybody, trial(1, STC, EDEN)).bytes_down / CLIENTS  # it has the model
    course = run(everybody, trial(12, STC, EDEN))
    patch = 4 + (ground.bundle.manifest.layout.shared_size + 7) // 8
    rest = course.bytes_down / CLIENTS - 12 * offers - 11 * patch
    assert 11 * 50 < rest < 11 * 250  # what the offer says of the patch


def test_a_device_that_was_away_fetches_every_patch_it_missed(ground: Ground) -> None:
    offers = run(ground, trial(1, STC, EDEN)).bytes_down / COHORT
    patch = 4 + (ground.bundle.manifest.layout.shared_size + 7) // 8
    version, fetched = np.zeros(CLIENTS, int), 0
    for index in range(12):
        for client in stream(0, "cohort", index).permutation(CLIENTS)[:COHORT]:
            fetched += index - version[client]
            version[client] = index
    assert fetched > 2 * 12 * COHORT // 2
    rest = run(ground, trial(12, STC, EDEN)).bytes_down - 12 * COHORT * offers - fetched * patch
    assert fetched * 50 < rest < fetched * 250


def test_a_row_compares_with_the_reference(ground: Ground) -> None:
    reference = run(ground, trial(8))
    row = row_of(ground, trial(8, STC, STC), run(ground, trial(8, STC, STC)), reference)
    assert row.payload_ratio == pytest.approx(32 / (0.05 * (5.6 + 1)), rel=0.1)
    assert row.accuracy_loss_points == pytest.approx(
        100 * (reference.accuracy - row.accuracy), abs=0.02
    )
    same = row_of(ground, trial(8), reference, reference)
    assert (same.up_ratio, same.both_ratio, same.accuracy_loss_points) == (1.0, 1.0, 0.0)
    assert best_of([same])["toy"].name == "toy"


def test_the_best_is_held_against_what_the_same_accuracy_took(ground: Ground) -> None:
    reference = Course([(4, 0.5), (8, 0.8), (12, 0.9)] + 5 * [(20, 0.9)], 20, 0, 2_000, 2_000)
    other = Course(5 * [(20, 0.804)], 20, 1, 10, 90)
    reference.payload_up = 1_900
    row = row_of(ground, trial(20), other, reference)
    assert (row.up_ratio, row.both_ratio) == (200.0, 40.0)
    assert (row.up_ratio_at_target, row.both_ratio_at_target) == (80.0, 16.0)  # by round 8 of 20
    best = best_of([structs.replace(row, accuracy_loss_points=0.4)])["toy"]
    assert (best.up_ratio, best.up_ratio_all_rounds) == (80.0, 200.0)
    assert best_of([row]) == {}  # it loses more than half a point
