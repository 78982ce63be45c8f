"""What a device keeps: its labelled windows, its outbox, small facts and model blobs.

One SQLite file in WAL mode with synchronous=FULL: what a call or a `transaction()` has committed
survives a kill and a power loss. Everything in it is bounded in bytes; what has to go goes in a
stated order and is counted. The identity is a file of its own, so that a database beyond repair can
be put aside and begun again without the device becoming somebody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io import sqlite_file

log = logging.getLogger(__name__)

FACT_BUNDLE: Final = "bundle"
"""Names the blob of the bundle in use, which makes room for no other while there is a choice."""
SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
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
"""


@dataclass(frozen=True)
class StoreLimits:
    """Caps of one device's store. They count payload bytes; a row costs about 100 bytes more."""

    windows_bytes_max: int = 64 * 2**20
    windows_age_seconds_max: float = 90 * 86_400.0
    outbox_bytes_max: int = 16 * 2**20
    outbox_age_seconds_max: float = 14 * 86_400.0
    blobs_bytes_max: int = 64 * 2**20


class StoredWindow(NamedTuple):
    """One labelled window. `x` is float32 of the model's input shape; `purpose` says what for."""

    x: NDArray[np.float32]
    label: int
    start_seconds: float
    purpose: str = "train"


class OutboxItem(NamedTuple):
    """One message that waits for its acknowledgement. Larger `priority` is sent first."""

    id: str
    kind: str
    priority: int
    created_seconds: float
    body: bytes


