"""A store that an older Hedgerow wrote is taken over as it is."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store import DeviceStore, OutboxItem

LAYOUT_1 = """
CREATE TABLE windows (
  id INTEGER PRIMARY KEY AUTOINCREMENT, start REAL NOT NULL, label INTEGER NOT NULL,
  purpose TEXT NOT NULL, x BLOB NOT NULL) STRICT;
CREATE INDEX windows_purpose ON windows (purpose, id);
CREATE INDEX windows_start ON windows (start);
CREATE TABLE outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  priority INTEGER NOT NULL, created REAL NOT NULL, size INTEGER NOT NULL,
  body BLOB NOT NULL) STRICT;
CREATE INDEX outbox_order ON outbox (priority, number, size);
CREATE TABLE facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE blobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
  body BLOB NOT NULL) STRICT;
CREATE TABLE drops (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
CREATE TABLE window_shape (one INTEGER PRIMARY KEY CHECK (one = 1), shape TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def written_by_layout_1(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript(LAYOUT_1)
    x = np.arange(6, dtype=np.float32)
    db.execute("INSERT INTO window_shape VALUES (1, '2,3')")
    for label in (3, 4):
        row = (10.0 * label, label, "train", x.tobytes())
        db.execute("INSERT INTO windows (start, label, purpose, x) VALUES (?, ?, ?, ?)", row)
    db.execute(
        "INSERT INTO outbox (id, kind, priority, created, size, body) VALUES (?, ?, ?, ?, ?, ?)",
        ("me/5/update", "update", 10, 7.0, 4, b"sent"),
    )
    db.execute("INSERT INTO facts VALUES ('enrolment', ?)", (b"here",))
    db.execute("INSERT INTO drops VALUES ('window_full', 9)")
    db.commit()
    db.close()


def test_a_store_of_layout_1_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    written_by_layout_1(path)
    for _ in range(2):  # the second time it is of this layout already
        store = DeviceStore(path)
        assert store.set_aside is None
        x, y = store.load_windows("train")
        assert (x.shape, y.tolist()) == ((2, 2, 3), [3, 4])
        assert x[0].ravel().tolist() == [0, 1, 2, 3, 4, 5]
        assert store.newest_window("train") == 40.0
        assert store.outbox() == [OutboxItem("me/5/update", "update", 10, 7.0, b"sent")]
        assert store.fact("enrolment") == b"here"
        assert store.drops() == {"window_full": 9}
        assert store.expire() == 0  # what it had is young: no clock of its own ran before
        assert store.outbox_bytes() > 100
        store.close()


def test_a_store_of_layout_1_that_is_cut_off_in_between_is_taken_over_later(
    tmp_path: Path,
) -> None:
    path = tmp_path / "device.db"
    written_by_layout_1(path)
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notices (other TEXT)")  # makes the new tables fail in the middle
    db.commit()
    with pytest.raises(UsageError, match="notices"):
        DeviceStore(path)
    db.execute("DROP TABLE notices")
    db.commit()
    db.close()
    store = DeviceStore(path)
    assert (store.window_count(), len(store.outbox())) == (2, 1)
    store.close()
