"""Opening a SQLite file that must survive power loss: checked, locked, put aside when damaged."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from hedgerow.core.errors import UsageError

log = logging.getLogger(__name__)

_COMPANIONS: Final = ("", "-wal", "-shm")


def lock(path: Path) -> int:
    """Make the directory, and take a lock that the system frees when this process ends.

    Returns its file descriptor: closing it frees the lock. Raises UsageError when another process
    has it, or when the directory cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"cannot keep a store in {path}: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"another process uses {path}; stop it or choose another place") from None
    return handle


def make_private(path: Path) -> None:
    """Make the file when there is none, for its owner alone: SQLite would make it 0644.

    A file that is there keeps its rights. Raises OSError.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def open_or_begin_anew(
    path: Path, schema: str, version: int, migrations: Mapping[int, str] | None = None
) -> tuple[sqlite3.Connection, Path | None]:
    """An autocommitting connection to a sound database, and where a damaged one was moved to.

    WAL, synchronous=FULL, and what is deleted is overwritten. `migrations[n]` makes layout n + 1 of
    layout n. Raises UsageError when the file cannot be opened, or has a newer layout.
    """
    migrations = {} if migrations is None else migrations
    try:
        return _open(path, schema, version, migrations), None
    except sqlite3.OperationalError as error:
        raise UsageError(f"cannot open the store {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        to = aside(path)
        log.error("the store %s is damaged (%s): moved to %s, begun anew", path, error, to)
    for source, target in zip(files_of(path), files_of(to), strict=True):
        target.unlink(missing_ok=True)  # of one that was put aside before
        if source.exists():
            source.replace(target)
    return _open(path, schema, version, migrations), to


def aside(path: Path) -> Path:
    """Where a damaged database is moved to."""
    return path.with_name(path.name + ".damaged")


def files_of(path: Path) -> list[Path]:
    """A database and what SQLite puts beside it."""
    return [path.with_name(path.name + companion) for companion in _COMPANIONS]


def open_to_read(path: Path, version: int) -> sqlite3.Connection:
    """A connection that only reads, beside a process that may be writing.

    Raises UsageError when there is no such file, or one of another layout.
    """
    try:
        db = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=5.0
        )
        layout = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise UsageError(f"cannot read the store {path}: {error}") from error
    if layout != version:
        db.close()
        raise UsageError(
            f"the store {path} has layout {layout}, this Hedgerow reads {version}; "
            f"start the agent of this version once"
        )
    return db


def _open(
    path: Path, schema: str, version: int, migrations: Mapping[int, str]
) -> sqlite3.Connection:
    """A checked connection. Raises sqlite3.DatabaseError when the file is damaged."""
    try:
        make_private(path)
    except OSError as error:
        raise UsageError(f"cannot write the store {path}: {error}") from error
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA secure_delete = ON")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        layout = db.execute("PRAGMA user_version").fetchone()[0]
        if layout > version:
            raise UsageError(
                f"the store {path} has layout {layout}, this Hedgerow knows {version}; "
                f"update Hedgerow or choose another file"
            )
        if layout == 0:
            db.executescript(f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")
        for old in range(layout, version) if layout > 0 else ():
            log.info("the store %s goes from layout %d to %d", path, old, old + 1)
            db.executescript(f"BEGIN; {migrations[old]} PRAGMA user_version = {old + 1}; COMMIT;")
        # What was deleted before a loss of power may still stand in the journal.
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk has no room for that
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except BaseException:
        db.close()
        raise
    return db
