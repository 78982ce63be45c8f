"""What lies in the state directory: room for it, the store, the key, and what the clock says."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from hedgerow.core.errors import HedgerowError
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity
from hedgerow.serve.doctor.finding import Finding, bad, good, odd
from hedgerow.serve.settings import DeviceSettings

FREE_BYTES_MIN = 64 * 2**20
"""With less left on the disk the store soon keeps nothing more."""
RELEASED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows an earlier time."""
AHEAD_SECONDS_MAX = 3600.0
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


def disk(settings: DeviceSettings) -> Finding:
    """Whether there is room for all that the store may keep."""
    place = settings.state
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    limits = settings.store
    wanted = limits.windows_bytes_max + limits.outbox_bytes_max + limits.blobs_bytes_max
    says = f"{free // 2**20:,} MiB free at {place}; the store may take {wanted // 2**20:,} MiB"
    if free < FREE_BYTES_MIN:
        return bad("disk", says, "make room: a full disk keeps no windows and no messages")
    if free < wanted:
        return odd("disk", says, "make room, or lower windows_bytes_max under [store]")
    return good("disk", says)


def store(settings: DeviceSettings, open_store: DeviceStore | None) -> Iterator[Finding]:
    """Whether the database is sound, and how full it is."""
    path = settings.state / "device.db"
    if not path.exists():
        yield good("store", f"none in {settings.state} yet; the first start makes it")
        return
    if open_store is None:
        try:
            DeviceStore.reading(path).close()
        except (HedgerowError, sqlite3.Error) as error:
            yield bad("store", str(error), "a damaged store is put aside at the next start")
        return
    aside = path.with_name(path.name + ".damaged")
    if aside.exists():
        yield odd("store", f"an earlier one was damaged and lies in {aside}", "delete that file")
    try:
        yield from _sound(path, open_store)
    except sqlite3.Error as error:
        yield bad("store", f"{path}: {error}", "a damaged store is put aside at the next start")


def _sound(path: Path, open_store: DeviceStore) -> Iterator[Finding]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0) as db:
        said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        mode = db.execute("PRAGMA journal_mode").fetchone()[0]
    db.close()
    if said != "ok":
        yield bad("store", f"{path} is damaged: {said}", "it is put aside at the next start")
    elif mode != "wal":
        yield odd(
            "store",
            f"its journal is {mode!r}, not WAL",
            "keep the state on a local file system: some network ones carry no WAL",
        )
    else:
        kept = open_store.kept()
        full = ", ".join(
            f"{name} {each.bytes / each.bytes_max:.0%} of {each.bytes_max // 2**20} MiB"
            for name, each in kept.items()
        )
        yield good("store", f"sound, WAL; {full}")
    drops = {reason: count for reason, count in open_store.drops().items() if count}
    if drops.get("disk_full"):
        yield odd("store", f"a full disk cost {drops['disk_full']} rows", "make room on the disk")


def key(settings: DeviceSettings) -> Finding:
    """Whether the device's key is there, and its own alone."""
    path = settings.state / "device.nk"
    if not path.exists():
        if settings.state.exists() and settings.state.stat().st_mode & (
            stat.S_IWGRP | stat.S_IWOTH
        ):
            return bad("key", f"others may write {settings.state}", f"chmod 700 {settings.state}")
        return good("key", "none yet; the first start makes it")
    try:
        identity = Identity.load(path)
    except HedgerowError as error:
        return bad("key", str(error), f"chmod 600 {path}, or restore it from a copy")
    if settings.state.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return bad("key", f"others may write {settings.state}", f"chmod 700 {settings.state}")
    return good("key", f"{identity.public}, readable by its owner alone")


def wall_clock(now: float, open_store: DeviceStore | None) -> Finding:
    """Whether the wall clock can be right. What ages in the store goes by another clock."""
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    mend = "set the clock, or let it be set (timedatectl set-ntp true)"
    if now < RELEASED:
        return bad("clock", f"{shown} is before this release", mend)
    newest = _newest(open_store)
    if newest is not None and newest > now + AHEAD_SECONDS_MAX:
        ahead = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
        return odd("clock", f"{shown}, but the store has windows of {ahead}", mend)
    by = ", set by the network" if SYNCHRONISED.exists() else ""
    return good("clock", f"{shown}{by}")


def _newest(open_store: DeviceStore | None) -> float | None:
    if open_store is None:
        return None
    found = [row.last_seconds for row in open_store.window_streams()]
    return max(found, default=None)
