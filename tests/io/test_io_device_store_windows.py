from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store import (
    UNLABELLED,
    DeviceStore,
    Forgotten,
    GivenLabel,
    Kept,
    StoredWindow,
    StoreLimits,
    StreamRow,
)
from tests.io.keeping import LIMITS, WINDOW_BYTES, Hands, item, notice, small_store, window

store = pytest.fixture(small_store)


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[DeviceStore]:
    opened = DeviceStore(tmp_path / "wide.db")
    yield opened
    opened.close()


def test_windows_come_back_as_they_went_in(store: DeviceStore) -> None:
    store.add_windows([window(1.5), window(2.0, purpose="test")], 0.0)
    x, y = store.load_windows()
    assert x.dtype == np.float32
    assert x.shape == (2, 2, 3)
    assert y.tolist() == [1, 2]
    assert x[0].tolist() == [[1.5] * 3] * 2
    assert store.load_windows("test")[1].tolist() == [2]
    assert (store.window_count(), store.window_count("test")) == (2, 1)
    assert store.windows_bytes() == 2 * WINDOW_BYTES


def test_the_newest_window_is_the_one_added_last_for_that_purpose(store: DeviceStore) -> None:
    assert store.newest_window("train") is None
    store.add_windows([window(1, 7.0), window(2, 9.0), window(3, 11.0, "holdout")], 12.0)
    assert store.newest_window("train") == 9.0
    assert store.newest_window("holdout") == 11.0
    assert store.newest_window("test") is None


def test_without_windows_the_arrays_are_empty(store: DeviceStore) -> None:
    x, y = store.load_windows()
    assert (len(x), len(y), store.windows_bytes()) == (0, 0, 0)
    store.add_windows([window(1.0)], 0.0)
    assert store.load_windows("unknown")[0].shape == (0, 2, 3)


def test_the_oldest_window_goes_first_and_is_counted(store: DeviceStore) -> None:
    store.add_windows([window(value) for value in range(5)], 0.0)
    assert store.load_windows()[1].tolist() == [2, 3, 4]
    assert store.add_windows([window(5.0)], 0.0) == 1
    assert store.load_windows()[1].tolist() == [3, 4, 5]
    assert store.drops() == {"window_full": 3}


def test_windows_are_kept_for_so_long_whatever_their_own_time(tmp_path: Path) -> None:
    hands = Hands()
    store = DeviceStore(tmp_path / "device.db", LIMITS, hands.clocks())
    store.add_windows([window(1, start=-1e9), window(2, start=1e12)])
    hands.wait(99.0)
    store.add_windows([window(3)])
    assert store.window_count() == 3
    hands.wait(2.0)
    assert store.expire() == 2
    assert store.load_windows()[1].tolist() == [3]
    hands.wait(100.0)
    store.add_windows([window(4)])
    assert store.load_windows()[1].tolist() == [4]
    assert store.drops() == {"window_expired": 3}
    store.close()


def test_windows_of_another_shape_replace_those_no_model_reads(store: DeviceStore) -> None:
    store.add_windows([window(1.0)], 0.0)
    store.add_windows([StoredWindow(np.zeros(4, np.float32), 9, 0.0)], 0.0)
    assert store.load_windows()[0].shape == (1, 4)
    assert store.drops() == {"window_shape": 1}


@pytest.mark.parametrize("x", [np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float64)])
def test_a_batch_has_one_shape_and_is_float32(store: DeviceStore, x: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match=r"wanted float32\[2, 3\]"):
        store.add_windows([window(1.0), StoredWindow(x, 0, 0.0)], 0.0)
    assert store.window_count() == 0


def test_cleared_windows_are_overwritten_in_the_file(store: DeviceStore, tmp_path: Path) -> None:
    secret = np.frombuffer(b"heartbeats of me ".ljust(24, b"!"), np.float32).reshape(2, 3)
    store.add_windows([StoredWindow(secret, 1, 0.0)], 0.0)
    assert store.clear_windows() == 1
    assert store.window_count() == 0
    assert b"heartbeats of me" not in on_disk(tmp_path)


