"""Windows: a ring by bytes and age, oldest out first; labelled later, forgotten by period."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store.database import Database
from hedgerow.io.device_store.rows import (
    UNLABELLED,
    GivenLabel,
    Kept,
    StoredWindow,
    StreamRow,
    WindowRow,
)

log = logging.getLogger(__name__)

GIVEN_LABELS_MAX: Final = 10_000
SEEN: Final = "seen"
"""The purpose of windows that were kept as they came by."""
_COUNT: Final = "SELECT COUNT(*) FROM windows"
_ROW: Final = "id, stream, start, seconds, label, purpose"
_TOUCHED: Final = "start < ? AND (start + seconds > ? OR start >= ?) AND (? = '' OR stream = ?)"


class Windows(Database):
    """The windows of a device's store."""

    def add_windows(self, windows: Sequence[StoredWindow], now: float = 0.0) -> int:
        """Append; how many. First the oldest beyond the byte cap go, of the purpose `SEEN` before
        any other, and those past the age cap.

        Windows of another shape than those kept push all of those out: the model that could read
        them is gone. Evictions are counted under `window_shape`, `window_full`, `window_expired`;
        on a full disk nothing is kept, and counted. Raises UsageError when shapes within `windows`
        differ or when one is not float32.
        """
        if not windows:
            return 0
        shape = windows[0].x.shape
        for window in windows:
            if window.x.shape != shape or window.x.dtype != np.float32:
                raise UsageError(
                    f"a window came as {window.x.dtype}{list(window.x.shape)}; wanted "
                    f"float32{list(shape)}, the shape of the first in the batch"
                )
        return self._write_or_lose(len(windows), lambda: self._append(windows, shape))

    def _append(self, windows: Sequence[StoredWindow], shape: tuple[int, ...]) -> int:
        self._take_shape(shape)
        self._expire_windows()
        rows_max = self.limits.windows_bytes_max // max(1, windows[0].x.nbytes)
        most = rows_max
        if self.window_count() + len(windows) > most and windows[0].purpose == SEEN:
            most = max(0, most - self.window_count() + self.window_count(SEEN))
        kept = windows[max(0, len(windows) - most) :]
        # Room is made first: what is deleted is overwritten, and by this it is so for nothing.
        excess = max(0, self.window_count() + len(kept) - rows_max)
        if excess:
            # What was seen comes again; what was given to learn from, or held out, does not.
            gone = self._db.execute(
                "DELETE FROM windows WHERE id IN "
                "(SELECT id FROM windows WHERE purpose = ? ORDER BY id LIMIT ?)",
                (SEEN, excess),
            ).rowcount
            self._db.execute(
                "DELETE FROM windows WHERE id IN (SELECT id FROM windows ORDER BY id LIMIT ?)",
                (excess - gone,),
            )
        self._count_drops("window_full", excess + len(windows) - len(kept))
        added = self._timeline.seconds()
        self._db.executemany(
            "INSERT INTO windows (stream, start, seconds, label, purpose, added, x) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(w.stream, w.start_seconds, w.seconds, int(w.label), w.purpose, added),
                    w.x.tobytes(),
                )
                for w in kept
            ],
        )
        self._add("windows", len(kept) - excess)
        return len(kept)

    def load_windows(
        self, purpose: str | None = None, stream: str | None = None, labelled: bool | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(x[N, *shape], y[N]), oldest first, of one purpose, one stream, or with or without a
        label; None takes any. A label that is not there yet is `UNLABELLED`.
        """
        where: list[str] = []
        values: list[Any] = []
        for clause, value in (("purpose = ?", purpose), ("stream = ?", stream)):
            if value is not None:
                where.append(clause)
                values.append(value)
        if labelled is not None:
            where.append("label <> ?" if labelled else "label = ?")
            values.append(UNLABELLED)
        tail = f" WHERE {' AND '.join(where)}" if where else ""
        count = self._number(f"SELECT COUNT(*) FROM windows{tail}", *values)  # noqa: S608 - no value in it
        x = np.empty((count, *(self._shape() or ())), np.float32)
        y = np.empty(count, np.int64)
        rows = self._db.execute(f"SELECT x, label FROM windows{tail} ORDER BY id", values)  # noqa: S608
        for index, (samples, label) in enumerate(rows):
            x[index] = np.frombuffer(samples, np.float32).reshape(x.shape[1:])
            y[index] = label
        return x, y

    def list_windows(
        self,
        stream: str = "",
        start: float = -math.inf,
        end: float = math.inf,
        limit: int = 100,
    ) -> list[WindowRow]:
        """Windows that begin in [start, end), newest first; an empty `stream` is every one."""
        rows = self._db.execute(
            f"SELECT {_ROW} FROM windows WHERE start >= ? AND start < ? "  # noqa: S608
            "AND (? = '' OR stream = ?) ORDER BY start DESC, id DESC LIMIT ?",
            (start, end, stream, stream, limit),
        )
        return [WindowRow(*row) for row in rows]

    def window(self, window_id: int) -> NDArray[np.float32] | None:
        """The samples of one window; None when it is no longer there."""
        row = self._db.execute("SELECT x FROM windows WHERE id = ?", (window_id,)).fetchone()
        return None if row is None else self._samples(row[0])

    def iter_windows(
        self, batch: int = 64
    ) -> Iterator[tuple[list[WindowRow], NDArray[np.float32]]]:
        """All windows, oldest first, `batch` at a time: (rows, x[B, *shape])."""
        last = -1
        while True:
            found = self._db.execute(
                f"SELECT {_ROW}, x FROM windows WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
                (last, batch),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield (
                [WindowRow(*row[:-1]) for row in found],
                np.stack([self._samples(row[-1]) for row in found]),
            )

    def window_count(self, purpose: str | None = None) -> int:
        """How many windows are kept, of one purpose or of all."""
        if purpose is None:
            return self._sum("windows", _COUNT)
        return self._number(f"{_COUNT} WHERE purpose = ?", purpose)

    def window_streams(self) -> list[StreamRow]:
        """What is kept of each stream, by name."""
        rows = self._db.execute(
            "SELECT stream, COUNT(*), SUM(label <> ?), MIN(start), MAX(start) FROM windows "
            "GROUP BY stream ORDER BY stream",
            (UNLABELLED,),
        )
        return [StreamRow(*row) for row in rows]

    def labels(self) -> dict[int, int]:
        """How many windows carry each label, `UNLABELLED` included."""
        return dict(
            self._db.execute(
                "SELECT label, COUNT(*) FROM windows GROUP BY label ORDER BY label"
            ).fetchall()
        )

    def newest_window(self, purpose: str) -> float | None:
        """When the window added last of that purpose began, in Unix seconds; None without any."""
        query = "SELECT start FROM windows WHERE purpose = ? ORDER BY id DESC LIMIT 1"
        row = self._db.execute(query, (purpose,)).fetchone()
        return None if row is None else float(row[0])

    def windows_bytes(self) -> int:
        """Bytes of all windows kept: data that never left this device."""
        return self.window_count() * self._window_bytes()

    def label_windows(self, stream: str, start: float, end: float, label: int) -> int:
        """Label the windows whose middle lies in [start, end); how many. "" is every stream.

        Raises StoreFull.
        """
        with self.transaction():
            return self._db.execute(
                "UPDATE windows SET label = ? WHERE start + seconds / 2 >= ? "
                "AND start + seconds / 2 < ? AND (? = '' OR stream = ?)",
                (int(label), start, end, stream, stream),
            ).rowcount

    def give_label(self, given: GivenLabel) -> None:
        """Keep what somebody said, in words; the newest 10,000. Raises StoreFull."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO given_labels (stream, start, until, label, given) "
                "VALUES (?, ?, ?, ?, ?)",
                given,
            )
            self._db.execute(
                "DELETE FROM given_labels WHERE id <= "
                "(SELECT id FROM given_labels ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (GIVEN_LABELS_MAX,),
            )

    def given_labels(self, stream: str = "", limit: int = 100) -> list[GivenLabel]:
        """What was said of one stream, or of all, newest first."""
        rows = self._db.execute(
            "SELECT stream, start, until, label, given FROM given_labels "
            "WHERE ? IN ('', stream) ORDER BY id DESC LIMIT ?",
            (stream, limit),
        )
        return [GivenLabel(*row) for row in rows]

    def _expire_windows(self) -> int:
        """Those past the age cap; they are the first, as the timeline only goes on."""
        oldest = self._timeline.seconds() - self.limits.windows_age_seconds_max
        first = self._db.execute("SELECT added FROM windows ORDER BY id LIMIT 1").fetchone()
        if first is None or first[0] >= oldest:
            return 0
        count = self._db.execute(
            "DELETE FROM windows WHERE id < COALESCE("
            "(SELECT id FROM windows WHERE added >= ? ORDER BY id LIMIT 1), 9223372036854775807)",
            (oldest,),
        ).rowcount
        self._add("windows", -count)
        self._count_drops("window_expired", count)
        return count

    def _touched_windows(self, start: float, end: float, stream: str) -> int:
        return self._number(f"{_COUNT} WHERE {_TOUCHED}", end, start, start, stream, stream)

    def _forget_windows(self, start: float, end: float, stream: str) -> int:
        count = self._db.execute(
            f"DELETE FROM windows WHERE {_TOUCHED}",  # noqa: S608 - no value in it
            (end, start, start, stream, stream),
        ).rowcount
        self._db.execute(
            "DELETE FROM given_labels WHERE start < ? AND until > ? AND ? IN ('', stream)",
            (end, start, stream),
        )
        self._sums.pop("windows", None)
        return count

    def _kept_windows(self) -> Kept:
        first, last = self._db.execute("SELECT MIN(start), MAX(start) FROM windows").fetchone()
        count, size = self.window_count(), self.windows_bytes()
        return Kept(count, size, self.limits.windows_bytes_max, first, last)

    def _window_bytes(self) -> int:
        shape = self._shape()
        return 0 if shape is None else int(np.prod(shape)) * np.dtype(np.float32).itemsize

    def _samples(self, data: bytes) -> NDArray[np.float32]:
        return np.frombuffer(data, np.float32).reshape(self._shape() or ())

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
            self._sums.pop("windows", None)
        text = ",".join(str(part) for part in shape)
        self._db.execute("INSERT OR REPLACE INTO window_shape VALUES (1, ?)", (text,))