class DeviceStore:
    """The store in one file. Use it from the thread that made it; a write waits for the disk once.

    `set_aside` names where a damaged predecessor was moved to; None when there was none.
    """

    def __init__(self, path: Path, limits: StoreLimits | None = None) -> None:
        """Open or make the database. A damaged one is moved to `<name>.damaged` and begun anew.

        Raises UsageError when another process uses the file, when it cannot be written, or when it
        was written by a newer Hedgerow.
        """
        self.path = Path(path)
        self.limits = StoreLimits() if limits is None else limits
        self._depth = 0
        self._lock = sqlite_file.lock(self.path)
        try:
            self._db, self.set_aside = sqlite_file.open_or_begin_anew(
                self.path, SCHEMA, SCHEMA_VERSION
            )
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file; what was committed is in it."""
        self._db.close()
        os.close(self._lock)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside take effect together, or none when the block raises.

        One inside another joins the outer one.
        """
        if self._depth > 0:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    # Windows: a ring by bytes and age, oldest out first.

    def add_windows(self, windows: Sequence[StoredWindow], now: float) -> None:
        """Append; then evict the oldest beyond the byte cap, and those past the age cap.

        Windows of another shape than those kept push all of those out: the model that could read
        them is gone. Evictions are counted under `window_shape`, `window_full`, `window_expired`.
        Raises UsageError when shapes within `windows` differ or when one is not float32.
        """
        if not windows:
            return
        shape = windows[0].x.shape
        for window in windows:
            if window.x.shape != shape or window.x.dtype != np.float32:
                raise UsageError(
                    f"a window came as {window.x.dtype}{list(window.x.shape)}; wanted "
                    f"float32{list(shape)}, the shape of the first in the batch"
                )
        with self.transaction():
            self._take_shape(shape)
            self._db.executemany(
                "INSERT INTO windows (start, label, purpose, x) VALUES (?, ?, ?, ?)",
                [(w.start_seconds, int(w.label), w.purpose, w.x.tobytes()) for w in windows],
            )
            expired = self._db.execute(
                "DELETE FROM windows WHERE start < ?", (now - self.limits.windows_age_seconds_max,)
            ).rowcount
            self._count_drops("window_expired", expired)
            rows_max = self.limits.windows_bytes_max // max(1, windows[0].x.nbytes)
            excess = max(0, self.window_count() - rows_max)
            self._db.execute(
                "DELETE FROM windows WHERE id IN (SELECT id FROM windows ORDER BY id LIMIT ?)",
                (excess,),
            )
            self._count_drops("window_full", excess)

    def load_windows(
        self, purpose: str | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(x[N, *shape], y[N]), oldest first, of one purpose or of all. Without any, N is 0."""
        query = "SELECT x, label FROM windows ORDER BY id"
        values: tuple[str, ...] = ()
        if purpose is not None:
            query = "SELECT x, label FROM windows WHERE purpose = ? ORDER BY id"
            values = (purpose,)
        rows = self._db.execute(query, values).fetchall()
        shape = self._shape() or ()
        x = np.frombuffer(b"".join(row[0] for row in rows), np.float32)
        y = np.array([row[1] for row in rows], np.int64)
        return x.reshape((len(rows), *shape)), y

    def window_count(self, purpose: str | None = None) -> int:
        """How many windows are kept, of one purpose or of all."""
        if purpose is None:
            return self._number("SELECT COUNT(*) FROM windows")
        return self._number("SELECT COUNT(*) FROM windows WHERE purpose = ?", purpose)

    def newest_window(self, purpose: str) -> float | None:
        """When the window added last of that purpose began, in Unix seconds; None without any."""
        query = "SELECT start FROM windows WHERE purpose = ? ORDER BY id DESC LIMIT 1"
        row = self._db.execute(query, (purpose,)).fetchone()
        return None if row is None else float(row[0])

    def windows_bytes(self) -> int:
        """Bytes of all windows kept: data that never left this device."""
        shape = self._shape()
        if shape is None:
            return 0
        return self.window_count() * int(np.prod(shape)) * np.dtype(np.float32).itemsize

    def clear_windows(self) -> int:
        """The owner's veto: overwrite every window in the file with zeros; how many there were."""
        self._db.execute("PRAGMA secure_delete = ON")
        try:
            with self.transaction():
                count = self._db.execute("DELETE FROM windows").rowcount
        finally:
            self._db.execute("PRAGMA secure_delete = OFF")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    # Outbox: what waits for an acknowledgement.

    def put_outbox(self, item: OutboxItem) -> bool:
        """Keep `item` until it is acknowledged; whether it is kept now.

        An id that is there already changes nothing. To make room the lowest priority goes first,
        within it the oldest, and never one above the newcomer's: then the newcomer is dropped.
        """
        with self.transaction():
            if self._number("SELECT COUNT(*) FROM outbox WHERE id = ?", item.id):
                return True
            if not self._make_room(item):
                self._count_drops("outbox_full", 1)
                return False
            self._db.execute(
                "INSERT INTO outbox (id, kind, priority, created, size, body) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    item.id,
                    item.kind,
                    item.priority,
                    item.created_seconds,
                    len(item.body),
                    item.body,
                ),
            )
        return True

    def outbox(self, limit: int = 100) -> list[OutboxItem]:
        """What waits, highest priority first, within it oldest first."""
        rows = self._db.execute(
            "SELECT id, kind, priority, created, body FROM outbox "
            "ORDER BY priority DESC, number LIMIT ?",
            (limit,),
        )
        return [OutboxItem(*row) for row in rows]

    def outbox_item(self, item_id: str) -> OutboxItem | None:
        """The message that waits under that id; None when it was dropped or acknowledged."""
        row = self._db.execute(
            "SELECT id, kind, priority, created, body FROM outbox WHERE id = ?", (item_id,)
        ).fetchone()
        return None if row is None else OutboxItem(*row)

    def acknowledge(self, item_id: str) -> bool:
        """Delete a delivered item; whether it was there."""
        with self.transaction():
            return self._db.execute("DELETE FROM outbox WHERE id = ?", (item_id,)).rowcount == 1

    def drop_outbox(self, item_id: str, reason: str) -> bool:
        """Delete an item that is pointless now, counted under `reason`; whether it was there."""
        with self.transaction():
            there = self.acknowledge(item_id)
            self._count_drops(reason, int(there))
        return there

    def expire_outbox(self, now: float) -> int:
        """Drop what is older than the age cap; how many. Counted under `outbox_expired`."""
        with self.transaction():
            oldest = now - self.limits.outbox_age_seconds_max
            count = self._db.execute("DELETE FROM outbox WHERE created < ?", (oldest,)).rowcount
            self._count_drops("outbox_expired", count)
        return count

    def outbox_bytes(self) -> int:
        """Bytes of all messages that wait."""
        return self._number("SELECT TOTAL(size) FROM outbox")

    def drops(self) -> dict[str, int]:
        """Everything this store ever dropped, by reason."""
        return dict(self._db.execute("SELECT reason, count FROM drops ORDER BY reason").fetchall())

    # Facts: small durable state.

    def fact(self, key: str) -> bytes | None:
        """The value kept under `key`; None when there is none."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_fact(self, key: str, value: bytes | None) -> None:
        """Keep `value` under `key`; None deletes."""
        with self.transaction():
            if value is None:
                self._db.execute("DELETE FROM facts WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    # Blobs: models, by hash.

    def put_blob(self, data: bytes) -> str:
        """Keep `data`, give its sha256 in hex. What was put longest ago goes first to make room.

        The blob that `FACT_BUNDLE` names goes last, when nothing else is left to go.
        Putting it again renews it. Raises UsageError when it alone is over the cap.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        cap = self.limits.blobs_bytes_max
        if len(data) > cap:
            raise UsageError(
                f"a blob of {len(data)} bytes; the cap is {cap}, raise blobs_bytes_max"
            )
        with self.transaction():
            self._db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))
            total = self._number("SELECT TOTAL(size) FROM blobs")
            oldest = self._db.execute(
                "SELECT number, size FROM blobs ORDER BY sha256 IS "
                "(SELECT CAST(value AS TEXT) FROM facts WHERE key = ?), number",
                (FACT_BUNDLE,),
            ).fetchall()
            for number, size in oldest:
                if total + len(data) <= cap:
                    break
                self._db.execute("DELETE FROM blobs WHERE number = ?", (number,))
                self._count_drops("blob_full", 1)
                total -= size
            self._db.execute(
                "INSERT INTO blobs (sha256, size, body) VALUES (?, ?, ?)", (sha256, len(data), data)
            )
        return sha256

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of that hash; None when absent, or damaged, which also deletes them."""
        row = self._db.execute("SELECT body FROM blobs WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            return None
        if hashlib.sha256(row[0]).hexdigest() == sha256:
            return bytes(row[0])
        with self.transaction():
            self._db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))
            self._count_drops("blob_damaged", 1)
        return None

    def forget_blob(self, sha256: str) -> bool:
        """Delete a blob that is of no use any more; whether it was there."""
        with self.transaction():
            return self._db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,)).rowcount == 1

    def _make_room(self, item: OutboxItem) -> bool:
        """Drop from the bottom until `item` fits; False, with nothing dropped, when it cannot."""
        excess = self.outbox_bytes() + len(item.body) - self.limits.outbox_bytes_max
        victims: list[tuple[int]] = []
        rows = self._db.execute(
            "SELECT number, size FROM outbox WHERE priority <= ? ORDER BY priority, number",
            (item.priority,),
        )
        for number, size in rows:
            if excess <= 0:
                break
            victims.append((number,))
            excess -= size
        if excess > 0:
            return False
        self._db.executemany("DELETE FROM outbox WHERE number = ?", victims)
        self._count_drops("outbox_full", len(victims))
        return True

    def _shape(self) -> tuple[int, ...] | None:
        row = self._db.execute("SELECT shape FROM window_shape").fetchone()
        return None if row is None else tuple(int(part) for part in row[0].split(",") if part)

    def _take_shape(self, shape: tuple[int, ...]) -> None:
        kept = self._shape()
        if kept == shape:
            return
        if kept is not None:
            dropped = self._db.execute("DELETE FROM windows").rowcount
            log.warning("%d windows of shape %s make way for shape %s", dropped, kept, shape)
            self._count_drops("window_shape", dropped)
        text = ",".join(str(part) for part in shape)
        self._db.execute("INSERT OR REPLACE INTO window_shape VALUES (1, ?)", (text,))

    def _count_drops(self, reason: str, count: int) -> None:
        if count > 0:
            self._db.execute(
                "INSERT INTO drops VALUES (?, ?) "
                "ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                (reason, count),
            )

    def _number(self, query: str, *values: str) -> int:
        return int(self._db.execute(query, values).fetchone()[0])