def on_disk(directory: Path) -> bytes:
    names = ("device.db", "device.db-wal")
    return b"".join((directory / name).read_bytes() for name in names)


def test_what_the_ring_pushed_out_is_overwritten_too(store: DeviceStore, tmp_path: Path) -> None:
    secret = np.frombuffer(b"heartbeats of me ".ljust(24, b"!"), np.float32).reshape(2, 3)
    store.add_windows([StoredWindow(secret, 1, 0.0)])
    for value in range(3):
        store.add_windows([window(value)])
    assert store.window_count() == 3
    assert store.forget_windows(1e6, 2e6) == 0  # empties the journal, and forgets nothing else
    assert b"heartbeats of me" not in on_disk(tmp_path)


def test_each_stream_has_its_own_windows(wide: DeviceStore) -> None:
    wide.add_windows([window(1, 10.0, stream="mill"), window(2, 20.0, stream="fan")])
    wide.add_windows([window(UNLABELLED, 30.0, stream="mill")])
    assert wide.window_streams() == [
        StreamRow("fan", 1, 1, 20.0, 20.0),
        StreamRow("mill", 2, 1, 10.0, 30.0),
    ]
    assert wide.load_windows(stream="mill")[1].tolist() == [1, UNLABELLED]
    assert wide.load_windows(labelled=True)[1].tolist() == [1, 2]
    assert wide.load_windows(stream="mill", labelled=False)[0].shape == (1, 2, 3)
    assert wide.labels() == {UNLABELLED: 1, 1: 1, 2: 1}


def test_windows_are_listed_newest_first(wide: DeviceStore) -> None:
    wide.add_windows([window(value, 10.0 * value, stream="mill") for value in range(5)])
    rows = wide.list_windows("mill", 10.0, 40.0, limit=2)
    assert [(row.start_seconds, row.label) for row in rows] == [(30.0, 3), (20.0, 2)]
    samples = wide.window(rows[0].id)
    assert samples is not None and samples.tolist() == [[3.0] * 3] * 2
    assert wide.window(99) is None
    assert wide.list_windows("fan") == []


def test_all_windows_come_out_a_batch_at_a_time(wide: DeviceStore) -> None:
    wide.add_windows([window(value, value) for value in range(5)])
    batches = [([row.label for row in rows], x.shape) for rows, x in wide.iter_windows(2)]
    assert batches == [([0, 1], (2, 2, 3)), ([2, 3], (2, 2, 3)), ([4], (1, 2, 3))]


def test_a_period_is_labelled_later(wide: DeviceStore) -> None:
    wide.add_windows([window(UNLABELLED, start, stream="mill", seconds=10) for start in range(4)])
    wide.add_windows([window(UNLABELLED, 1.0, stream="fan", seconds=10)])
    assert wide.label_windows("mill", 6.0, 8.0, 3) == 2  # their middles are 5, 6, 7 and 8
    assert wide.load_windows(stream="mill")[1].tolist() == [UNLABELLED, 3, 3, UNLABELLED]
    assert wide.label_windows("", 0.0, 100.0, 0) == 5


def test_what_was_said_is_kept_as_it_was_said(wide: DeviceStore) -> None:
    first = GivenLabel("mill", 0.0, 60.0, "outer race", 100.0)
    second = GivenLabel("fan", 0.0, 60.0, "normal", 200.0)
    wide.give_label(first)
    wide.give_label(second)
    assert wide.given_labels() == [second, first]
    assert wide.given_labels("mill") == [first]


