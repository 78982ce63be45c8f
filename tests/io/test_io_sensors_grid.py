"""Times of samples: from polls, from values that change, from counting; and other rates."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.io.sensors.grid import SAMPLES_MAX, Gather, Held, Pace, SampleClock, in_order, ticks
from hedgerow.io.sensors.resample import Resampler
from hedgerow.sense.windows import Windower
from tests.io.sensing import Clock, around


def schema(rate_hz: float, window: int) -> InputSchema:
    return InputSchema(
        channels=("x",), units=("g",), rate_hz=rate_hz, window=window, hop=window, shape=(1, window)
    )


def test_channels_come_in_the_order_of_the_model() -> None:
    surroundings = around(["x", "y"], 1)
    assert in_order({"y": 2, "x": 1}, surroundings, "nodes") == (1, 2)
    with pytest.raises(UsageError, match=r"nodes names x, z.*wants x, y: add y; take out z"):
        in_order({"x": 1, "z": 3}, surroundings, "nodes")


def test_ticks_are_even_and_leave_out_what_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)

    async def run() -> list[float]:
        seen = []
        async with aclosing(ticks(around(["x"], 10, clock=clock), 0.1)) as given:
            async for seconds in given:
                seen.append(round(seconds, 6))
                clock.passed += 0.25 if len(seen) == 3 else 0.01  # the third reading is slow
                if len(seen) == 5:
                    break
        return seen

    assert asyncio.run(run()) == [1000.0, 1000.1, 1000.2, 1000.5, 1000.6]
    assert "2 left out" in caplog.text


def test_ticks_follow_the_wall_clock_when_it_is_set() -> None:
    clock = Clock(1000.0)

    async def run() -> list[float]:
        seen = []
        async with aclosing(ticks(around(["x"], 1, clock=clock), 1.0)) as given:
            async for seconds in given:
                seen.append(seconds)
                clock.wall = 5000.0
                if len(seen) == 2:
                    break
        return seen

    assert asyncio.run(run()) == [1000.0, 5001.0]


def test_rows_gather_to_blocks_and_a_missing_row_ends_one() -> None:
    gather = Gather(10.0, 0.3)
    assert gather.add(100.0, {"a": [1.0], "b": [1.0]}) == []
    first = gather.add(100.1, {"a": [2.0]})  # b did not answer
    assert [(block.stream, block.time_seconds, len(block.samples)) for block in first] == [
        ("b", 100.0, 1)
    ]
    (block,) = gather.add(100.2, {"a": [3.0], "b": [3.0]})
    assert block.stream == "a" and block.samples.tolist() == [[1], [2], [3]]
    late = gather.add(100.5, {"a": [6.0], "b": [6.0]})  # two ticks were missed
    assert [(block.stream, block.time_seconds) for block in late] == [("b", 100.2)]


def test_a_slow_sensor_gives_each_row_at_once() -> None:
    gather = Gather(1 / 60, 1.0)
    (block,) = gather.add(60.0, {"meter": [5.0]})
    assert block.time_seconds == 60.0 and block.samples.tolist() == [[5.0]]


def test_values_hold_until_the_next_and_begin_when_every_channel_spoke() -> None:
    held = Held(2, 10.0)
    held.put(0, 100.0, 1.0)
    assert held.until(100.5) == []
    held.put(1, 100.2, 5.0)
    held.put(0, 100.35, 2.0)
    ((first, samples),) = held.until(100.5)
    assert first == pytest.approx(100.2)
    assert samples.tolist() == [[1, 5], [1, 5], [2, 5], [2, 5]]
    ((first, samples),) = held.until(100.75)  # nothing changed: all still hold
    assert first == pytest.approx(100.6) and samples.tolist() == [[2, 5], [2, 5]]


def test_a_silent_channel_has_no_value_after_a_while() -> None:
    held = Held(1, 1.0, stale_seconds=2.5)
    held.put(0, 100.0, 1.0)
    held.put(0, 106.0, 2.0)
    stretches = held.until(107.0)
    assert [(first, samples.ravel().tolist()) for first, samples in stretches] == [
        (100.0, [1, 1, 1]),
        (106.0, [2, 2]),
    ]


def test_a_clock_that_is_set_leaves_a_gap_and_no_flood() -> None:
    held = Held(1, 100.0)
    held.put(0, 1000.0, 7.0)
    assert len(held.until(1000.1)) == 1
    for now in (1e6, 2000.0):  # forward, then back; the value still holds
        ((first, samples),) = held.until(now)
        assert first == now and samples.tolist() == [[7.0]]
        ((first, samples),) = held.until(now + 0.05)
        assert first == pytest.approx(now + 0.01) and len(samples) == 5


def test_a_sensor_that_may_be_out_of_reach_is_asked_anew_after_the_clock_was_set() -> None:
    held = Held(1, 10.0, stale_seconds=5.0)
    held.put(0, 1000.0, 7.0)
    held.until(1000.1)
    assert held.until(5000.0) == []
    held.put(0, 5000.5, 8.0)
    ((first, samples),) = held.until(5000.6)
    assert first == 5000.5 and samples.ravel().tolist() == [8, 8]


def test_a_reader_that_stalls_gets_no_more_than_the_bound() -> None:
    held = Held(1, 10_000.0)
    held.put(0, 0.0, 1.0)
    ((_, samples),) = held.until(50.0)
    assert len(samples) == SAMPLES_MAX and held.lost == 500_001 - SAMPLES_MAX


@given(
    changes=st.lists(st.floats(0, 20), min_size=1, max_size=30),
    steps=st.lists(st.floats(0.01, 3), min_size=1, max_size=20),
)
def test_the_grid_does_not_depend_on_when_it_is_asked(
    changes: list[float], steps: list[float]
) -> None:
    def run(asked: list[float]) -> list[float]:
        held = Held(1, 5.0)
        for number, when in enumerate(sorted(changes)):
            held.put(0, when, number)
        return [
            value
            for until in asked
            for _, samples in held.until(until)
            for value in samples.ravel().tolist()
        ]

    asked = np.cumsum(steps).tolist()
    assert run(asked) == run(asked[-1:])


@pytest.mark.parametrize("off", [0.98, 1.0, 1.0003, 1.02])
def test_a_counting_clock_follows_a_sensor_without_a_gap(off: float) -> None:
    rng = np.random.default_rng(5)
    rate, block = 50.0, 25
    clock, windower = SampleClock(rate), Windower(schema(rate, 100))
    for number in range(2000):
        arrives = (number + 1) * block / (rate * off) + rng.exponential(0.005)
        first = clock.stamp(block, 1e9 + arrives)
        windower.push(np.zeros((block, 1), np.float32), first)
        assert abs(first + block / rate - 1e9 - arrives) < 0.3
    assert (windower.gaps, windower.setbacks) == (0, 0)


def test_a_counting_clock_of_sound_follows_drift_without_a_gap() -> None:
    rng = np.random.default_rng(6)
    rate, block, windower = 16_000.0, 1600, Windower(schema(16_000.0, 1600))
    clock = SampleClock(rate)
    for number in range(20_000):  # half an hour at 100 parts in a million
        arrives = (number + 1) * block / rate * (1 + 1e-4) + rng.exponential(0.002)
        first = clock.stamp(block, 1e9 + arrives)
        windower.push(np.zeros((block, 1), np.float32), first)
    assert (windower.gaps, windower.setbacks) == (0, 0)
    assert abs(first + block / rate - 1e9 - arrives) < 0.02


def test_a_counting_clock_jumps_where_samples_were_lost() -> None:
    clock = SampleClock(10.0)
    assert clock.stamp(10, 101.0) == pytest.approx(100.0)
    assert clock.stamp(10, 105.0) == pytest.approx(104.0)  # three seconds are missing
    clock.lost()
    assert clock.stamp(10, 106.4) == pytest.approx(105.4)


def test_samples_at_another_rate_are_told(caplog: pytest.LogCaptureFixture) -> None:
    right, wrong = SampleClock(100.0), SampleClock(100.0)
    for number in range(40):
        right.stamp(100, 1000.0 + number)
        wrong.stamp(500, 1000.0 + number)
    assert [record.getMessage() for record in caplog.records] == [
        "samples come at 500 Hz, the model wants 100 Hz; change the sensor's rate"
    ]


def test_pace_is_real_time_by_the_speed_and_infinite_does_not_wait() -> None:
    async def run(speed: float) -> float:
        clock = Clock()
        pace = Pace(around(["x"], 1, clock=clock), speed)
        await pace.until(10.0)
        await pace.until(5.0)  # behind: at once
        return clock.passed

    assert asyncio.run(run(1)) == 10.0
    assert asyncio.run(run(4)) == 2.5
    assert asyncio.run(run(math.inf)) == 0.0
    with pytest.raises(UsageError, match="speed is 0"):
        asyncio.run(run(0))


def tone(rate: float, hz: float, count: int) -> NDArray[np.float32]:
    made = np.sin(2 * np.pi * hz * np.arange(count) / rate)
    return np.array(made[:, None], np.float32)


@pytest.mark.parametrize(("a", "b"), [(44_100, 16_000), (48_000, 16_000), (50, 20), (20, 50)])
def test_another_rate_keeps_a_tone_and_takes_out_what_would_fold(a: int, b: int) -> None:
    count = a * (2 if a > 1000 else 60)
    low = 0.3 * min(a, b)
    made = Resampler(a, b, 1).push(tone(a, low, count))[:, 0]
    edge = round(Resampler(a, b, 1).delay_seconds * 2 * b) + 1
    assert len(made) == pytest.approx(count * b / a, abs=edge)
    assert np.abs(made - tone(b, low, len(made))[:, 0])[edge:].max() < 2e-3
    if b < a:
        folded = Resampler(a, b, 1).push(tone(a, 0.75 * b, count))
        assert np.abs(folded[edge:]).max() < 1e-3


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_a_rate_is_changed_alike_however_the_stream_is_cut(cuts: list[int]) -> None:
    samples = np.random.default_rng(3).normal(size=(400, 2)).astype(np.float32)
    whole = Resampler(50, 20, 2).push(samples)
    resampler = Resampler(50, 20, 2)
    parts = [resampler.push(part) for part in np.split(samples, sorted(cuts))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_a_rate_of_no_whole_ratio_is_refused() -> None:
    with pytest.raises(UsageError, match="ratio of whole numbers"):
        Resampler(44_100.0, 16_000.123, 1)
