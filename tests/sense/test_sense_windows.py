"""Windows from a stream: the same whatever the blocks, never across a gap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.sense.windows import Window, Windower


def schema(window: int = 4, hop: int = 2, channels: int = 2) -> InputSchema:
    return InputSchema(
        channels=tuple(f"c{i}" for i in range(channels)),
        units=("g",) * channels,
        rate_hz=10.0,
        window=window,
        hop=hop,
        shape=(channels, window),
    )


def ramp(count: int, channels: int = 2, first: int = 0) -> NDArray[np.float32]:
    """Samples that tell their own number: sample i of channel c is 100·c + i."""
    steps = np.arange(first, first + count, dtype=np.float32)
    return steps[:, None] + 100 * np.arange(channels, dtype=np.float32)


def firsts(windows: list[Window]) -> list[float]:
    return [float(window.samples[0, 0]) for window in windows]


def test_windows_hop_and_overlap() -> None:
    windows = Windower(schema()).push(ramp(9), 5.0)
    assert [window.start_seconds for window in windows] == pytest.approx([5.0, 5.2, 5.4])
    np.testing.assert_array_equal(windows[1].samples, [[2, 3, 4, 5], [102, 103, 104, 105]])
    assert firsts(windows) == [0, 2, 4]


def test_one_sample_at_a_time_gives_a_window_when_it_is_full() -> None:
    windower = Windower(schema())
    counts = [len(windower.push(ramp(1, first=i), i / 10)) for i in range(8)]
    assert counts == [0, 0, 0, 1, 0, 1, 0, 1]


@given(
    window=st.integers(1, 9),
    hop_share=st.floats(0, 1),
    blocks=st.lists(st.integers(0, 60), max_size=20),
)
@settings(deadline=None, max_examples=60)
def test_any_split_into_blocks_gives_the_same_windows(
    window: int, hop_share: float, blocks: list[int]
) -> None:
    given_schema = schema(window, max(1, round(hop_share * window)))
    total = sum(blocks)
    whole = Windower(given_schema).push(ramp(total), 0.0)
    windower = Windower(given_schema)
    pieces: list[Window] = []
    place = 0
    for count in blocks:
        pieces += windower.push(ramp(count, first=place), place / 10)
        place += count
    assert len(pieces) == len(whole) == max(0, (total - window) // given_schema.hop + 1)
    for piece, wanted in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(piece.samples, wanted.samples)
        assert piece.start_seconds == pytest.approx(wanted.start_seconds, abs=1e-9)
        assert piece.quality == wanted.quality
    assert windower.gaps == windower.setbacks == 0


@given(
    blocks=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0, 0, 3, 50])), max_size=20),
)
@settings(deadline=None, max_examples=60)
def test_no_window_spans_a_gap(blocks: list[tuple[int, int]]) -> None:
    windower = Windower(schema())
    place = 0
    gaps = 0
    for index, (count, lost) in enumerate(blocks):
        place += lost
        gaps += index > 0 and lost > 0
        for window in windower.push(ramp(count, first=place), place / 10):
            np.testing.assert_array_equal(np.diff(window.samples[0]), 1)
            assert window.start_seconds == pytest.approx(window.samples[0, 0] / 10)
        place += count
    assert windower.gaps == gaps


def test_the_first_window_after_a_gap_says_so() -> None:
    windower = Windower(schema())
    assert len(windower.push(ramp(5), 0.0)) == 1
    windows = windower.push(ramp(6, first=8), 0.8)  # samples 5, 6 and 7 are lost
    assert firsts(windows) == [8, 10]
    assert [window.quality.after_gap for window in windows] == [True, False]
    assert (windower.gaps, windower.setbacks) == (1, 0)


def test_clock_jitter_within_a_period_and_a_half_is_no_gap() -> None:
    windower = Windower(schema())
    windower.push(ramp(3), 0.0)
    windows = windower.push(ramp(3, first=3), 0.3 + 0.14)
    assert firsts(windows) == [0, 2]
    assert windower.push(ramp(2, first=6), 0.74 + 0.16)[:] == []
    assert windower.gaps == 1


def test_a_slow_drift_of_the_sensor_clock_is_never_a_gap() -> None:
    windower = Windower(schema())
    got = 0
    for i in range(1000):  # 5 % slow: after 1,000 samples the clock is 5 s off the nominal rate
        got += len(windower.push(ramp(1, first=i), i * 0.105))
    assert got == 499
    assert windower.gaps == 0


def test_a_clock_set_back_starts_over_and_is_counted() -> None:
    windower = Windower(schema())
    windower.push(ramp(3), 100.0)
    windows = windower.push(ramp(4, first=50), 7.0)
    assert firsts(windows) == [50]
    assert windows[0].start_seconds == pytest.approx(7.0)
    assert windows[0].quality.after_gap
    assert (windower.gaps, windower.setbacks) == (0, 1)


def test_a_held_window_is_never_written_over() -> None:
    windower = Windower(schema())
    held = windower.push(ramp(4), 0.0)[0]
    for i in range(4, 200):
        windower.push(ramp(1, first=i), i / 10)
    np.testing.assert_array_equal(held.samples[0], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        held.samples[0, 0] = 9


def test_memory_stays_bounded_after_a_long_block() -> None:
    windower = Windower(schema())
    windower.push(ramp(100_000), 0.0)
    windower.push(ramp(1, first=100_000), 10_000.0)
    assert windower._buffer.nbytes <= 5 * 4 * 2 * 4


def test_a_block_of_the_wrong_shape_is_refused() -> None:
    windower = Windower(schema())
    with pytest.raises(UsageError, match=r"\(4, 3\).*\[n, 2\].*c0, c1"):
        windower.push(ramp(4, channels=3), 0.0)
    with pytest.raises(UsageError, match=r"\(4,\)"):
        windower.push(np.zeros(4, np.float32), 0.0)


@pytest.mark.parametrize("time_seconds", [float("nan"), float("inf")])
def test_a_time_that_is_no_time_is_refused_and_nothing_is_lost(time_seconds: float) -> None:
    windower = Windower(schema())
    windower.push(ramp(2), 0.0)
    with pytest.raises(UsageError, match="finite"):
        windower.push(ramp(2, first=2), time_seconds)
    assert firsts(windower.push(ramp(2, first=2), 0.2)) == [0]


def test_samples_that_are_not_numbers_are_flagged() -> None:
    samples = ramp(8)
    samples[5, 1] = np.nan
    windows = Windower(schema(hop=4)).push(samples, 0.0)
    assert [window.quality.not_finite for window in windows] == [(), ("c1",)]
