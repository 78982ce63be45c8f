"""Logit calibration: an offset of the bias while training, and nothing left of it after."""

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import Bundle
from hedgerow.model.calibration import ABSENT, calibration_of
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass

PLAN = LocalPlan(epochs=1.0, batch=20, rate=0.1, calibrate=1.0)
KEYS = keys_of(3, (), np.arange(1))


@pytest.fixture(scope="module")
def samples(bundle: Bundle) -> Samples:
    """Ten of label 0, six of label 3, four of label 6."""
    x = np.random.default_rng(0).standard_normal((20, *bundle.manifest.input.shape), np.float32)
    return Samples(x, np.repeat([0, 3, 6], [10, 6, 4]))


def offset_of(bundle: Bundle) -> NDArray[np.float32]:
    """By hand: frequencies of labels, those absent as a tenth of a sample."""
    counts = np.array([10, ABSENT, ABSENT, 6, ABSENT, ABSENT, 4])
    offset = np.zeros(bundle.manifest.layout.size, np.float32)
    offset[bundle.manifest.layout.slices["head.bias"]] = np.log(counts / counts.sum())
    return offset


def run(learner: Learner, samples: Samples, plan: LocalPlan) -> NDArray[np.float32]:
    trained = learner.run(Pass(learner.bundle.weights[None], plan), [samples], KEYS)
    weights: NDArray[np.float32] = trained.weights[0]
    return weights


def test_offsets_by_hand(bundle: Bundle, samples: Samples) -> None:
    found = calibration_of(bundle.manifest, 1.0, [samples])
    wanted = offset_of(bundle)[bundle.manifest.layout.slices["head.bias"]]
    assert np.allclose(found.offsets[0], wanted, atol=1e-6)
    half = calibration_of(bundle.manifest, 0.5, [samples])
    assert np.allclose(half.offsets, found.offsets / 2, atol=1e-6)


@pytest.mark.parametrize("label", [-1, 7])
def test_labels_there_are_none_of_are_refused(
    learner: Learner, samples: Samples, label: int
) -> None:
    wrong = Samples(samples.x, np.repeat([0, label], [19, 1]))
    with pytest.raises(UsageError, match=r"labels reach from .*; wanted 0 to 6"):
        run(learner, wrong, PLAN)


def test_samples_that_count_more_are_more_frequent(bundle: Bundle, samples: Samples) -> None:
    heavy = Samples(samples.x, samples.y, np.repeat([1, 1, 5], [10, 6, 4]).astype(np.float32))
    found = calibration_of(bundle.manifest, 1.0, [heavy]).offsets[0]
    assert found[6] > found[0] > found[3] > found[1]


def test_a_step_is_that_of_the_loss_with_offset_logits(learner: Learner, samples: Samples) -> None:
    """One full batch: the gradient is taken where the bias has the offset, the step is plain."""
    bundle = learner.bundle
    start, offset = bundle.weights, offset_of(bundle)
    assert samples.y is not None
    zero, ones = np.zeros((1, len(start)), np.float32), np.ones((1, 20), np.float32)
    new, _ = learner.step(
        (start + offset)[None], start, zero, samples.x[None], samples.y[None], ones, 0.1, 0.0
    )
    assert np.abs(run(learner, samples, PLAN) - (new[0] - offset)).max() < 1e-5
    plain = run(learner, samples, replace(PLAN, calibrate=0.0))
    assert np.abs(plain - run(learner, samples, PLAN)).max() > 1e-3


@pytest.mark.parametrize("clip", [0.0, 1e6])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pull_and_decay_do_not_see_the_offset(
    learner: Learner, samples: Samples, clip: float, momentum: float
) -> None:
    """With both, against the formula in NumPy, gradients from the graph."""
    plan = replace(
        PLAN, epochs=3, pull=0.5, weight_decay=0.2, gradient_norm_max=clip, momentum=momentum
    )
    start, offset = learner.bundle.weights, offset_of(learner.bundle)
    assert samples.y is not None
    zero, ones = np.zeros((1, len(start)), np.float32), np.ones((1, 20), np.float32)
    w, v = start.copy(), np.zeros_like(start)
    for _ in range(3):
        there = (w + offset)[None]
        new, _ = learner.step(there, start, zero, samples.x[None], samples.y[None], ones, 1.0, 0.0)
        slope = there[0] - new[0] + np.float32(0.5) * (w - start) + np.float32(0.2) * w
        v = np.float32(momentum) * v + slope
        w = w - np.float32(0.1) * v
    assert np.abs(run(learner, samples, plan) - w).max() < 1e-5


def test_frozen_elements_and_untrained_clients_keep_their_bits(
    learner: Learner, samples: Samples
) -> None:
    start = learner.bundle.weights
    trainable = np.ones(len(start), np.bool_)
    trainable[learner.bundle.manifest.layout.slices["head.bias"]] = False
    ask = Pass(start[None], PLAN, trainable=trainable)
    after = learner.run(ask, [samples], KEYS).weights[0]
    assert np.array_equal(after[~trainable], start[~trainable])
    stopped = learner.run(Pass(start[None], PLAN), [samples], KEYS, should_stop=lambda: True)
    assert np.array_equal(stopped.weights[0], start)


def test_a_model_without_a_bias_is_refused(learner: Learner, samples: Samples) -> None:
    manifest = learner.bundle.manifest
    bare = replace(manifest, output=replace(manifest.output, bias=""))
    with pytest.raises(UsageError, match="calibrate = 0"):
        calibration_of(bare, 1.0, [samples])
