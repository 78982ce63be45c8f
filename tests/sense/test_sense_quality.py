"""Which sensor of a window cannot be believed."""

import warnings

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.sense.quality import GOOD, GOOD_AFTER_GAP, Quality, QualityCheck, QualityLimits

SCHEMA = InputSchema(
    channels=("accelerometer_x", "gyroscope_x"),
    units=("g", "rad/s"),
    rate_hz=50.0,
    window=20,
    hop=10,
    shape=(2, 20),
)


def wave() -> NDArray[np.float32]:
    return np.stack([np.sin(np.arange(20)), np.cos(np.arange(20))]).astype(np.float32)


def judge(samples: NDArray[np.float32], limits: QualityLimits | None = None) -> Quality:
    check = QualityCheck(SCHEMA, QualityLimits() if limits is None else limits)
    return check(samples, after_gap=False)


def test_a_good_window() -> None:
    assert judge(wave()) is GOOD
    assert GOOD.usable and GOOD.words == "good"


def test_a_gap_before_a_window_does_not_harm_it() -> None:
    quality = QualityCheck(SCHEMA, QualityLimits())(wave(), after_gap=True)
    assert quality is GOOD_AFTER_GAP
    assert quality.usable and quality.words == "after a gap"


def test_a_stuck_channel_is_named() -> None:
    samples = wave()
    samples[1] = 0.25
    quality = judge(samples)
    assert quality == Quality(stuck=("gyroscope_x",))
    assert not quality.usable and quality.words == "stuck on gyroscope x"
    assert judge(samples, QualityLimits(may_rest=True)).usable


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_not_finite(value: float) -> None:
    samples = wave()
    samples[0, 7] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quality = judge(samples)
    assert quality == Quality(not_finite=("accelerometer_x",))


def test_a_plateau_at_the_top_of_the_window_is_saturation() -> None:
    samples = np.clip(3 * wave(), -9, 0.5)  # far more than a quarter lies at 0.5
    assert judge(samples).saturated == ("accelerometer_x", "gyroscope_x")
    assert judge(samples, QualityLimits(saturated_share=1)).usable


def test_four_of_twenty_at_the_end_are_under_a_quarter_and_five_are_not() -> None:
    samples = wave()
    samples[0, :4] = 2.0
    assert judge(samples).usable
    samples[0, 4] = 2.0
    assert judge(samples).saturated == ("accelerometer_x",)


def test_a_known_range_decides_what_an_end_is() -> None:
    limits = QualityLimits(ranges=((-2, 2), (-np.inf, np.inf)))
    samples = wave()
    samples[:, :10] = 1.5  # a plateau, but within the range
    assert judge(samples, limits).usable
    samples[:, :10] = 2.1  # beyond the end counts as at it
    assert judge(samples, limits).saturated == ("accelerometer_x",)


def test_a_channel_stuck_at_the_end_of_its_range_is_both() -> None:
    samples = wave()
    samples[0] = -2
    quality = judge(samples, QualityLimits(ranges=((-2, 2), (-2, 2))))
    assert quality.words == "stuck on accelerometer x, saturated on accelerometer x"


def test_limits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="1 ranges for 2 channels"):
        QualityCheck(SCHEMA, QualityLimits(ranges=((0, 1),)))
    with pytest.raises(UsageError, match="saturated_share 0"):
        QualityCheck(SCHEMA, QualityLimits(saturated_share=0))


def plain(samples: NDArray[np.float32], share: float) -> Quality:
    """The slow twin: each rule as it is written down."""
    names = SCHEMA.channels
    broken, stuck, saturated = [], [], []
    for name, row in zip(names, samples, strict=True):
        at_an_end = max(int((row == row.min()).sum()), int((row == row.max()).sum()))
        if not np.isfinite(row).all():
            broken.append(name)
        elif row.min() == row.max():
            stuck.append(name)
        elif share < 1 and at_an_end >= max(3, np.ceil(share * len(row))):
            saturated.append(name)
    return Quality(not_finite=tuple(broken), stuck=tuple(stuck), saturated=tuple(saturated))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("window", [20, 2000])  # judged by sorting, and by comparing
def test_every_window_is_judged_as_the_rules_say(window: int, share: float) -> None:
    rng = np.random.default_rng(int(100 * share))
    schema = msgspec.structs.replace(SCHEMA, window=window, shape=(2, window))
    check = QualityCheck(schema, QualityLimits(saturated_share=share))
    seen = set()
    for _ in range(300):
        values = rng.integers(1, 8)
        samples = rng.integers(0, values, (2, window)).astype(np.float32)
        samples += rng.random((2, window), np.float32) * rng.integers(0, 2, (2, 1))
        if rng.random() < 0.1:
            odd = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
            samples[rng.integers(0, 2), rng.integers(0, window)] = odd
        quality = check(samples, after_gap=False)
        assert quality == plain(samples, share)
        seen.add(quality.usable)
    assert seen == {True, False}
