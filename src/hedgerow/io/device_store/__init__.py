"""What a device keeps: windows, notices, its outbox, small facts and model blobs.

One SQLite file in WAL mode with synchronous=FULL: what a call or a `transaction()` has committed
survives a kill and a power loss. Everything in it is bounded in bytes and age; what has to go goes
in a stated order and is counted, and what is deleted is overwritten. A full disk costs what would
have been written and nothing else. The identity is a file of its own, so that a database beyond
repair can be put aside and begun again without the device becoming somebody else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from pathlib import Path

from hedgerow.io import sqlite_file
from hedgerow.io.device_store.database import FACT_TIMELINE, Database, StoreFull
from hedgerow.io.device_store.facts import FACT_BUNDLE, Facts
from hedgerow.io.device_store.notices import Notices
from hedgerow.io.device_store.outbox import Outbox
from hedgerow.io.device_store.rows import (
    ROW_BYTES,
    UNLABELLED,
    UPDATE,
    Batch,
    Forgotten,
    GivenLabel,
    Kept,
    OutboxItem,
    StoredWindow,
    StoreLimits,
    StreamRow,
    WindowRow,
)
from hedgerow.io.device_store.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION
from hedgerow.io.device_store.windows import Windows
from hedgerow.io.timeline import Clocks, Timeline, this_machine

__all__ = [
    "FACT_BUNDLE",
    "ROW_BYTES",
    "UNLABELLED",
    "UPDATE",
    "Batch",
    "DeviceStore",
    "Forgotten",
    "GivenLabel",
    "Kept",
    "OutboxItem",
    "StoreFull",
    "StoreLimits",
    "StoredWindow",
    "StreamRow",
    "WindowRow",
]

log = logging.getLogger(__name__)


class DeviceStore(Windows, Notices, Outbox, Facts):
    """The store in one file. Use it from the thread that made it; a write waits for the disk once.

    `set_aside` names where a damaged predecessor was moved to; None when there was none.
    """

    def __init__(
        self, path: Path, limits: StoreLimits | None = None, clocks: Clocks | None = None
    ) -> None:
        """Open or make the database. A damaged one is moved to `<name>.damaged` and begun anew.

        Raises UsageError when another process uses the file, when it cannot be written, or when it
        was written by a newer Hedgerow.
        """
        path = Path(path)
        lock = sqlite_file.lock(path)
        try:
            db, set_aside = sqlite_file.open_or_begin_anew(path, SCHEMA, SCHEMA_VERSION, MIGRATIONS)
        except BaseException:
            os.close(lock)
            raise
        self._open(path, db, limits, clocks, lock)
        self.set_aside: Path | None = set_aside

    @classmethod
    def reading(cls, path: Path, limits: StoreLimits | None = None) -> DeviceStore:
        """The store of an agent that may be running, to look into: every write raises.

        Raises UsageError when there is none, or one of another layout.
        """
        store = cls.__new__(cls)
        store._open(Path(path), sqlite_file.open_to_read(path, SCHEMA_VERSION), limits, None, None)
        store.set_aside, store._alone = None, False
        return store

    def _open(
        self,
        path: Path,
        db: sqlite3.Connection,
        limits: StoreLimits | None,
        clocks: Clocks | None,
        lock: int | None,
    ) -> None:
        kept = db.execute("SELECT value FROM facts WHERE key = ?", (FACT_TIMELINE,)).fetchone()
        timeline = Timeline(clocks or this_machine(), None if kept is None else kept[0])
        if timeline.jumped:
            log.warning("the clock leapt while %s was closed; what it keeps aged by nothing", path)
        Database.__init__(self, path, limits or StoreLimits(), db, timeline)
        self._lock = lock

    def close(self) -> None:
        """Close the file; what was committed is in it."""
        if self._lock is not None:
            with contextlib.suppress(StoreFull), self.transaction():
                self._keep_timeline()
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)

    # Everything together.

    def expire(self) -> int:
        """Drop what is past an age cap, counted by reason; how much. Call it now and then.

        On a full disk it is put off until the next time.
        """
        return self._write_or_lose(
            0, lambda: self._expire_windows() + self._expire_notices() + self._expire_outbox()
        )

    def kept(self) -> dict[str, Kept]:
        """What is in the store: `windows`, `notices`, `outbox`, `models`."""
        return {
            "windows": self._kept_windows(),
            "notices": self._kept_notices(),
            "outbox": self._kept_outbox(),
            "models": self._kept_blobs(),
        }

    def touched(self, start: float, end: float, stream: str = "") -> Forgotten:
        """What `forget` would erase."""
        windows = self._touched_windows(start, end, stream)
        return Forgotten(
            windows,
            windows * self._window_bytes(),
            self._touched_notices(start, end, stream),
            self._touched_outbox(start, end, stream),
        )

    def forget(self, start: float, end: float, stream: str = "") -> Forgotten:
        """The owner's veto: overwrite what was sensed and decided in [start, end), Unix seconds.

        Windows that reach into it, notices, labels given for it, and events of it that wait in the
        outbox; of one stream, or of every one (""). Raises StoreFull.
        """
        with self.transaction():
            size = self._window_bytes()
            windows = self._forget_windows(start, end, stream)
            notices = self._forget_notices(start, end, stream)
            waiting = self._forget_outbox(start, end, stream)
        self._empty_journal()
        return Forgotten(windows, windows * size, notices, waiting)

    def forget_windows(self, start: float, end: float, stream: str = "") -> int:
        """Overwrite only the windows of a period, and labels given for it; how many windows."""
        with self.transaction():
            count = self._forget_windows(start, end, stream)
        self._empty_journal()
        return count

    def clear_windows(self) -> int:
        """Overwrite every window in the file with zeros; how many there were."""
        return self.forget_windows(-math.inf, math.inf)

    def erase(self) -> Forgotten:
        """Overwrite all windows, notices, given labels and waiting events.

        Facts and models stay: who the device is, which fleet it is in, what it infers with. A
        damaged predecessor that was put aside goes too: it holds windows as well.
        """
        erased = self.forget(-math.inf, math.inf)
        for aside in sqlite_file.files_of(sqlite_file.aside(self.path)):
            aside.unlink(missing_ok=True)
        return erased

    def _empty_journal(self) -> None:
        """Move all of the journal into the file, so that no copy of what was deleted is in it.

        Where somebody reads it meanwhile or the disk is full, the next start does it.
        """
        try:
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            busy = 1
        if busy:
            log.warning(
                "what was deleted stays in the journal of %s until the next start", self.path
            )
