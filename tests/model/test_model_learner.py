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
from hedgerow.core.streams import key_of, keys_of, mixed, permutations, subkeys
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner, Samples, TrainingDiverged
from hedgerow.model.passes import Losses, Pass

PLAN = LocalPlan(epochs=1.0, batch=8, rate=0.01)
KEYS = keys_of(7, ("client",), np.arange(1))


@dataclass
class One:
    """The answer for one client."""

    weights: NDArray[np.float32]
    steps: int
    samples: int
    loss: float


@dataclass
class Data:
    x: NDArray[np.float32]
    y: NDArray[np.int64]


@pytest.fixture
def data(bundle: Bundle) -> Data:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, *bundle.manifest.input.shape), np.float32)
    return Data(x, rng.integers(0, bundle.manifest.output.size, 20))


def train(
    learner: Learner,
    data: Data,
    plan: LocalPlan = PLAN,
    *,
    augment: Any = None,
    should_stop: Any = None,
    sample_weight: NDArray[np.float32] | None = None,
    **more: Any,
) -> One:
    ask = Pass(learner.bundle.weights[None], plan, **more)
    samples = Samples(data.x, data.y, sample_weight)
    got = learner.run(ask, [samples], KEYS, augment=augment, should_stop=should_stop)
    return One(got.weights[0], int(got.steps[0]), int(got.samples[0]), float(got.loss[0]))


def order_of(count: int, epoch: int = 0) -> NDArray[np.int64]:
    keys = mixed(KEYS ^ key_of(0, "pass", "train"))
    order: NDArray[np.int64] = permutations(subkeys(keys, epoch), count)[0]
    return order


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
    order = order_of(5)
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


@pytest.mark.parametrize(("clip", "calibrate"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1.0)])
def test_frozen_elements_keep_their_very_bits(
    learner: Learner, data: Data, clip: float, calibrate: float
) -> None:
    start = learner.bundle.weights
    trainable = np.arange(len(start)) % 3 == 0
    plan = replace(
        PLAN,
        momentum=0.9,
        weight_decay=0.1,
        pull=0.1,
        gradient_norm_max=clip,
        calibrate=calibrate,
    )
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

    def stop_after(count: int) -> One:
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
    start = learner.bundle.weights[None]

    def refused(
        words: str,
        weights: NDArray[np.float32] = start,
        x: Any = data.x,
        y: Any = data.y,
        **plan: Any,
    ) -> None:
        with pytest.raises(UsageError, match=words):
            learner.run(Pass(weights, replace(PLAN, **plan)), [Samples(x, y)], KEYS)

    refused("weights have shape", start[:, :-1])
    refused("x has shape", x=data.x[:, :, :-1])
    refused("n ≥ 1", x=data.x[:0], y=data.y[:0])
    refused("x is float64", x=data.x.astype(np.float64))
    refused("labels reach from", y=data.y + 100)
    refused("y has shape", y=None)
    refused("rate 0", rate=0.0)
    with pytest.raises(UsageError, match="1 rows of weights and 1 keys for 2 clients"):
        learner.run(Pass(start, PLAN), [Samples(data.x, data.y)] * 2, KEYS)


def test_nan_stops_with_an_error_that_says_what_to_do(learner: Learner, data: Data) -> None:
    data.x[3] = np.nan
    with pytest.raises(TrainingDiverged, match="lower the rate"):
        train(learner, data)


# Many clients at once -----------------------------------------------------------------------------


def fleet(bundle: Bundle, counts: list[int], own: bool = True) -> list[Samples]:
    """Clients with so many samples each: arrays of their own, or rows of common ones."""
    rng = np.random.default_rng(3)
    total = sum(counts)
    x = rng.standard_normal((total, *bundle.manifest.input.shape), np.float32)
    y = rng.integers(0, bundle.manifest.output.size, total)
    ends = np.cumsum(counts)
    parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    if own:
        return [Samples(x[part].copy(), y[part].copy()) for part in parts]
    return [Samples(x[part], y[part]) for part in parts]


