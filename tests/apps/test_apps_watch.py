"""The watch bundle as it ships: what it promises, that it is untrained, and that it learns."""

from importlib import resources

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.apps.watch.author_model import spec
from hedgerow.core.streams import keys_of
from hedgerow.io import data
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass
from hedgerow.model.predictor import Predictor
from hedgerow.sense.augment import augmenter
from hedgerow.sense.features import features


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    shipped = resources.files("hedgerow.apps") / "watch" / "watch.hedgerow"
    return Bundle.from_bytes(shipped.read_bytes())


def movements(
    count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Synthetic: label = which of 7 speeds the wrist swings at. Windows `[count, 6, 100]`."""
    label = np.arange(count) % 7
    swing = 2 * np.pi * (0.3 + 0.4 * label[:, None]) * np.arange(100) / 50
    swing = swing + rng.uniform(0, 2 * np.pi, (count, 1))
    x = rng.normal(0, 0.05, (count, 6, 100))
    x[:, 0] += np.sin(swing)
    x[:, 1] += 1
    x[:, 5] += 2 * np.cos(swing)
    return x.astype(np.float32), label.astype(np.int64)


def test_it_takes_what_the_watch_data_gives(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.input.channels == data.WATCH_CHANNELS
    assert manifest.input.units == data.WATCH_UNITS
    assert manifest.input.rate_hz == data.WATCH_RATE_HZ
    assert manifest.input.shape == (6, 100)
    assert manifest.output.labels == data.WATCH_LABELS
    assert manifest.layout.size == manifest.layout.shared_size == 12_775


def test_its_scale_is_made_of_round_physical_numbers(bundle: Bundle) -> None:
    """Constants measured on recordings would have looked at what is held out."""
    assert bundle.manifest.input.mean == ()
    assert bundle.manifest.input.scale == (0.5, 0.5, 0.5, 1.5, 1.5, 1.5)
    assert not bundle.manifest.input.per_window


def test_it_ships_untrained(bundle: Bundle) -> None:
    """The weights are the factory's draw, so no recording has touched them."""
    drawn = spec()
    tensors = {name: p.detach().numpy() for name, p in drawn.module.named_parameters()}
    np.testing.assert_array_equal(bundle.weights, bundle.manifest.layout.flatten(tensors))
    assert bundle.manifest.layout == drawn.layout()
    assert bundle.manifest.plan == drawn.plan
    assert bundle.manifest.decide == drawn.decide


def test_its_plan_learns(bundle: Bundle) -> None:
    manifest = bundle.manifest
    rng = np.random.default_rng(5)
    windows, y = movements(280, rng)
    x = features(windows, manifest.input)
    fresh_windows, fresh_y = movements(140, rng)
    fresh = features(fresh_windows, manifest.input)
    plan = msgspec.structs.replace(manifest.plan, epochs=12.0, rate=0.05, augment=("jitter",))
    trained = Learner(bundle).run(
        Pass(bundle.weights[None], plan),
        [Samples(x, y)],
        keys_of(5, (), np.arange(1)),
        augment=augmenter(plan.augment, manifest.input),
    )
    before = Predictor(bundle)(fresh).argmax(1)
    after = Predictor(bundle, weights=trained.weights[0])(fresh).argmax(1)
    assert np.mean(before == fresh_y) < 0.4
    assert np.mean(after == fresh_y) > 0.9


def test_its_int8_graph_answers_as_the_float_one_with_the_weights_it_was_calibrated_on(
    bundle: Bundle,
) -> None:
    windows, _ = movements(140, np.random.default_rng(6))
    x = features(windows, bundle.manifest.input)
    exact = Predictor(bundle)(x)
    coarse = Predictor(bundle, precision="int8")(x)
    assert np.sqrt(np.mean((coarse - exact) ** 2)) < 0.2 * exact.std()


def test_every_augmentation_of_the_plan_fits_the_schema(bundle: Bundle) -> None:
    manifest = bundle.manifest
    vary = augmenter(manifest.plan.augment, manifest.input)
    assert vary is not None
    still = np.zeros((8, 6, 100), np.float32)
    still[:, 1] = 2.0  # 1 g on y
    varied = vary(still, np.random.default_rng(1))
    gravity = np.linalg.norm(varied[:, :3], axis=1)
    np.testing.assert_allclose(gravity, 2.0, atol=1e-5)  # turned, never made heavier
    assert varied[:, 1].min() >= 2.0 * np.cos(np.deg2rad(20)) - 1e-5
