"""Int8 on a model that has learned: right after calibration on the device, refused without."""

from dataclasses import dataclass

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import Bundle, QuantisedActivation, QuantisedTensor
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.metrics import accuracy
from hedgerow.model.passes import Pass
from hedgerow.model.predictor import Predictor
from hedgerow.model.quantise import digest, quantise


@dataclass
class Learned:
    weights: Vector
    seen: NDArray[np.float32]
    fresh: NDArray[np.float32]
    labels: NDArray[np.int64]


def swings(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Which of seven speeds something swings at. Inputs `[count, 6, 100]`."""
    label = np.arange(count) % 7
    phase = 2 * np.pi * (0.3 + 0.4 * label[:, None]) * np.arange(100) / 50
    phase = phase + rng.uniform(0, 2 * np.pi, (count, 1))
    x = rng.normal(0, 0.05, (count, 6, 100))
    x[:, 0] += 2 * np.sin(phase)
    x[:, 1] += 2
    x[:, 5] += 1.3 * np.cos(phase)
    return x.astype(np.float32), label.astype(np.int64)


@pytest.fixture(scope="module")
def learned(bundle: Bundle, learner: Learner) -> Learned:
    rng = np.random.default_rng(5)
    x, y = swings(280, rng)
    plan = LocalPlan(epochs=15, batch=16, rate=0.05, momentum=0.9, gradient_norm_max=1.0)
    ask = Pass(bundle.weights[None], plan)
    weights = learner.run(ask, [Samples(x, y)], keys_of(5, (), np.arange(1))).weights[0]
    return Learned(weights, x, *swings(280, rng))


def agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.mean(one.argmax(1) == other.argmax(1)))


def test_a_few_windows_make_int8_right_after_learning(bundle: Bundle, learned: Learned) -> None:
    exact = Predictor(bundle, weights=learned.weights)(learned.fresh)
    assert accuracy(exact, learned.labels) > 0.9
    small = Predictor(
        bundle, weights=learned.weights, precision="int8", calibration=learned.seen[:64]
    )(learned.fresh)
    assert agreement(small, exact) >= 0.97


def test_the_ranges_from_before_learning_would_be_wrong(bundle: Bundle, learned: Learned) -> None:
    """A manifest that lies about whose ranges they are: what the check is there to prevent."""
    lying = replace(bundle.manifest, ranges_weights=digest(learned.weights))
    stale = Bundle(lying, bundle.files, bundle.weights)
    exact = Predictor(bundle, weights=learned.weights)(learned.fresh)
    small = Predictor(stale, weights=learned.weights, precision="int8")(learned.fresh)
    assert agreement(small, exact) < 0.97


def test_other_weights_without_windows_are_refused(bundle: Bundle, learned: Learned) -> None:
    with pytest.raises(UsageError, match="measured with other weights; give calibration="):
        Predictor(bundle, weights=learned.weights, precision="int8")
    released = bundle.with_weights(learned.weights, "2")
    with pytest.raises(UsageError, match="measured with other weights"):
        Predictor(released, precision="int8")
    shipped = Predictor(bundle, precision="int8")
    assert shipped(learned.fresh).shape == (280, 7)
    with pytest.raises(UsageError, match="measured with other weights"):
        shipped.with_weights(learned.weights)


def test_windows_are_kept_for_the_next_weights(bundle: Bundle, learned: Learned) -> None:
    first = Predictor(bundle, precision="int8", calibration=learned.seen[:64])
    direct = Predictor(
        bundle, weights=learned.weights, precision="int8", calibration=learned.seen[:64]
    )
    later = first.with_weights(learned.weights)
    assert np.array_equal(later(learned.fresh), direct(learned.fresh))


def test_windows_that_do_not_fit_are_refused(bundle: Bundle, learned: Learned) -> None:
    for windows, words in (
        (learned.seen[:0], "n ≥ 1"),
        (learned.seen[:, :, :-1], "calibration windows have shape"),
        (learned.seen * np.float32(np.nan), "not finite"),
    ):
        with pytest.raises(UsageError, match=words):
            Predictor(bundle, precision="int8", calibration=windows)


def test_quantising_by_hand() -> None:
    """Input from -1 to 4.1: 255 steps of 0.02, zero at 50. Rows of the kernel: largest / 127."""
    recipe = (
        QuantisedTensor(tensor="w", quantised="w_q", scale="w_s", axis=0),
        QuantisedTensor(tensor="a", quantised="a_q", scale="a_s", zero_point="a_z"),
        QuantisedTensor(
            tensor="b", quantised="b_q", scale="b_s", kernel_scale="w_s", input_scale="x_s"
        ),
    )
    tensors = {
        "w": np.array([[1.27, -0.5], [0.0, 0.0]], np.float32),
        "a": np.array([-0.5, 0.0, 2.05], np.float32),
        "b": np.array([0.1, -3.0], np.float32),
        "other": np.ones(3, np.float32),
    }
    activation = QuantisedActivation(tensor="x", scale="x_s", zero_point="x_z")
    got = quantise(tensors, recipe, [activation], [(-1.0, 4.1)])
    assert got["x_s"] == pytest.approx(0.02) and got["x_z"] == 50
    assert got["w_q"].tolist() == [[127, -50], [0, 0]] and got["w_q"].dtype == np.int8
    assert np.allclose(got["w_s"].astype(float), [0.01, 1])
    assert got["a_q"].tolist() == [0, 50, 255] and got["a_z"] == 50
    assert got["b_q"].tolist() == [500, -150] and got["b_q"].dtype == np.int32
    assert np.allclose(got["b_s"].astype(float), [0.0002, 0.02])
    assert set(got) == {"x_s", "x_z", "w_q", "w_s", "a_q", "a_s", "a_z", "b_q", "b_s", "other"}


@pytest.mark.parametrize(
    ("low", "high", "scale", "point"),
    [(0.0, 0.0, 1.0, 0), (1.0, 2.55, 0.01, 0), (-5.1, -1.0, 0.02, 255)],
)
def test_zero_is_always_exact(low: float, high: float, scale: float, point: int) -> None:
    activation = QuantisedActivation(tensor="x", scale="s", zero_point="z")
    got = quantise({}, (), [activation], [(low, high)])
    assert got["s"] == pytest.approx(scale) and got["z"] == point
