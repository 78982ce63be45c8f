"""Small durable facts by key, and model blobs by hash."""

from __future__ import annotations

import hashlib
from typing import Final

from hedgerow.core.errors import UsageError
from hedgerow.io.device_store.database import Database
from hedgerow.io.device_store.rows import Kept

FACT_BUNDLE: Final = "bundle"
"""Names the blob of the bundle in use, which makes room for no other while there is a choice."""


class Facts(Database):
    """Facts and blobs of a device's store."""

    def fact(self, key: str) -> bytes | None:
        """The value kept under `key`; None when there is none."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_fact(self, key: str, value: bytes | None) -> None:
        """Keep `value` under `key`; None deletes. Raises StoreFull."""
        with self.transaction():
            if value is None:
                self._db.execute("DELETE FROM facts WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def put_blob(self, data: bytes) -> str:
        """Keep `data`, give its sha256 in hex. What was put longest ago goes first to make room.

        The blob that `FACT_BUNDLE` names goes last, when nothing else is left to go.
        Putting it again renews it. Raises UsageError when it alone is over the cap, StoreFull.
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

    def _kept_blobs(self) -> Kept:
        count, size = self._db.execute("SELECT COUNT(*), TOTAL(size) FROM blobs").fetchone()
        return Kept(count, int(size), self.limits.blobs_bytes_max)
