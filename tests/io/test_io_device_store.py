import multiprocessing
import os
import signal
import sqlite3
import stat
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore
from tests.io.keeping import item, small_store, window

store = pytest.fixture(small_store)


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


def test_erasing_everything_takes_a_damaged_predecessor_too(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    path.write_bytes(b"this is no database" * 500)
    (tmp_path / "device.db-wal").write_bytes(b"nor is this a journal")
    store = DeviceStore(path)
    assert store.set_aside is not None and store.set_aside.exists()
    store.erase()
    assert not list(tmp_path.glob("*.damaged*"))
    store.close()


def test_what_was_deleted_is_out_of_the_journal_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    store = DeviceStore(path)
    store.set_fact("secret", b"nobody is to read this again" * 100)
    copy = tmp_path / "copy"
    copy.mkdir()
    store.set_fact("secret", None)
    for name in ("device.db", "device.db-wal"):  # as a power loss leaves them
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    assert b"nobody is to read" in (copy / "device.db-wal").read_bytes()
    again = DeviceStore(copy / "device.db")
    assert b"nobody is to read" not in (copy / "device.db-wal").read_bytes()
    assert b"nobody is to read" not in (copy / "device.db").read_bytes()
    again.close()
    store.close()
