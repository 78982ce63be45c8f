"""Thresholds: the stated rate holds on what comes after, for several kinds of tails."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.decide.threshold import Thresholds, alarm_rate, chosen_factor

ROW = np.zeros(1, np.int64)


def distances(streams: int, count: int, kind: str, *names: str) -> NDArray[np.float32]:
    """Like distances of windows that are well: `[streams, count]`."""
    rng = stream(2, kind, *names)
    if kind == "gaussian":
        z = rng.standard_normal((streams, count, 16), np.float32)
        return np.asarray(np.sqrt((z * z).mean(2)), np.float32)
    if kind == "exponential":
        return (1 + rng.exponential(0.3, (streams, count))).astype(np.float32)
    # Pareto with shape 0.25: a heavy tail.
    return (1 + rng.pareto(4, (streams, count))).astype(np.float32)


def fitted(values: NDArray[np.float32], rate: float) -> Thresholds:
    streams, count = values.shape
    thresholds = Thresholds(streams, count, rate)
    for column in values.T:
        thresholds.collect(np.arange(streams), column)
    return thresholds


@pytest.mark.parametrize("kind", ["gaussian", "exponential", "heavy"])
@pytest.mark.parametrize("rate", [0.01, 1e-3, 1e-4])
def test_the_stated_rate_holds_on_what_comes_after(kind: str, rate: float) -> None:
    thresholds = fitted(distances(50, 1024, kind), rate)
    later = distances(50, 20_000, kind, "later")
    beyond = float((later > thresholds.limit[:50, None]).mean())
    # From 1,024 windows each, at a tenth of what they could show by counting. Where the tail is
    # lighter than exponential the limit is on the safe side.
    assert rate / (15 if kind == "gaussian" else 4) < beyond < rate * 2


def test_a_heavy_tail_is_told_from_a_light_one() -> None:
    light = fitted(distances(50, 1024, "gaussian"), 1e-4).shape
    heavy = fitted(distances(50, 1024, "heavy"), 1e-4).shape
    assert light < 0.05 and 0.15 < heavy < 0.35


def test_one_stream_alone_is_not_led_astray_by_its_few_peaks() -> None:
    limits = [fitted(distances(1, 1024, "gaussian", str(i)), 1e-6).limit[0] for i in range(30)]
    assert max(limits) < 1.6 * min(limits)


def test_limits_come_when_a_stream_has_given_its_windows() -> None:
    thresholds = Thresholds(2, 128, 0.01)
    values = distances(1, 128, "exponential")[0]
    assert thresholds.collect(np.zeros(127, np.int64), values[:127]).tolist() == []
    assert math.isnan(thresholds.limit[0]) and thresholds.progress(0) == 127 / 128
    assert thresholds.collect(ROW, values[127:]).tolist() == [0]
    assert thresholds.limit[0] > np.quantile(values, 0.95) and math.isnan(thresholds.limit[1])
    before = thresholds.limit[0]
    thresholds.collect(ROW, np.array([99.0], np.float32))  # known: nothing is collected
    thresholds.renew(ROW)
    thresholds.collect(np.zeros(127, np.int64), 2 * values[:127])
    assert thresholds.limit[0] == before  # the old one holds meanwhile
    thresholds.collect(ROW, 2 * values[127:])
    assert thresholds.limit[0] == pytest.approx(2 * before, rel=1e-4)
    thresholds.forget(ROW)
    assert math.isnan(thresholds.limit[0])


def test_values_are_let_go_once_limits_are_known() -> None:
    thresholds = fitted(distances(40, 256, "exponential"), 0.01)
    small = thresholds.nbytes
    thresholds.renew(np.arange(40))
    thresholds.collect(np.arange(40), np.ones(40, np.float32))
    assert thresholds.nbytes - small >= 40 * 256 * 4
    thresholds.forget(np.arange(40))
    assert thresholds.nbytes == small


def test_ranks_are_even_for_what_is_as_before() -> None:
    thresholds = fitted(distances(1, 2000, "gaussian"), 0.01)
    later = distances(1, 4000, "gaussian", "later")[0]
    ranks = thresholds.rank(np.zeros(4000, np.int64), later)
    assert ranks.min() >= 0 and ranks.max() <= 1
    counts = np.histogram(ranks, bins=10, range=(0, 1))[0]
    assert counts.min() > 300 and counts.max() < 520
    assert (np.diff(thresholds.rank(np.zeros(50, np.int64), np.sort(later[:50]))) >= 0).all()


def test_they_come_back_as_they_were_kept() -> None:
    thresholds = fitted(distances(3, 256, "exponential"), 1e-3)
    thresholds.forget(np.array([1]))
    back = Thresholds(0, 256, 1e-3)
    back.take(thresholds.arrays(3))
    np.testing.assert_allclose(back.limit[:3], thresholds.limit, rtol=0.2)  # one shares no shape
    assert math.isnan(back.limit[1])
    values = distances(1, 3, "exponential", "new")[0]
    np.testing.assert_array_equal(
        back.rank(np.array([0, 2, 0]), values), thresholds.rank(np.array([0, 2, 0]), values)
    )
    with pytest.raises(ValueError, match="fit"):
        back.take(thresholds.arrays(3) | {"place": np.zeros(2)})


def test_a_rate_of_false_alarms_by_hand() -> None:
    # 3 windows in a row every 0.1 s: at most 1 a day where 3 of 864,000 windows are beyond.
    assert alarm_rate(1.0, 0.1, 3) == pytest.approx(3 / 864_000)
    assert alarm_rate(1e9, 1.0, 3) == 0.5


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 128"):
        Thresholds(1, 100, 0.01)
    with pytest.raises(UsageError, match="rate 0"):
        Thresholds(1, 1000, 0)


@pytest.mark.parametrize(
    ("normal", "fault", "wanted"),
    [
        ([], [], 1.0),
        ([0.4, 0.9], [], 1.0),  # nothing to complain of
        ([1.4, 1.2], [], 1.4 * 1.05),  # false alarms: above the highest
        ([0.3], [0.9] * 10, 0.9 * 0.95),  # faults that were missed
        ([0.9], [0.85] * 10, 0.9 * 1.05),  # … but not at the price of what is normal
        ([0.7], [0.6] * 10, 1.0),  # as usual: the period was drawn too widely
        ([], [0.1] * 10, 1.0),
        ([], [0.7] * 30 + [3.0] * 70, 1.0),
        ([], [0.85] * 10, 0.8075),
        ([99.0], [], 4.0),
        ([1.4], [3.0] * 10, 1.4 * 1.05),
    ],
)
def test_labels_move_a_threshold(normal: list[float], fault: list[float], wanted: float) -> None:
    assert chosen_factor(normal, fault) == pytest.approx(wanted)
