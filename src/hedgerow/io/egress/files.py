"""The files of an egress record: one that grows by whole lines, and older ones beside it.

Several threads and processes may add lines: each takes the lock of the file, makes sure that it is
still the one that grows, and adds its line in one write. So a line that was added survives a kill.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io import clock
from hedgerow.ledger import note
from hedgerow.ledger.chain import (
    EMPTY,
    LINE_BYTES_MAX,
    Gap,
    Left,
    Line,
    Segment,
    Signed,
    Sum,
    decode,
    encode,
    link,
)

CURRENT: Final = "record.jsonl"
OLDER: Final = "record-*.jsonl"
CLOSED: Final = -1
UNWRITTEN_MAX: Final = 1_000
"""Lines that wait in memory for room on the disk; further ones only count."""
KINDS_MAX: Final = 64
DAYS_MAX: Final = 400
SEGMENT_LINE_BYTES_MAX: Final = LINE_BYTES_MAX // 2
OTHER: Final = "other"
_DAY_SECONDS: Final = 86_400.0
_ORDINAL_1970: Final = date(1970, 1, 1).toordinal()
_DAYS_AFTER_1970_MAX: Final = 2_900_000
_TEXT_MAX: Final = 200
_KIND_MAX: Final = 64


class Appender:
    """Adds lines to a record that was begun; `left` may be called from any thread.

    It never fails: what the disk does not take waits in memory, and at worst becomes a gap that
    says how much is missing.
    """

    def __init__(self, directory: Path) -> None:
        """Raises UsageError when no record was begun there."""
        self._path = Path(directory) / CURRENT
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise UsageError(f"no egress record in {directory}: {error.strerror}") from error
        self._lock = threading.RLock()
        self._waiting: list[bytes] = []
        self._gap = Sum()
        self._gap_since = 0.0
        self.unwritten = 0
        """Messages that left and are not in the file now."""

    def left(self, *, to: str, kind: str, purpose: str, size: int, digest: bytes = b"") -> None:
        """One message of `size` bytes went out; see `io.surroundings.Egress`."""
        line = encode(
            Left(
                time=round(clock.now(), 3),
                to=to[:_TEXT_MAX],
                kind=kind[:_KIND_MAX],
                purpose=purpose[:_TEXT_MAX],
                size=size,
                digest=digest.hex(),
            )
        )
        with self._lock:
            try:
                with self._locked():
                    self._write_waiting()
                    self._write(line + b"\n")
            except OSError:
                self._wait(line, size)

    def close(self) -> None:
        """Write what still waits, if there is room, and close."""
        with self._lock:
            with contextlib.suppress(OSError), self._locked():
                self._write_waiting()
            if self._handle != CLOSED:
                os.close(self._handle)
                self._handle = CLOSED

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """With the lock of the file that grows now."""
        while True:
            if self._handle == CLOSED:
                raise OSError(errno.EBADF, "the egress record is closed")
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            if os.fstat(self._handle).st_ino == os.stat(self._path).st_ino:  # noqa: PTH116 - faster
                break
            newer = os.open(self._path, os.O_RDWR | os.O_APPEND)
            os.close(self._handle)
            self._handle = newer
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _write(self, data: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        written = os.write(self._handle, data)
        if written < len(data):
            end = os.lseek(self._handle, 0, os.SEEK_CUR)
            os.ftruncate(self._handle, end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _wait(self, line: bytes, size: int) -> None:
        self.unwritten += 1
        if len(self._waiting) < UNWRITTEN_MAX:
            self._waiting.append(line + b"\n")
            return
        if self._gap.messages == 0:
            self._gap_since = clock.now()
        self._gap = self._gap.plus(1, size)

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        lines = list(self._waiting)
        if self._gap.messages:
            gap = Gap(
                time=clock.now(),
                since=self._gap_since,
                messages=self._gap.messages,
                bytes=self._gap.bytes,
                why="the disk was full",
            )
            lines.append(encode(gap) + b"\n")
        self._write(b"".join(lines))
        self._waiting.clear()
        self._gap = Sum()
        self.unwritten = 0


class Tail:
    """Where a record stands: how many entries, which head, what sums. Reads what was added."""

    def __init__(self, directory: Path) -> None:
        self._path = Path(directory) / CURRENT
        self.signed_seconds: float | None = None
        self._begin(0)

    def _begin(self, inode: int) -> None:
        self.inode = inode
        self.offset = 0
        """Bytes of the growing file that were read, all of them whole lines."""
        self.signed_offset = self.begun_offset = 0
        self.size, self.head = 0, EMPTY
        self.signed = 0
        self.faults = 0
        """Lines that cannot be read, and checkpoints over something else than what is there."""
        self.why = ""
        """What the growing file says of why it was begun."""
        self.kinds: dict[str, Sum] = {}
        self.days: dict[str, dict[str, Sum]] = {}

    def catch_up(self) -> bytes:
        """Read what was added since; the piece of a line that is at the end, if there is one.

        Raises UsageError when there is no record.
        """
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self.inode:
                    self._begin(inode)
                file.seek(self.offset)
                found = file.read()
        except OSError as error:
            raise UsageError(
                f"no egress record in {self._path.parent}: {error.strerror}"
            ) from error
        *lines, rest = found.split(b"\n")
        for line in lines:
            self._take(line)
        return rest

    def _take(self, line: bytes) -> None:
        self.offset += len(line) + 1
        entry = decoded(line)
        if isinstance(entry, Signed):
            self._take_checkpoint(entry)
            return
        if isinstance(entry, Segment):
            self._begin_segment(entry)
        elif isinstance(entry, Left):
            self._count(entry.time, entry.kind, 1, entry.size)
        elif isinstance(entry, Gap):
            self._count(entry.time, OTHER, entry.messages, entry.bytes)
        else:
            self.faults += 1
        self.head = link(self.head, line)
        self.size += 1

    def _begin_segment(self, entry: Segment) -> None:
        try:
            self.head = bytes.fromhex(entry.previous)
        except ValueError:
            self.faults += 1
        self.size = entry.first
        self.begun_offset, self.why = self.offset, entry.why
        self.kinds = dict(entry.kinds)
        self.days = {day: dict(kinds) for day, kinds in entry.days.items()}

    def _take_checkpoint(self, entry: Signed) -> None:
        # Whether a signature holds is for a verifier to say.
        try:
            checkpoint = note.parsed(entry.note)
        except PeerError:
            self.faults += 1
            return
        self.faults += (checkpoint.size, checkpoint.head) != (self.size, self.head)
        self.signed, self.signed_offset = self.size, self.offset
        self.signed_seconds = checkpoint.time_seconds

    def _count(self, time: float, kind: str, messages: int, size: int) -> None:
        day = day_of(time)
        if kind not in self.kinds and len(self.kinds) >= KINDS_MAX:
            kind = OTHER
        self.kinds[kind] = self.kinds.get(kind, Sum()).plus(messages, size)
        kinds = self.days.setdefault(day, {})
        kinds[kind] = kinds.get(kind, Sum()).plus(messages, size)
        while len(self.days) > DAYS_MAX:
            del self.days[min(self.days)]


def segment_line(begin: Segment) -> bytes:
    """The line that begins a file, without the oldest days where they would make it too long."""
    while len(line := encode(begin)) > SEGMENT_LINE_BYTES_MAX and begin.days:
        days = sorted(begin.days)
        kept = days[max(1, len(days) // 8) :]
        begin = msgspec.structs.replace(begin, days={day: begin.days[day] for day in kept})
    return line


def day_of(unix_seconds: float) -> str:
    """The day in UTC, as 2026-11-23."""
    days = unix_seconds // _DAY_SECONDS
    return _day(int(days) if 0 <= days < _DAYS_AFTER_1970_MAX else 0)


@lru_cache(maxsize=1024)
def _day(number: int) -> str:
    return date.fromordinal(_ORDINAL_1970 + number).isoformat()


def decoded(line: bytes) -> Line | None:
    """One line; None when it cannot be read."""
    try:
        return decode(line)
    except PeerError:
        return None


def segments(directory: Path) -> list[Path]:
    """The files of a record, oldest first, the one that grows last."""
    return [*sorted(directory.glob(OLDER)), directory / CURRENT]
