import multiprocessing
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore, OutboxItem, StoredWindow, StoreLimits

WINDOW_BYTES = 2 * 3 * 4


def window(value: float, start: float = 0.0, purpose: str = "train") -> StoredWindow:
    return StoredWindow(np.full((2, 3), value, np.float32), int(value), start, purpose)


def item(name: str, priority: int = 0, size: int = 10, created: float = 0.0) -> OutboxItem:
    return OutboxItem(name, "update", priority, created, name[0].encode() * size)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeviceStore]:
    opened = DeviceStore(
        tmp_path / "device.db",
        StoreLimits(
            windows_bytes_max=3 * WINDOW_BYTES,
            windows_age_seconds_max=100.0,
            outbox_bytes_max=30,
            outbox_age_seconds_max=100.0,
            blobs_bytes_max=30,
        ),
    )
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
    store.add_windows([window(5.0, start=150.0)], 150.0)
    assert store.load_windows()[1].tolist() == [5]
    assert store.drops() == {"window_expired": 3, "window_full": 2}


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
    for name in ("device.db", "device.db-wal"):
        assert b"heartbeats of me" not in (tmp_path / name).read_bytes()


def test_the_outbox_gives_the_highest_priority_first(store: DeviceStore) -> None:
    for each in (item("a"), item("b", priority=1), item("c")):
        assert store.put_outbox(each)
    assert [each.id for each in store.outbox()] == ["b", "a", "c"]
    assert store.outbox(1) == [item("b", priority=1)]
    assert store.outbox_item("a") == item("a")
    assert store.outbox_bytes() == 30
    assert store.acknowledge("b")
    assert not store.acknowledge("b")
    assert store.outbox_item("b") is None


def test_putting_an_id_again_changes_nothing(store: DeviceStore) -> None:
    store.put_outbox(item("a"))
    assert store.put_outbox(item("a", priority=9, size=20))
    assert store.outbox() == [item("a")]


def test_the_lowest_priority_goes_first_then_the_oldest(store: DeviceStore) -> None:
    for each in (item("a", 1), item("b", 0), item("c", 0)):
        store.put_outbox(each)
    assert store.put_outbox(item("d", 0))
    assert [each.id for each in store.outbox()] == ["a", "c", "d"]
    assert store.put_outbox(item("e", 1, size=20))
    assert [each.id for each in store.outbox()] == ["a", "e"]
    assert store.drops() == {"outbox_full": 3}


def test_a_newcomer_never_pushes_out_what_matters_more(store: DeviceStore) -> None:
    for each in (item("a", 2), item("b", 2), item("c", 0)):
        store.put_outbox(each)
    assert not store.put_outbox(item("d", 1, size=11))
    assert [each.id for each in store.outbox()] == ["a", "b", "c"]
    assert not store.put_outbox(item("e", 9, size=31))
    assert store.drops() == {"outbox_full": 2}


def test_old_and_pointless_items_are_dropped_by_reason(store: DeviceStore) -> None:
    store.put_outbox(item("a", created=0.0))
    store.put_outbox(item("b", created=50.0))
    assert store.expire_outbox(120.0) == 1
    assert store.drop_outbox("b", "round_over")
    assert not store.drop_outbox("b", "round_over")
    assert store.drops() == {"outbox_expired": 1, "round_over": 1}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=30))
def test_the_outbox_never_exceeds_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "device.db"
    store = DeviceStore(path, StoreLimits(outbox_bytes_max=50))
    for number, (priority, size) in enumerate(puts):
        store.put_outbox(item(f"x{number}", priority, size))
        assert store.outbox_bytes() <= 50
    assert len(store.outbox()) + store.drops().get("outbox_full", 0) == len(puts)
    store.close()


def test_facts_and_blobs(store: DeviceStore) -> None:
    assert store.fact("jwt") is None
    store.set_fact("jwt", b"")
    assert store.fact("jwt") == b""
    store.set_fact("jwt", None)
    assert store.fact("jwt") is None
    first = store.put_blob(b"a" * 10)
    second = store.put_blob(b"b" * 10)
    assert store.put_blob(b"a" * 10) == first
    store.put_blob(b"c" * 15)
    assert store.blob(first) == b"a" * 10
    assert store.blob(second) is None
    assert store.drops() == {"blob_full": 1}
    with pytest.raises(UsageError, match="blobs_bytes_max"):
        store.put_blob(b"d" * 31)


