"""What a device keeps: its labelled windows, its outbox, small facts and model blobs.

One SQLite file in WAL mode with synchronous=FULL: what a call or a `transaction()` has committed
survives a kill and a power loss. Everything in it is bounded in bytes, and what has to go goes in
a stated order and is counted. The identity is a file of its own, so that a database beyond
repair can be put aside and begun again without the device becoming somebody else.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE windows (
  id INTEGER PRIMARY KEY AUTOINCREMENT, start REAL NOT NULL, label INTEGER NOT NULL,
  purpose TEXT NOT NULL, x BLOB NOT NULL) STRICT;
CREATE INDEX windows_purpose ON windows (purpose, id);
CREATE INDEX windows_start ON windows (start);
CREATE TABLE outbox (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, priority INTEGER NOT NULL, created REAL NOT NULL,
  body BLOB NOT NULL, number INTEGER NOT NULL) STRICT;
CREATE INDEX outbox_order ON outbox (priority DESC, number);
CREATE TABLE facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE blobs (
  sha256 TEXT PRIMARY KEY, used INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class StoreLimits:
    """Caps of one device's store. Bytes count payloads; rows cost about 100 bytes more each."""

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
    """The store in one file. Use from one thread; calls take well under a millisecond."""

    def __init__(self, path: Path, limits: StoreLimits | None = None) -> None:
        """Open or make the database. A damaged one is moved to `<name>.damaged-<n>` and begun anew.

        `set_aside` then names the moved file. Raises UsageError when the file is in use by another
        agent, cannot be written, or was written by a newer Hedgerow.
        """

    set_aside: Path | None

    def close(self) -> None:
        """Commit nothing further and close the file."""

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """All writes inside take effect together, or none when the block raises. May nest."""

    # windows: a ring by bytes and age, oldest out first

    def add_windows(self, windows: Sequence[StoredWindow], now: float) -> None:
        """Append; then evict the oldest beyond the byte cap, and those older than the age cap."""

    def load_windows(self, purpose: str | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(x[N, *shape], y[N]) oldest first, of one purpose or of all. N may be 0 (x is then [0])."""

    def window_count(self, purpose: str | None = None) -> int: ...

    def windows_bytes(self) -> int: ...

    def clear_windows(self) -> int:
        """The owner's veto: delete every window from the file, and give their number."""

    # outbox

    def put_outbox(self, item: OutboxItem) -> bool:
        """Keep until acknowledged. False when that id is there already, or it did not fit.

        To fit, the lowest priority goes first, within it the oldest; never one above the newcomer's.
        """

    def outbox(self, limit: int = 100) -> list[OutboxItem]:
        """What waits, highest priority first, within it oldest first."""

    def acknowledge(self, item_id: str) -> bool:
        """Delete a delivered item; whether it was there."""

    def drop_outbox(self, item_id: str, reason: str) -> bool:
        """Delete an item that is pointless now, counted under `reason`."""

    def expire_outbox(self, now: float) -> int:
        """Drop what is older than the age cap; how many (counted under `expired`)."""

    def outbox_bytes(self) -> int: ...

    def drops(self) -> dict[str, int]:
        """Everything that was ever dropped, by reason: `full`, `expired`, `window_full`, …"""

    # facts

    def fact(self, key: str) -> bytes | None: ...

    def set_fact(self, key: str, value: bytes | None) -> None:
        """None deletes."""

    # blobs

    def put_blob(self, data: bytes) -> str:
        """Keep, give sha256 hex. The least recently used go first when full; too large raises UsageError."""

    def blob(self, sha256: str) -> bytes | None:
        """The bytes, checked against the hash; None when absent or damaged (a damaged one is deleted)."""
