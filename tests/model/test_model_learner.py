"""Training on the shipped bundle: what each setting does and leaves alone."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner, Trained, TrainingDiverged

PLAN = LocalPlan(epochs=1.0, batch=8, rate=0.01)


@dataclass
class Data:
    x: NDArray[np.float32]
    y: NDArray[np.int64]


@pytest.fixture
def data(bundle: Bundle) -> Data:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, *bundle.manifest.input.shape), np.float32)
    return Data(x, rng.integers(0, bundle.manifest.output.size, 20))


def train(learner: Learner, data: Data, plan: LocalPlan = PLAN, **more: Any) -> Trained:
    start = learner.bundle.weights
    return learner.train(start, data.x, data.y, plan, np.random.default_rng(7), **more)


def test_it_learns_what_it_is_shown(learner: Learner, data: Data) -> None:
    first = train(learner, data)
    later = train(learner, data, replace(PLAN, epochs=30, momentum=0.9))
    assert later.loss < first.loss
    assert later.steps == 90 and later.samples == 600


@pytest.mark.parametrize(
    ("epochs", "steps", "samples"), [(0.0, 0, 0), (0.5, 2, 10), (1.0, 3, 20), (1.25, 4, 25)]
)
def test_epochs_may_be_fractions(
    learner: Learner, data: Data, epochs: float, steps: int, samples: int
) -> None:
    trained = train(learner, data, replace(PLAN, epochs=epochs))
    assert (trained.steps, trained.samples) == (steps, samples)
    assert math.isnan(trained.loss) == (steps == 0)


def test_one_seed_gives_one_result_and_arguments_stay(learner: Learner, data: Data) -> None:
    x, y = data.x.copy(), data.y.copy()
    one, two = train(learner, data), train(learner, data)
    assert np.array_equal(one.weights, two.weights)
    assert np.array_equal(x, data.x) and np.array_equal(y, data.y)


def test_a_ragged_batch_counts_only_its_rows(learner: Learner, data: Data) -> None:
    """Five samples in batches of four: the second batch is one sample, three rows are padding."""
    few = Data(data.x[:5], data.y[:5])
    trained = train(learner, few, replace(PLAN, batch=4))
    order = np.random.default_rng(7).permutation(5)
    weights = learner.bundle.weights
    zero = np.zeros((1, len(weights)), np.float32)
    for rows in (order[:4], order[4:]):
        new, _ = learner.step(
            weights[None], zero[0], zero, few.x[rows][None], few.y[rows][None],
            np.ones((1, len(rows)), np.float32), PLAN.rate, 0.0,
        )  # fmt: skip
        weights = new[0]
    assert np.abs(trained.weights - weights).max() < 1e-6


def test_a_sample_of_weight_zero_teaches_nothing(learner: Learner, data: Data) -> None:
    """Rows beyond the tenth weigh nothing, so their content must not matter."""
    weighing = np.r_[np.ones(10), np.zeros(10)].astype(np.float32)
    changed = Data(data.x.copy(), data.y)
    changed.x[10:] += 3
    one = train(learner, data, sample_weight=weighing)
    two = train(learner, changed, sample_weight=weighing)
    assert np.array_equal(one.weights, two.weights)


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_frozen_elements_keep_their_very_bits(learner: Learner, data: Data, clip: float) -> None:
    start = learner.bundle.weights
    trainable = np.arange(len(start)) % 3 == 0
    plan = replace(PLAN, momentum=0.9, weight_decay=0.1, pull=0.1, gradient_norm_max=clip)
    anchor = start + np.float32(1)
    after = train(learner, data, plan, trainable=trainable, anchor=anchor).weights
    assert np.array_equal(after[~trainable], start[~trainable])
    assert np.mean(after[trainable] != start[trainable]) > 0.5


def test_clipping_bounds_the_length_of_a_step(learner: Learner, data: Data) -> None:
    plan = replace(PLAN, batch=20, gradient_norm_max=0.01, rate=1.0)
    moved = train(learner, data, plan).weights - learner.bundle.weights
    assert float(np.linalg.norm(moved)) == pytest.approx(0.01, rel=1e-3)


def test_clipping_that_never_bites_changes_nothing(learner: Learner, data: Data) -> None:
    plan = replace(PLAN, momentum=0.9, weight_decay=0.01, pull=0.2)
    shift = np.full_like(learner.bundle.weights, 0.01)
    free = train(learner, data, plan, shift=shift)
    loose = train(learner, data, replace(plan, gradient_norm_max=1e6), shift=shift)
    assert np.abs(free.weights - loose.weights).max() < 1e-6


def test_shift_moves_by_rate_times_shift(learner: Learner, data: Data) -> None:
    plan = replace(PLAN, batch=20)
    shift = np.full_like(learner.bundle.weights, 0.5)
    plain, shifted = train(learner, data, plan), train(learner, data, plan, shift=shift)
    assert np.allclose(plain.weights - shifted.weights, 0.5 * plan.rate, atol=1e-6)


def test_pull_holds_to_the_anchor(learner: Learner, data: Data) -> None:
    start = learner.bundle.weights
    free = train(learner, data, replace(PLAN, epochs=10))
    held = train(learner, data, replace(PLAN, epochs=10, pull=10.0))
    assert np.linalg.norm(held.weights - start) < 0.7 * np.linalg.norm(free.weights - start)


def test_averaging_the_last_two_steps(learner: Learner, data: Data) -> None:
    """One epoch is three steps; the last two thirds are steps two and three."""
    plan = replace(PLAN, average_last=0.6)

    def stop_after(count: int) -> Trained:
        asked = iter(range(100))
        return train(learner, data, should_stop=lambda: next(asked) >= count)

    second, third = stop_after(2).weights, stop_after(3).weights
    averaged = train(learner, data, plan).weights
    assert np.abs(averaged - (second + third) / 2).max() < 1e-7


def test_augmentation_sees_only_the_rows_there_are(learner: Learner, data: Data) -> None:
    sizes: list[int] = []

    def double(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        sizes.append(len(x))
        return x * np.float32(2)

    doubled = train(learner, data, augment=double)
    beforehand = train(learner, Data(data.x * np.float32(2), data.y))
    assert sizes == [8, 8, 4] and np.array_equal(doubled.weights, beforehand.weights)


def test_what_does_not_fit_is_refused(learner: Learner, data: Data) -> None:
    rng, start = np.random.default_rng(0), learner.bundle.weights
    with pytest.raises(UsageError, match="weights have shape"):
        learner.train(start[:-1], data.x, data.y, PLAN, rng)
    with pytest.raises(UsageError, match="x has shape"):
        learner.train(start, data.x[:, :, :-1], data.y, PLAN, rng)
    with pytest.raises(UsageError, match="n ≥ 1"):
        learner.train(start, data.x[:0], data.y[:0], PLAN, rng)
    with pytest.raises(UsageError, match="labels reach from"):
        learner.train(start, data.x, data.y + 100, PLAN, rng)
    with pytest.raises(UsageError, match="y has shape"):
        learner.train(start, data.x, None, PLAN, rng)
    with pytest.raises(UsageError, match="rate 0"):
        learner.train(start, data.x, data.y, replace(PLAN, rate=0.0), rng)


def test_nan_stops_with_an_error_that_says_what_to_do(learner: Learner, data: Data) -> None:
    data.x[3] = np.nan
    with pytest.raises(TrainingDiverged, match="lower the rate"):
        train(learner, data)
