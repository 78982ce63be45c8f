"""Notices: what the device decided, as a ring by bytes and age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from hedgerow.decide.notice import Notice
from hedgerow.io.device_store.database import Database
from hedgerow.io.device_store.rows import ROW_BYTES, Kept

_BYTES: Final = "SELECT TOTAL(size) FROM notices"
_PERIOD: Final = "time >= ? AND time < ? AND (? = '' OR stream = ?)"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Notice).decode


class Notices(Database):
    """The notices of a device's store."""

    def add_notices(self, notices: Sequence[Notice], now: float = 0.0) -> int:
        """Append; how many. The oldest go beyond the byte cap (`notice_full`) and the age cap
        (`notice_expired`), and are counted; on a full disk nothing is kept, and counted.
        """
        if not notices:
            return 0
        return self._write_or_lose(len(notices), lambda: self._append_notices(notices))

    def _append_notices(self, notices: Sequence[Notice]) -> int:
        added = self._timeline.seconds()
        rows = []
        for one in notices:
            body = _encode(one)
            size = len(body) + len(one.stream) + ROW_BYTES
            rows.append((one.stream, one.time_seconds, int(one.alert), added, size, body))
        self._db.executemany(
            "INSERT INTO notices (stream, time, alert, added, size, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._add("notices", sum(row[4] for row in rows))
        self._expire_notices()
        self._shed_notices()
        return len(rows)

    def notices(
        self, stream: str = "", since: float | None = None, limit: int = 100, alerts: bool = False
    ) -> list[Notice]:
        """The newest, newest first: of one stream or all (""), from `since` (Unix seconds) on,
        alerts alone where asked.
        """
        where, values = ["1"], list[Any]()
        if stream:
            where.append("stream = ?")
            values.append(stream)
        if since is not None:
            where.append("time >= ?")
            values.append(since)
        if alerts:
            where.append("alert = 1")
        query = f"SELECT body FROM notices WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"  # noqa: S608
        return [_decode(body) for (body,) in self._db.execute(query, (*values, limit))]

    def notices_bytes(self) -> int:
        """What all notices cost."""
        return self._sum("notices", _BYTES)

    def _expire_notices(self) -> int:
        oldest = self._timeline.seconds() - self.limits.notices_age_seconds_max
        first = self._db.execute("SELECT added FROM notices ORDER BY id LIMIT 1").fetchone()
        if first is None or first[0] >= oldest:
            return 0
        count = self._db.execute(
            "DELETE FROM notices WHERE id < COALESCE("
            "(SELECT id FROM notices WHERE added >= ? ORDER BY id LIMIT 1), 9223372036854775807)",
            (oldest,),
        ).rowcount
        self._sums.pop("notices", None)
        self._count_drops("notice_expired", count)
        return count

    def _shed_notices(self) -> None:
        excess = self.notices_bytes() - self.limits.notices_bytes_max
        if excess <= 0:
            return
        last, count, freed = -1, 0, 0
        for number, size in self._db.execute("SELECT id, size FROM notices ORDER BY id"):
            last, count, freed = number, count + 1, freed + size
            if freed >= excess:
                break
        self._db.execute("DELETE FROM notices WHERE id <= ?", (last,))
        self._add("notices", -freed)
        self._count_drops("notice_full", count)

    def _touched_notices(self, start: float, end: float, stream: str) -> int:
        return self._number(
            f"SELECT COUNT(*) FROM notices WHERE {_PERIOD}",  # noqa: S608 - no value in it
            *(start, end, stream, stream),
        )

    def _forget_notices(self, start: float, end: float, stream: str) -> int:
        self._sums.pop("notices", None)
        return self._db.execute(
            f"DELETE FROM notices WHERE {_PERIOD}",  # noqa: S608
            (start, end, stream, stream),
        ).rowcount

    def _forget_all_notices(self) -> int:
        return self._forget_notices(-math.inf, math.inf, "")

    def _kept_notices(self) -> Kept:
        count, first, last = self._db.execute(
            "SELECT COUNT(*), MIN(time), MAX(time) FROM notices"
        ).fetchone()
        return Kept(count, self.notices_bytes(), self.limits.notices_bytes_max, first, last)
