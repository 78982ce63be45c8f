"""Drift detectors against slow twins written down from the papers, and by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.streams import stream
from hedgerow.decide.drift import Adwin, DriftSettings, DriftWatch, PageHinkley, Stability

ROW = np.zeros(1, np.int64)
DELTA = 0.002


class PlainAdwin:
    """ADWIN2, Bifet and Gavaldà 2007: buckets (sum, sum of squared deviations), newest first."""

    def __init__(self, confidence: float, levels: int = 10, most: int = 5) -> None:
        self.levels: list[list[tuple[float, float]]] = [[] for _ in range(levels)]
        self.confidence, self.most = confidence, most

    def parts(self) -> list[tuple[float, float, float]]:
        """(count, sum, squared deviations) from the oldest on."""
        return [
            (2.0**level, total, spread)
            for level in reversed(range(len(self.levels)))
            for total, spread in self.levels[level]
        ]

    def add(self, value: float) -> float:
        self.levels[0].append((value, 0.0))
        for level in range(len(self.levels)):
            row = self.levels[level]
            if len(row) <= self.most:
                break
            (a, va), (b, vb) = row[:2]
            del row[:2]
            n = 2.0**level
            merged = (a + b, va + vb + n / 2 * (a / n - b / n) ** 2)
            if level + 1 < len(self.levels):
                self.levels[level + 1].append(merged)
        first = worst = self.gap()
        while worst >= 1:
            next(row for row in reversed(self.levels) if row).pop(0)
            worst = self.gap()
        return first

    def gap(self) -> float:
        parts = self.parts()
        n = sum(count for count, _, _ in parts)
        mean = sum(total for _, total, _ in parts) / n
        squares = sum(v + c * (t / c - mean) ** 2 for c, t, v in parts)
        worst = 0.0
        for cut in range(1, len(parts)):
            old, new = parts[:cut], parts[cut:]
            n0, n1 = (sum(c for c, _, _ in side) for side in (old, new))
            if min(n0, n1) < 5:
                continue
            m0, m1 = sum(t for _, t, _ in old) / n0, sum(t for _, t, _ in new) / n1
            m = 1 / (1 / n0 + 1 / n1)
            log = math.log(2 * math.log(n) / self.confidence)
            bound = math.sqrt(2 / m * squares / n * log) + 2 / (3 * m) * log
            worst = max(worst, abs(m0 - m1) / bound)
        return worst


def noise(count: int, *names: str | int) -> NDArray[np.float64]:
    return stream(3, "drift", *names).random(count)


@pytest.mark.parametrize("seed", range(3))
def test_adwin_is_its_twin_on_streams_that_jump(seed: int) -> None:
    values = np.concatenate([noise(400, seed), 0.4 + 0.6 * noise(300, seed, "b")])
    twin, adwin = PlainAdwin(DELTA), Adwin(1, DELTA)
    cuts = 0
    for value in values.tolist():
        wanted = twin.add(value)
        got = float(adwin.update(ROW, np.array([value]))[0])
        assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        assert adwin.width(0) == sum(count for count, _, _ in twin.parts())
        cuts += got >= 1
    assert cuts >= 1
    assert adwin.mean(0) == pytest.approx(0.7, abs=0.05)  # the past before the jump is gone


def test_adwin_forgets_the_oldest_when_it_is_full() -> None:
    adwin, most = Adwin(1, DELTA), 5 * (2**10 - 1)
    widths = []
    for _ in range(most + 600):
        adwin.update(ROW, np.array([0.5]))
        widths.append(adwin.width(0))
    assert widths[:most] == list(range(1, most + 1))
    assert most - 1024 <= min(widths[most:]) and max(widths) == most
    assert adwin.mean(0) == 0.5


def test_many_streams_are_each_as_if_alone() -> None:
    values = np.stack([noise(300, i) for i in range(4)])
    values[2, 150:] = 0.9
    together = DriftWatch(4, DriftSettings(block=2, stability_windows=100))
    alone = [DriftWatch(1, DriftSettings(block=2, stability_windows=100)) for _ in range(4)]
    rng = np.random.Generator(np.random.PCG64(1))
    for step in range(0, 300, 3):  # three windows of a stream in one batch, in any mixture
        rows = np.repeat(np.arange(4), 3)
        given = values[:, step : step + 3].reshape(-1)
        order = np.lexsort((np.tile(np.arange(3), 4), rng.permutation(4)[rows]))
        got = together.update(rows[order], given[order].astype(np.float32))
        for place, row in zip(order, rows[order], strict=True):
            one = alone[row].update(ROW, given[place : place + 1].astype(np.float32))
            if place % 3 == 2:
                assert got[order == place] == one
    assert together.statistic[2] >= 1


def test_page_hinkley_by_hand() -> None:
    detector = PageHinkley(1, slack=0.0, limit=2.0)
    # Means 1, 1, 2, 3; what is beyond them 0, 0, 3, 4; sums 0, 0, 3, 7... over the least, 0.
    values = [1.0, 1.0, 4.0, 6.0]
    got = [float(detector.update(ROW, np.array([value]))[0]) for value in values]
    assert got == [0.0, 0.0, 1.0, 2.5]
    detector.reset(ROW)
    assert detector.update(ROW, np.array([9.0]))[0] == 0


def test_page_hinkley_is_its_twin() -> None:
    values = np.concatenate([noise(120, "ph"), 0.3 + noise(60, "ph", 2)])
    detector = PageHinkley(1, slack=0.05, limit=3.0)
    for count in range(1, len(values) + 1):
        got = float(detector.update(ROW, values[count - 1 : count])[0])
        if count % 25 == 0:
            sums = [
                sum(float(values[i] - values[: i + 1].mean()) - 0.05 for i in range(until + 1))
                for until in range(count)
            ]
            assert got == pytest.approx((sums[-1] - min(0.0, *sums)) / 3, rel=1e-9)


def test_stability_index_by_hand() -> None:
    index = Stability(1, 100, 0.25, uniform=True)
    for place in range(100):  # all in the lowest bin
        got = index.update(ROW, np.array([0.05 if place else 0.0]))
    share = np.array([100.5, *[0.5] * 9]) / 105
    wanted = float(((share - 0.1) * np.log(share / 0.1)).sum())
    assert got[0] == pytest.approx(wanted / 0.25)
    for place in range(100):  # even: as it should be
        got = index.update(ROW, np.array([place / 100]))
    assert got[0] == pytest.approx(0, abs=1e-12)


def test_stability_learns_its_reference_where_values_are_not_even() -> None:
    index = Stability(1, 200, 0.25, uniform=False)
    quiet, loud = 0.3 * noise(400, "quiet"), 0.5 + 0.3 * noise(200, "loud")
    got = [float(index.update(ROW, quiet[i : i + 1])[0]) for i in range(400)]
    assert max(got) < 0.5
    got = [float(index.update(ROW, loud[i : i + 1])[0]) for i in range(200)]
    assert got[-1] > 1


def test_thirty_hours_as_they_were_does_not_drift_and_a_shift_does_within_minutes() -> None:
    streams, hop = 60, 2048 / 12_000
    watch = DriftWatch(streams, DriftSettings(block=32, stability_windows=512), uniform=True)
    rng = stream(5, "day")
    rows = np.arange(streams)
    worst = 0.0
    for _ in range(int(1800 / hop)):  # 60 streams of half an hour
        worst = max(worst, float(watch.update(rows, rng.random(streams, np.float32)).max()))
    assert worst < 1
    waited = 0
    while watch.statistic.min() < 1:
        watch.update(rows, 0.4 + 0.6 * rng.random(streams, np.float32))
        waited += 1
    assert waited * hop < 300


def test_streams_that_come_later_are_begun() -> None:
    watch = DriftWatch(1, DriftSettings(block=1))
    watch.update(ROW, np.array([0.5], np.float32))
    watch.grow(3)
    for _ in range(40):
        watch.update(np.arange(3), np.array([0.5, 0.5, 0.5], np.float32))
    for _ in range(40):
        got = watch.update(np.arange(3), np.array([0.5, 0.5, 1.0], np.float32))
    assert got[0] == got[1] == 0 and got[2] >= 1
    watch.reset(np.array([2]))
    assert watch.statistic[2] == 0