def test_a_period_is_forgotten_with_all_that_reaches_into_it(wide: DeviceStore) -> None:
    wide.add_windows([window(v, 10.0 * v, stream="mill", seconds=10) for v in range(4)])
    wide.add_windows([window(1, 12.0, stream="fan", seconds=10)])
    wide.add_notices([notice("mill", 5.0), notice("mill", 15.0), notice("fan", 15.0)])
    wide.give_label(GivenLabel("mill", 0.0, 11.0, "normal", 100.0))
    wide.put_outbox(item("update"))
    late = item("summary", kind="summary", created=60.0)._replace(stream="mill", since_seconds=0.0)
    wide.put_outbox_batch([late, item("exception", kind="exception", created=30.0)])
    told = Forgotten(windows=2, bytes=2 * WINDOW_BYTES, notices=1, waiting=1)
    assert wide.touched(15.0, 25.0, "mill") == told
    assert wide.forget(15.0, 25.0, "mill") == told
    assert wide.load_windows(stream="mill")[1].tolist() == [0, 3]
    assert wide.load_windows(stream="fan")[1].tolist() == [1]
    assert [one.time_seconds for one in wide.notices()] == [15.0, 5.0]
    assert len(wide.given_labels()) == 1  # it ended before
    assert {one.id for one in wide.outbox()} == {"update", "exception"}
    assert wide.touched(15.0, 25.0) == Forgotten(1, WINDOW_BYTES, 1, 0)


def test_everything_is_erased_but_who_the_device_is(wide: DeviceStore) -> None:
    wide.add_windows([window(1)])
    wide.add_notices([notice("mill", 5.0)])
    wide.give_label(GivenLabel("mill", 0.0, 11.0, "normal", 100.0))
    wide.put_outbox_batch([item("update"), item("summary", kind="summary")])
    wide.set_fact("enrolment", b"1")
    assert wide.erase() == Forgotten(1, WINDOW_BYTES, 1, 1)
    assert (wide.window_count(), wide.notices(), wide.given_labels()) == (0, [], [])
    assert [one.id for one in wide.outbox()] == ["update"]
    assert wide.fact("enrolment") == b"1"


def test_notices_are_a_ring_of_the_newest(store: DeviceStore) -> None:
    for number in range(20):
        store.add_notices([notice("mill", float(number), alert=number % 2 == 0)])
    kept = store.notices()
    assert [one.time_seconds for one in kept] == [19.0 - n for n in range(len(kept))]
    assert 5 < len(kept) < 20
    assert store.notices_bytes() <= LIMITS.notices_bytes_max
    assert store.drops() == {"notice_full": 20 - len(kept)}
    assert [one.time_seconds for one in store.notices(alerts=True, limit=2)] == [18.0, 16.0]
    assert [one.time_seconds for one in store.notices(since=18.0)] == [19.0, 18.0]
    assert store.notices("fan") == []


def test_notices_come_back_as_they_went_in(store: DeviceStore) -> None:
    told = notice("mill", 5.0, alert=True)
    store.add_notices([told])
    back = store.notices()[0]
    assert (back.stream, back.label, back.alert) == ("mill", "normal", True)
    assert np.isnan(back.score)


def test_what_is_kept_is_told_with_its_caps(wide: DeviceStore) -> None:
    wide.add_windows([window(1, 10.0), window(2, 20.0)])
    wide.put_blob(b"model")
    kept = wide.kept()
    assert kept["windows"] == Kept(2, 2 * WINDOW_BYTES, StoreLimits().windows_bytes_max, 10.0, 20.0)
    assert (kept["models"].count, kept["models"].bytes) == (1, 5)
    assert kept["outbox"].oldest_seconds is None


def test_another_process_may_look_and_not_touch(wide: DeviceStore, tmp_path: Path) -> None:
    wide.add_windows([window(1)])
    reading = DeviceStore.reading(tmp_path / "wide.db")
    assert reading.window_count() == 1
    wide.add_windows([window(2)])
    assert reading.window_count() == 2
    with pytest.raises(Exception, match="readonly"):
        reading.set_fact("a", b"1")
    reading.close()
    with pytest.raises(UsageError, match="cannot read"):
        DeviceStore.reading(tmp_path / "none.db")
