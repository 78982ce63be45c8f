"""Features against slow, plain twins."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.core.streams import stream
from hedgerow.sense.features import Featuriser, features

RAW = InputSchema(channels=("a", "b"), units=("g", "g"), rate_hz=8.0, window=8, hop=4, shape=(2, 8))


def noise(*shape: int) -> NDArray[np.float32]:
    return stream(1, "features").standard_normal(shape, dtype=np.float32)


def test_raw_without_numbers_is_the_window_itself() -> None:
    x = noise(2, 8)
    got = features(x, RAW)
    np.testing.assert_array_equal(got, x)
    assert not np.shares_memory(got, x)


def test_standardised_by_hand() -> None:
    schema = msgspec.structs.replace(RAW, mean=(1.0, 10.0), scale=(2.0, 5.0))
    x = np.stack([np.full(8, 5.0), np.full(8, 0.0)]).astype(np.float32)
    np.testing.assert_allclose(features(x, schema), [[2.0] * 8, [-2.0] * 8])


def test_mean_or_scale_alone() -> None:
    x = np.full((2, 8), 4.0, np.float32)
    only_mean = msgspec.structs.replace(RAW, mean=(1.0, 2.0))
    only_scale = msgspec.structs.replace(RAW, scale=(2.0, 4.0))
    np.testing.assert_allclose(features(x, only_mean)[:, 0], [3.0, 2.0])
    np.testing.assert_allclose(features(x, only_scale)[:, 0], [2.0, 1.0])


def test_per_window_has_mean_0_and_deviation_1_and_a_constant_channel_is_0() -> None:
    schema = msgspec.structs.replace(RAW, per_window=True, mean=(9.0, 9.0))
    x = 100 + 7 * noise(3, 2, 8)
    x[2, 1] = 42
    got = features(x, schema)
    np.testing.assert_allclose(got.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(got[:2].std(-1), 1, rtol=1e-4)
    np.testing.assert_array_equal(got[2, 1], 0)


def plain_spectrum(x: NDArray[np.float32], bands: int) -> list[float]:
    """One channel, by the definition of the transform."""
    count = len(x)
    x = x - sum(float(v) for v in x) / count
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * t / count) for t in range(count)]
    energy = sum(h * h for h in hann)
    power = []
    for k in range(count // 2 + 1):
        turn = [-2 * math.pi * k * t / count for t in range(count)]
        real = sum(h * float(v) * math.cos(a) for h, v, a in zip(hann, x, turn, strict=True))
        imaginary = sum(h * float(v) * math.sin(a) for h, v, a in zip(hann, x, turn, strict=True))
        power.append((real**2 + imaginary**2) / energy)
    edges = [i * len(power) // bands for i in range(bands + 1)]
    groups = [power[a:b] for a, b in pairwise(edges)]
    return [math.log1p(sum(group) / len(group)) for group in groups]


@pytest.mark.parametrize(("window", "bands"), [(16, 9), (16, 4), (15, 3), (2, 1)])
def test_spectrum_against_its_twin(window: int, bands: int) -> None:
    schema = msgspec.structs.replace(
        RAW, window=window, hop=1, features="spectrum", shape=(1, 2 * bands)
    )
    x = 3 * noise(5, 2, window)
    got = features(x, schema)
    assert got.shape == (5, 1, 2 * bands)
    wanted = [[v for c in range(2) for v in plain_spectrum(x[n, c], bands)] for n in range(5)]
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_noise_of_deviation_1_has_power_1_in_every_band() -> None:
    schema = msgspec.structs.replace(RAW, window=256, features="spectrum", shape=(2, 4))
    power = np.expm1(features(noise(400, 2, 256), schema))
    np.testing.assert_allclose(power.mean(axis=(0, 1)), 1, rtol=0.05)


def test_a_pure_tone_lands_in_its_bin() -> None:
    schema = msgspec.structs.replace(RAW, window=64, features="spectrum", shape=(2, 33))
    tone = np.sin(2 * np.pi * 5 * np.arange(64) / 64).astype(np.float32)
    got = features(np.stack([tone, tone]), schema)
    assert got.argmax(axis=1).tolist() == [5, 5]


@pytest.mark.parametrize("kind", ["raw", "per_window", "spectrum"])
def test_one_window_at_a_time_gives_the_same_numbers(kind: str) -> None:
    schema = msgspec.structs.replace(
        RAW,
        mean=(0.5, -0.5),
        scale=(2.0, 3.0),
        per_window=kind == "per_window",
        features="spectrum" if kind == "spectrum" else "raw",
        shape=(1, 2, 3) if kind == "spectrum" else (16,),
    )
    x = noise(4, 3, 2, 8)
    all_at_once = features(x, schema)
    assert all_at_once.shape == (4, 3, *schema.shape)
    prepared = Featuriser(schema)
    for i in range(4):
        for j in range(3):
            one = prepared(x[i, j])
            assert one.shape == (1, *schema.shape)
            np.testing.assert_allclose(one[0], all_at_once[i, j], rtol=1e-5, atol=1e-6)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(8, 2\).*2, 8"):
        features(noise(8, 2), RAW)
    with pytest.raises(UsageError, match="make 16 numbers"):
        Featuriser(msgspec.structs.replace(RAW, shape=(2, 9)))
    with pytest.raises(UsageError, match="1 to 5"):
        Featuriser(msgspec.structs.replace(RAW, features="spectrum", shape=(2, 6)))