def spread(bundle: Bundle, count: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(4).standard_normal((count, len(bundle.weights)), np.float32)
    return np.asarray(bundle.weights + np.float32(0.01) * noise, np.float32)


FULL = replace(
    PLAN, epochs=1.5, momentum=0.9, weight_decay=0.01, pull=0.1, average_last=0.5, calibrate=1.0
)
COUNTS = [20, 7, 8, 33, 20, 1, 20, 9, 3]


@pytest.mark.parametrize(
    "plan",
    [PLAN, FULL, replace(FULL, gradient_norm_max=0.5)],
    ids=["plain", "all of it", "clipped"],
)
@pytest.mark.parametrize("ascent", [0.0, 0.05])
def test_who_shares_the_batch_changes_no_bit(
    learner: Learner, plan: LocalPlan, ascent: float
) -> None:
    clients, keys = fleet(learner.bundle, COUNTS), keys_of(1, ("c",), np.arange(len(COUNTS)))
    weights = spread(learner.bundle, len(COUNTS))
    shift = np.float32(0.1) * spread(learner.bundle, len(COUNTS))
    whole = learner.run(Pass(weights, plan, shift=shift, ascent=ascent), clients, keys)
    views = fleet(learner.bundle, COUNTS, own=False)
    common = learner.run(Pass(weights, plan, shift=shift, ascent=ascent), views, keys)
    assert np.array_equal(common.weights, whole.weights)
    for some in ([8], [0, 3], [6, 5, 4, 2], [1, 7]):
        part = Pass(weights[some], plan, shift=shift[some], ascent=ascent)
        got = learner.run(part, [clients[k] for k in some], keys[some])
        assert np.array_equal(got.weights, whole.weights[some])
        assert np.array_equal(got.loss, whole.loss[some])
        assert np.array_equal(got.steps, whole.steps[some])
        assert np.array_equal(got.samples, whole.samples[some])


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_labels_may_be_whole_numbers_of_any_kind(learner: Learner, kind: type) -> None:
    clients, keys = fleet(learner.bundle, [20, 20, 5]), keys_of(1, ("c",), np.arange(3))
    small = [Samples(client.x, np.asarray(client.y, kind)) for client in clients]
    weights = spread(learner.bundle, 3)
    wanted = learner.run(Pass(weights, PLAN), clients, keys)
    assert np.array_equal(learner.run(Pass(weights, PLAN), small, keys).weights, wanted.weights)


def test_each_client_takes_the_steps_its_samples_make(learner: Learner) -> None:
    clients, keys = fleet(learner.bundle, COUNTS), keys_of(1, ("c",), np.arange(len(COUNTS)))
    got = learner.run(Pass(spread(learner.bundle, len(COUNTS)), PLAN), clients, keys)
    assert got.samples.tolist() == COUNTS
    assert got.steps.tolist() == [-(-count // 8) for count in COUNTS]


def test_one_who_diverges_spoils_nobody_else(learner: Learner) -> None:
    clients, keys = fleet(learner.bundle, [20, 20, 20]), keys_of(1, ("c",), np.arange(3))
    weights = spread(learner.bundle, 3)
    well = learner.run(Pass(weights, PLAN), clients, keys)
    clients[1].x[4] = np.nan
    with pytest.raises(TrainingDiverged, match="lower the rate"):
        learner.run(Pass(weights, PLAN), clients, keys)
    got = learner.run(Pass(weights, PLAN), clients, keys, tolerant=True)
    assert got.diverged is not None and got.diverged.tolist() == [False, True, False]
    assert np.array_equal(got.weights[[0, 2]], well.weights[[0, 2]])
    assert np.array_equal(got.weights[1], weights[1]) and math.isnan(got.loss[1])
    after = learner.run(Pass(weights[:1], PLAN), [clients[0]], keys[:1])
    assert np.array_equal(after.weights[0], well.weights[0])  # nor whoever comes later


def test_names_of_passes_tell_their_draws_apart(learner: Learner, data: Data) -> None:
    first = train(learner, data)
    assert not np.array_equal(first.weights, train(learner, data, name="other").weights)
    assert np.array_equal(first.weights, train(learner, data, name="train").weights)


def test_no_anchor_is_where_each_began(learner: Learner) -> None:
    """Pulled by its own start, a client does not care where the others began."""
    plan = replace(PLAN, pull=5.0)
    clients, keys = fleet(learner.bundle, [20, 20]), keys_of(1, ("c",), np.arange(2))
    weights = spread(learner.bundle, 2)
    both = learner.run(Pass(weights, plan), clients, keys)
    for k in range(2):
        own = Pass(weights[k : k + 1], plan, anchor=weights[k])
        alone = learner.run(own, [clients[k]], keys[k : k + 1])
        assert np.abs(both.weights[k] - alone.weights[0]).max() < 1e-6


# Climbing first -----------------------------------------------------------------------------------


def gradient(learner: Learner, weights: NDArray[np.float32], data: Data) -> NDArray[np.float32]:
    zero = np.zeros((1, len(weights)), np.float32)
    ones = np.ones((1, len(data.y)), np.float32)
    new, _ = learner.step(weights[None], zero[0], zero, data.x[None], data.y[None], ones, 1.0, 0.0)
    found: NDArray[np.float32] = weights - new[0]
    return found


def test_a_sharpness_aware_step_uses_the_gradient_from_uphill(learner: Learner, data: Data) -> None:
    start, plan = learner.bundle.weights, replace(PLAN, batch=20, rate=0.1)
    slope = gradient(learner, start, data)
    ahead = start + np.float32(0.5) * slope / np.linalg.norm(slope)
    wanted = start - np.float32(0.1) * gradient(learner, ahead, data)
    assert np.abs(train(learner, data, plan, ascent=0.5).weights - wanted).max() < 1e-6
    plain = train(learner, data, plan).weights
    assert np.abs(plain - wanted).max() > 1e-4


def test_a_direction_to_climb_along_may_be_given(learner: Learner, data: Data) -> None:
    start, plan = learner.bundle.weights, replace(PLAN, batch=20, rate=0.1)
    along = spread(learner.bundle, 1)[0] - start
    ahead = start + np.float32(0.5) * along / np.linalg.norm(along)
    wanted = start - np.float32(0.1) * gradient(learner, ahead, data)
    got = train(learner, data, plan, ascent=0.5, ascent_along=along).weights
    assert np.abs(got - wanted).max() < 1e-6
    nowhere = train(learner, data, plan, ascent=0.5, ascent_along=np.zeros_like(along)).weights
    assert np.abs(nowhere - train(learner, data, plan).weights).max() < 1e-6


# Losses -------------------------------------------------------------------------------------------


def test_losses_are_those_of_each_model_on_each_clients_samples(learner: Learner) -> None:
    clients, models = fleet(learner.bundle, [70, 5, 130]), spread(learner.bundle, 3)
    got = learner.losses(Losses(models), clients)
    assert got.shape == (3, 3)
    for k, client in enumerate(clients):
        assert client.y is not None
        for c, weights in enumerate(models):
            zero = np.zeros((1, len(weights)), np.float32)
            ones = np.ones((1, len(client.x)), np.float32)
            _, loss = learner.step(
                weights[None], zero[0], zero, client.x[None], client.y[None], ones, 1.0, 0.0
            )
            assert got[k, c] == pytest.approx(float(loss[0]), rel=1e-5)
    assert np.array_equal(learner.losses(Losses(models[1:2]), clients[2:]), got[2:, 1:2])