def test_the_bundle_outlives_any_number_of_models(store: DeviceStore) -> None:
    bundle = store.put_blob(b"b" * 10)
    store.set_fact(FACT_BUNDLE, bundle.encode())
    for number in range(50):
        model = store.put_blob(bytes([number]) * 15)
        assert store.blob(model) is not None
    assert store.blob(bundle) == b"b" * 10
    assert store.drops() == {"blob_full": 49}
    store.put_blob(b"x" * 30)  # beside this one nothing fits
    assert store.blob(bundle) is None


def test_a_forgotten_blob_is_no_drop(store: DeviceStore) -> None:
    first, second = store.put_blob(b"a" * 20), store.put_blob(b"b" * 10)
    assert store.forget_blob(first)
    assert not store.forget_blob(first)
    store.put_blob(b"c" * 20)
    assert (store.blob(first), store.blob(second)) == (None, b"b" * 10)
    assert store.drops() == {}


def test_a_blob_that_rotted_is_not_given_out(store: DeviceStore, tmp_path: Path) -> None:
    sha256 = store.put_blob(b"model")
    other = sqlite3.connect(tmp_path / "device.db")
    other.execute("UPDATE blobs SET body = ?", (b"mode1",))
    other.commit()
    other.close()
    assert store.blob(sha256) is None
    assert store.drops() == {"blob_damaged": 1}


def test_a_failing_transaction_leaves_nothing(store: DeviceStore) -> None:
    def fail_in_the_middle() -> None:
        with store.transaction():
            store.put_outbox(item("a"))
            store.set_fact("round", b"1")
            store.add_windows([window(1.0)], 0.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert (store.outbox(), store.fact("round"), store.window_count()) == ([], None, 0)
    store.set_fact("round", b"2")
    assert store.fact("round") == b"2"


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "device.db"
    path.write_bytes(b"this is no database, " * 1000)
    store = DeviceStore(path)
    assert store.set_aside == tmp_path / "device.db.damaged"
    assert store.set_aside.read_bytes().startswith(b"this is no database")
    assert "damaged" in caplog.text
    store.set_fact("a", b"1")
    store.close()
    again = DeviceStore(path)
    assert (again.fact("a"), again.set_aside) == (b"1", None)
    again.close()


def test_a_file_torn_in_the_middle_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    store = DeviceStore(path)
    store.add_windows([window(float(value)) for value in range(2000)], 0.0)
    store.close()
    data = bytearray(path.read_bytes())
    data[4096 * 5 : 4096 * 20] = os.urandom(4096 * 15)
    path.write_bytes(data)
    store = DeviceStore(path)
    assert store.set_aside is not None
    assert store.window_count() == 0
    store.close()


def test_one_agent_to_a_file_and_nobody_else_reads_it(store: DeviceStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another process"):
        DeviceStore(tmp_path / "device.db")
    store.set_fact("a", b"1")
    for name in ("device.db", "device.db-wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_newer_layout_is_refused_not_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    DeviceStore(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(UsageError, match="layout 99"):
        DeviceStore(path)


def test_a_killed_writer_loses_nothing_it_was_told_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    writer = context.Process(target=_write_for_ever, args=(path, tell))
    writer.start()
    assert writer.pid is not None
    confirmed = 0
    while confirmed < 50:
        confirmed = told.recv()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    while told.poll():
        confirmed = told.recv()
    store = DeviceStore(path)
    assert store.set_aside is None
    kept = {each.id for each in store.outbox(10_000)}
    assert {f"x{number}" for number in range(confirmed + 1)} <= kept
    last = store.fact("last")
    assert last is not None
    assert len(kept) == int(last) + 1  # both effects of a transaction, or none
    store.close()


def _write_for_ever(path: Path, tell: Connection) -> None:
    store = DeviceStore(path)
    number = 0
    while True:
        with store.transaction():
            store.put_outbox(item(f"x{number}"))
            store.set_fact("last", str(number).encode())
        tell.send(number)
        number += 1
