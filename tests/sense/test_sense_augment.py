"""Augmentation: shapes and seeds for all, exact numbers where there are any."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.core.streams import stream
from hedgerow.sense.augment import TRANSFORMS, Augment, augmenter, rotations
from hedgerow.sense.features import features

AXES = tuple(f"{sensor}_{axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz")
WATCH = InputSchema(
    channels=AXES,
    units=("g",) * 3 + ("rad/s",) * 3,
    rate_hz=50.0,
    window=20,
    hop=5,
    shape=(6, 20),
)
SCALED = msgspec.structs.replace(
    WATCH, mean=(0.5, -0.2, 1.0, 0.1, 0.0, -0.3), scale=(0.5, 0.8, 1.5, 2.0, 3.0, 1.0)
)


def windows(count: int = 8, schema: InputSchema = WATCH) -> NDArray[np.float32]:
    shape = (count, len(schema.channels), schema.window)
    return stream(2, "windows").standard_normal(shape, dtype=np.float32)


def made(*names: str, schema: InputSchema = WATCH) -> Augment:
    augment = augmenter(names, schema)
    assert augment is not None
    return augment


@given(
    names=st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=4),
    count=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_shape_kept_finite_same_under_a_seed_and_input_untouched(
    names: list[str], count: int, seed: int
) -> None:
    x = windows(count, SCALED)
    before = x.copy()
    augment = made(*names, schema=SCALED)
    first, again = augment(x, stream(seed, "a")), augment(x, stream(seed, "a"))
    assert first.shape == x.shape and first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_another_seed_gives_another_variation(name: str) -> None:
    x, augment = windows(), made(f"{name}:0.9" if name == "channel_drop" else name)
    assert not np.array_equal(augment(x, stream(1)), augment(x, stream(2)))


def test_no_names_is_no_augmentation() -> None:
    assert augmenter((), WATCH) is None


def test_model_inputs_of_another_shape_and_more_leading_axes() -> None:
    flat = msgspec.structs.replace(WATCH, shape=(1, 120))
    x = windows(6).reshape(2, 3, 1, 120)
    got = made("shift", schema=flat)(x, stream(3))
    assert got.shape == x.shape
    wanted = made("shift")(windows(6), stream(3))
    np.testing.assert_array_equal(got.reshape(6, 6, 20), wanted)


def test_jitter_has_the_named_deviation() -> None:
    x = windows(200)
    noise = made("jitter:0.5")(x, stream(4)) - x
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)


def test_scale_is_one_factor_for_each_channel() -> None:
    x = windows()
    factor = made("scale:0.3")(x, stream(5)) / x
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :, :1], x.shape), rtol=1e-4)
    assert (factor > 0).all()


def test_rotations_are_rotations_within_their_angle() -> None:
    turn = rotations(500, 30.0, stream(6)).astype(np.float64)
    product = turn @ turn.transpose(0, 2, 1)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    angle = np.degrees(np.arccos((np.trace(turn, axis1=1, axis2=2) - 1) / 2))
    assert angle.max() <= 30.01 and 13 < angle.mean() < 17


def norms(x: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    return np.asarray(np.linalg.norm(x[:, start : start + 3], axis=1))


@pytest.mark.parametrize("name", ["rotate", "rotate_small", "rotate:90", "mirror"])
def test_turning_keeps_the_length_of_every_vector_in_physical_units(name: str) -> None:
    x = windows()
    got = made(name, schema=SCALED)(features(x, SCALED), stream(7))
    mean, scale = (np.array(v, np.float32)[:, None] for v in (SCALED.mean, SCALED.scale))
    physical = got * scale + mean
    for start in (0, 3):
        np.testing.assert_allclose(norms(physical, start), norms(x, start), rtol=1e-3, atol=1e-4)


def test_both_sensors_of_a_window_turn_together() -> None:
    x = windows()
    x[:, 3:] = x[:, :3]
    got = made("rotate")(x, stream(8))
    np.testing.assert_allclose(got[:, 3:], got[:, :3], atol=1e-5)


def test_mirror_turns_x_of_acceleration_and_y_and_z_of_rotation() -> None:
    got = made("mirror:1")(np.ones((1, 6, 20), np.float32), stream(9))
    assert got[0, :, 0].tolist() == [-1, 1, 1, 1, -1, -1]


def test_mirror_moves_the_named_share_of_windows() -> None:
    x = np.ones((1000, 6, 20), np.float32)
    moved = made("mirror:0.3")(x, stream(10))[:, 0, 0] < 0
    assert 0.25 < float(moved.mean()) < 0.35


@pytest.mark.parametrize("name", ["stretch:0.5", "time_warp:0.5"])
def test_time_is_read_at_another_speed_in_straight_lines(name: str) -> None:
    x = np.broadcast_to(np.arange(20, dtype=np.float32), (50, 6, 20)).copy()
    got = made(name)(x, stream(11))
    assert got.min() >= 0 and got.max() <= 19
    np.testing.assert_allclose(got, np.broadcast_to(got[:, :1], got.shape))  # channels together
    speed = np.abs(np.diff(got[:, 0]))
    if name.startswith("stretch"):
        assert speed.max() <= 1.5 + 1e-4
        assert np.median(speed[0]) == pytest.approx(np.median(speed[0][2:5]), rel=1e-2)
    else:
        np.testing.assert_allclose(got[:, 0, [0, -1]], np.tile([0, 19], (50, 1)), atol=1e-4)
        assert (np.diff(got[:, 0]) > 0).all()


def test_shift_is_circular() -> None:
    x = windows()
    got = made("shift:0.5")(x, stream(12))
    for before, after in zip(x, got, strict=True):
        assert any(np.array_equal(np.roll(before, by, axis=1), after) for by in range(-10, 11))


def dropped(name: str) -> NDArray[np.bool_]:
    return np.asarray((made(name)(windows(300), stream(13)) == 0).all(axis=2))


def test_channel_drop_drops_the_named_share_and_never_all() -> None:
    assert 0.25 < float(dropped("channel_drop:0.3").mean()) < 0.35
    assert not dropped("channel_drop:0.9").all(axis=1).any()


def test_time_mask_blanks_one_span_of_at_most_its_share() -> None:
    blank = made("time_mask:0.5")(np.ones((300, 6, 20), np.float32), stream(14)) == 0
    assert (blank == blank[:, :1]).all()
    lengths = blank[:, 0].sum(axis=1)
    assert lengths.min() == 0 and lengths.max() == 10
    edges = np.abs(np.diff(blank[:, 0].astype(int), axis=1)).sum(axis=1)
    assert edges.max() <= 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wobble", "known are jitter, scale, rotate"),
        ("jitter:much", "'much'"),
        ("jitter:", "above 0"),
        ("rotate:200", "at most 180"),
        ("scale:-1", "above 0"),
        ("scale:nan", "above 0"),
    ],
)
def test_a_name_or_strength_that_is_not_known_is_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        augmenter((name,), WATCH)


def test_what_the_schema_cannot_give_is_refused() -> None:
    spectrum = msgspec.structs.replace(WATCH, features="spectrum", shape=(6, 11))
    with pytest.raises(UsageError, match="spectrum"):
        augmenter(("shift",), spectrum)
    assert augmenter(("jitter",), spectrum) is not None
    scalar = msgspec.structs.replace(WATCH, channels=("a", "b", "c", "d", "e", "f"))
    with pytest.raises(UsageError, match="names end in x, y and z"):
        augmenter(("rotate",), scalar)
