"""One SQLite file under all tables: transactions, a full disk, drops by reason, ages."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from hedgerow.core.errors import HedgerowError
from hedgerow.io.device_store.rows import StoreLimits
from hedgerow.io.timeline import Timeline

log = logging.getLogger(__name__)

DISK_FULL: Final = "disk_full"
"""What could not be written is counted under this reason."""
FACT_TIMELINE: Final = "timeline"
TIMELINE_SECONDS: Final = 60.0
"""How often the timeline is written beside something else; a restart loses no more of it."""
_DISK_FAULTS: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY})
_IO_FAULT: Final = sqlite3.SQLITE_IOERR
_READ_FAULTS: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})


class StoreFull(HedgerowError):
    """The disk takes no more: it is full, over a quota, or failing. Nothing was written.

    The store stays usable for reading, and for writing as soon as there is room again.
    """


class Database:
    """Base of all tables of a device's store. Use it from the thread that made it."""

    _alone = True
    """Whether nobody else writes, so that sums need not be read again."""

    def __init__(
        self, path: Path, limits: StoreLimits, db: sqlite3.Connection, timeline: Timeline
    ) -> None:
        self.path = path
        self.limits = limits
        self.full = False
        """Whether the last write failed for want of disk."""
        self._db = db
        self._timeline = timeline
        self._timeline_kept = timeline.seconds()
        self._depth = 0
        self._sums: dict[str, int] = {}
        self._lost: Counter[str] = Counter()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside take effect together, or none when the block raises.

        One inside another joins the outer one. Raises StoreFull when the disk takes no more.
        """
        if self._depth > 0:
            yield
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            yield
            lost = dict(self._lost)
            self._write_beside()
            self._db.execute("COMMIT")
        except BaseException as error:
            self._sums.clear()  # they may count what is not there now
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and _is_disk_fault(error):
                if not self.full:
                    log.warning("the store %s takes no more for now: %s", self.path, error)
                self.full = True
                raise StoreFull(
                    f"{self.path}: {error} ({error.sqlite_errorname}); free some disk"
                ) from error
            raise
        else:
            if self.full:
                log.warning("the store %s takes writes again", self.path)
            self.full = False
            self._lost -= Counter(lost)
        finally:
            self._depth = 0

    def drops(self) -> dict[str, int]:
        """Everything this store ever dropped, by reason."""
        counts = Counter(dict(self._db.execute("SELECT reason, count FROM drops").fetchall()))
        return dict(sorted((counts + self._lost).items()))

    def _write_or_lose(self, count: int, write: Callable[[], int]) -> int:
        """`write()` in one transaction; on a full disk `count` is lost and counted, for 0.

        Inside somebody else's transaction it is theirs to decide: then the error goes on.
        """
        try:
            with self.transaction():
                return write()
        except StoreFull:
            self._lost[DISK_FULL] += count
            return 0

    def _write_beside(self) -> None:
        """What is written with whatever is written: losses, and now and then the timeline."""
        for reason, count in self._lost.items():
            self._count_drops(reason, count)
        now = self._timeline.seconds()
        if now - self._timeline_kept >= TIMELINE_SECONDS:
            self._keep_timeline()
            self._timeline_kept = now

    def _keep_timeline(self) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO facts VALUES (?, ?)", (FACT_TIMELINE, self._timeline.to_bytes())
        )

    def _count_drops(self, reason: str, count: int) -> None:
        if count > 0:
            self._db.execute(
                "INSERT INTO drops VALUES (?, ?) "
                "ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                (reason, count),
            )

    def _sum(self, name: str, query: str) -> int:
        """A count or total that is known after the first time; `_add` keeps it right."""
        if self._alone and name in self._sums:
            return self._sums[name]
        self._sums[name] = self._number(query)
        return self._sums[name]

    def _add(self, name: str, amount: int) -> None:
        if name in self._sums:
            self._sums[name] += amount

    def _number(self, query: str, *values: Any) -> int:
        return int(self._db.execute(query, values).fetchone()[0])


def _is_disk_fault(error: sqlite3.Error) -> bool:
    """No space (SQLITE_FULL), a quota or size limit or failing disk (IOERR), a disk gone
    read-only.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code in _READ_FAULTS:
        return False
    return code & 0xFF in _DISK_FAULTS or code & 0xFF == _IO_FAULT
