"""What is usual for a stream: against NumPy, with outliers, and through a file."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.streams import stream
from hedgerow.model.normal import CLIP, FIRST, Normal, distance, grown, turns

Array = NDArray[np.float32]


def drawn(count: int, size: int = 5, *names: str | int) -> Array:
    rng = stream(1, "normal", *names)
    mean, deviation = np.arange(size), 0.1 + 0.2 * np.arange(size)
    return (mean + deviation * rng.standard_normal((count, size))).astype(np.float32)


def test_it_comes_to_the_mean_and_the_deviation_of_what_it_saw() -> None:
    x = drawn(3000)
    normal = Normal(1, 5)
    normal.learn(np.zeros(3000, np.int64), x)
    kept = normal.arrays(1)
    np.testing.assert_allclose(kept["mean"][0], x.mean(0), atol=0.01)
    np.testing.assert_allclose(kept["deviation"][0], x.std(0), rtol=0.06)
    z = normal.standardise(np.zeros(3000, np.int64), x)
    np.testing.assert_allclose(distance(z).mean(), 1, atol=0.1)


def test_one_window_in_forty_that_is_far_off_moves_it_little() -> None:
    x = drawn(2000)
    x[::40] += 50
    normal = Normal(1, 5)
    normal.learn(np.zeros(2000, np.int64), x)
    kept = normal.arrays(1)
    deviation = 0.1 + 0.2 * np.arange(5)
    assert np.abs((kept["mean"][0] - np.arange(5)) / deviation).max() < 0.4
    assert (kept["deviation"][0] < 1.6 * deviation).all()
    # … where the plain mean is 1.25 off, and the plain deviation 8.
    assert np.abs(x.mean(0) - np.arange(5)).min() > 1


def test_streams_do_not_touch_and_a_row_may_come_often_in_a_batch() -> None:
    apart, together = Normal(3, 5), Normal(3, 5)
    x = np.stack([drawn(60, 5, i) + 10 * i for i in range(3)])
    for row in range(3):
        for window in x[row]:
            apart.learn(np.array([row]), window[None])
    for start in range(0, 60, 6):
        batch = x[:, start : start + 6].reshape(-1, 5)
        together.learn(np.repeat(np.arange(3), 6), batch)
    for name, array in apart.arrays(3).items():
        got, wanted = (np.asarray(part, np.float64) for part in (together.arrays(3)[name], array))
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_stream_that_has_hardly_begun_is_0() -> None:
    normal = Normal(2, 5)
    rows = np.zeros(FIRST - 1, np.int64)
    normal.learn(rows, drawn(FIRST - 1))
    assert not normal.standardise(rows, drawn(FIRST - 1)).any()
    normal.learn(rows[:1], drawn(1))
    assert normal.standardise(rows, drawn(FIRST - 1)).any()
    assert not normal.standardise(np.array([1]), drawn(1)).any()
    normal.forget(np.array([0]))
    assert not normal.standardise(rows, drawn(FIRST - 1)).any()


def test_a_broken_band_does_not_outweigh_the_others() -> None:
    normal = Normal(1, 5)
    normal.learn(np.zeros(100, np.int64), drawn(100))
    x = drawn(1, 5, "new")
    x[0, 0] = 1e9
    z = normal.standardise(np.zeros(1, np.int64), x)
    assert z[0, 0] == CLIP and np.abs(z[0, 1:]).max() < 5


def test_a_band_that_never_moved_has_a_least_deviation() -> None:
    normal = Normal(1, 2)
    normal.learn(np.zeros(200, np.int64), np.full((200, 2), 3, np.float32))
    z = normal.standardise(np.zeros(1, np.int64), np.array([[3.0, 3.04]], np.float32))
    np.testing.assert_allclose(z[0], [0, 2], atol=1e-3)


def test_it_comes_back_as_it_was_kept() -> None:
    normal = Normal(4, 5)
    normal.learn(np.repeat([0, 2], 40), drawn(80))
    normal.learn(np.array([3]), drawn(1))  # hardly begun
    back = Normal.of_arrays(normal.arrays(4))
    rows, x = np.arange(4), drawn(4, 5, "more")
    np.testing.assert_array_equal(back.standardise(rows, x), normal.standardise(rows, x))
    assert back.seen.tolist() == [40, 0, 40, 0]
    back.learn(np.array([3]), drawn(1))
    for name, broken in (
        ("mean", np.full((4, 5), np.nan, np.float32)),
        ("deviation", np.zeros((4, 5), np.float32)),
        ("seen", np.zeros(3, np.int64)),
    ):
        with pytest.raises(ValueError, match="normals"):
            Normal.of_arrays(normal.arrays(4) | {name: broken})


def test_it_grows_with_the_streams_and_is_small() -> None:
    normal = Normal(0, 64)
    normal.grow(2000)
    assert len(normal) >= 2000 and normal.nbytes < 2 * 2**20
    array = np.arange(3)
    assert grown(array, 2) is array
    assert grown(array, 4, 9).tolist() == [0, 1, 2, 9]


def test_turns_take_every_place_once_and_no_row_twice() -> None:
    rows = np.array([5, 1, 5, 5, 2, 1])
    got = [places.tolist() for places in turns(rows)]
    assert sorted(place for places in got for place in places) == list(range(6))
    for places in got:
        assert len({*rows[places].tolist()}) == len(places)
    assert [place for places in got for place in places if rows[place] == 5] == [0, 2, 3]
    assert [places.tolist() for places in turns(np.zeros(0, np.int64))] == [[]]
