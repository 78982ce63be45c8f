"""The replay buffer: bounded, fair to streams and to times, labelled and forgotten."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.serve.onsite.replay import NORMAL, UNLABELLED, Replay

SHAPE = (8,)
EACH = 8 * 4 + 32


def replay(windows: int, memory: int = 500_000, seed: int = 0) -> Replay:
    return Replay(SHAPE, windows * EACH, stream(seed, "replay"), memory_windows=memory)


def offer(
    buffer: Replay, rows: NDArray[np.int64], start: float, scores: NDArray[np.float32] | None = None
) -> None:
    x = np.repeat(rows[:, None], 8, 1).astype(np.float32) + np.float32(start) * 1e-3
    buffer.add(rows, x, start + np.linspace(0, 1e-3, len(rows)), scores)


def test_it_keeps_all_until_it_is_full_and_never_more() -> None:
    buffer = replay(100)
    for start in range(40):
        offer(buffer, np.arange(5), float(start))
        assert len(buffer) == min(100, 5 * (start + 1))
        assert buffer.nbytes <= 100 * EACH
    assert buffer.streams == 5
    kept = buffer.all()
    assert (kept.x[:, 0].astype(int) == kept.rows).all()  # every window is still its own


def test_a_busy_stream_does_not_push_out_a_quiet_one() -> None:
    buffer = replay(200)
    for start in range(2000):
        offer(buffer, np.zeros(10, np.int64), float(start))
        if start % 20 == 0:
            offer(buffer, np.array([1, 2, 3]), start + 0.5)
    counts = np.bincount(buffer.all().rows)
    assert len(buffer) == 200
    assert counts[1:].min() >= 40 and counts[0] <= 80


def test_streams_that_come_later_get_their_share() -> None:
    buffer = replay(120)
    for start in range(100):
        offer(buffer, np.zeros(10, np.int64), float(start))
    for start in range(100, 200):
        offer(buffer, np.arange(4), float(start))
    counts = np.bincount(buffer.all().rows)
    assert counts.min() >= 25 and counts.max() <= 40


def test_what_is_kept_of_a_stream_is_of_all_times() -> None:
    buffer = replay(400)
    for start in range(20_000):
        offer(buffer, np.zeros(1, np.int64), float(start))
    thirds = np.histogram(buffer.all().seconds, bins=4, range=(0, 20_000))[0]
    assert thirds.min() > 60 and thirds.max() < 145


def test_beyond_its_memory_old_windows_fade() -> None:
    buffer = replay(100, memory=500)
    for start in range(6000):
        offer(buffer, np.zeros(1, np.int64), float(start))
    ages = 6000 - buffer.all().seconds
    assert np.median(ages) < 800
    slow = replay(100)
    for start in range(6000):
        offer(slow, np.zeros(1, np.int64), float(start))
    slow.hurry([0, 77])  # it drifted
    for start in range(6000, 6300):
        offer(slow, np.zeros(1, np.int64), float(start))
    assert (slow.all().seconds >= 6000).mean() > 0.5


def test_labels_are_given_later_and_kept_before_others() -> None:
    buffer = replay(64)
    for start in range(60):
        offer(buffer, np.array([3]), float(start))
    assert buffer.label(3, 10, 20, NORMAL) == 10
    assert buffer.label(3, 15, 25, 1) == 10  # somebody changed their mind
    assert buffer.label(4, 0, 99, 1) == 0
    assert buffer.labelled == 15
    for start in range(1000, 3000):
        offer(buffer, np.arange(4), float(start))
    kept = buffer.all()
    assert (kept.labels == NORMAL).sum() == 5 and (kept.labels == 1).sum() == 10
    assert sorted(kept.seconds[kept.labels == 1].tolist()) == [float(s) for s in range(15, 25)]


def test_labelled_windows_from_elsewhere_take_half_at_most() -> None:
    buffer = replay(64)
    for start in range(100):
        offer(buffer, np.array([0]), float(start))
    x = np.ones((50, 8), np.float32)
    labels = np.arange(50)
    buffer.add_labelled(np.zeros(50, np.int64), x, np.arange(50.0), labels)
    kept = buffer.all()
    assert len(kept) == 64 and buffer.labelled == 32
    assert sorted(kept.labels[kept.labels != UNLABELLED].tolist()) == list(range(18, 50))


def test_a_buffer_of_labelled_windows_alone_takes_no_more() -> None:
    buffer = replay(16)
    for start in range(16):
        offer(buffer, np.array([0]), float(start))
    buffer.label(0, 0, 99, 2)
    offer(buffer, np.array([0, 1]), 200.0)
    assert buffer.labelled == len(buffer) == 16
    buffer.add_labelled(
        np.array([1]), np.ones((1, 8), np.float32), np.array([300.0]), np.array([5])
    )
    assert (buffer.all().labels == 5).sum() == 1


def test_a_period_is_forgotten_and_overwritten() -> None:
    buffer = replay(64)
    for start in range(30):
        offer(buffer, np.array([0, 1]), float(start))
    buffer.label(0, 5, 6, 1)
    assert buffer.forget(5, 15, row=0) == 10
    assert buffer.forget(20, 25) == 10
    kept = buffer.all()
    assert len(kept) == len(buffer) == 40 and buffer.labelled == 0
    assert not ((kept.seconds >= 20) & (kept.seconds < 25)).any()
    assert np.isin(buffer._x.reshape(-1, 8)[buffer._free], 0).all()
    offer(buffer, np.array([0, 1]), 99.0)
    assert len(buffer) == 42


def test_neighbours_are_held_out_together() -> None:
    buffer = replay(4000)
    for start in range(0, 3600, 3):
        offer(buffer, np.arange(3), float(start))
    kept = buffer.all()
    held = kept.held_out()
    assert 0.1 < held.mean() < 0.3
    for row in range(3):
        mine = kept.rows == row
        blocks = np.floor(kept.seconds[mine] / 30)
        for block in np.unique(blocks):
            assert len({*held[mine][blocks == block].tolist()}) == 1


def test_the_same_windows_give_the_same_buffer() -> None:
    one, other = replay(50, seed=4), replay(50, seed=4)
    for start in range(300):
        for buffer in (one, other):
            offer(buffer, np.arange(3), float(start))
    np.testing.assert_array_equal(one.all().seconds, other.all().seconds)


def test_a_buffer_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="buffer_bytes_max to 4096"):
        replay(10)
