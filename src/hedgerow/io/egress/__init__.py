"""The egress record: every message that left this device, in a signed hash chain on its disk.

    record = EgressRecord(state / "egress", identity)
    record.left(to="nats://hub:4222", kind="update", purpose="what was learned", size=71_204)
    record.sign()      # `keep()` does it once a second while something leaves
    record.verify()

A line is added as the message leaves and survives a kill at once; it is signed and on disk for good
within a second. Files and lines are told in `docs/egress.md`, the chain in `ledger.chain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.io import clock
from hedgerow.io.egress.files import CURRENT, Appender, Tail, segment_line, segments
from hedgerow.io.egress.reading import EgressReader, Entry, Totals, key_of, verify_file
from hedgerow.io.keys import Identity, sync_directory
from hedgerow.ledger import note
from hedgerow.ledger.chain import Gap, Segment, Signed, Verified, encode, origin_of

__all__ = [
    "Appender",
    "EgressLimits",
    "EgressReader",
    "EgressRecord",
    "Entry",
    "Totals",
    "Verified",
    "verify_file",
]

log = logging.getLogger(__name__)

SIGN_SECONDS: Final = 1.0
ERASED: Final = "its owner erased what was before"


class EgressLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record keeps the newest files, together at most `bytes_max`; sums stay for ever."""

    bytes_max: int = 32 * 2**20
    segment_bytes: int = 256 * 2**10


class EgressRecord(EgressReader, Appender):
    """The record of the agent itself: adds, signs, and drops the oldest. Safe between threads."""

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        limits: EgressLimits | None = None,
        now: Callable[[], float] = clock.now,
    ) -> None:
        """Go on with the record in `directory`, or begin one.

        What a power loss left of a line at its end is cut off, and said. Raises UsageError when it
        cannot be written.
        """
        self._identity = identity
        self._key = key_of(identity.public)
        self._limits = EgressLimits() if limits is None else limits
        self._now = now
        self._signing = threading.Lock()
        directory = Path(directory)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (directory / CURRENT).exists():
                self._begin_segment(directory, Tail(directory), "")
            EgressReader.__init__(self, directory)
            Appender.__init__(self, directory)
            with self._lock, self._locked():
                self._mend()
        except OSError as error:
            raise UsageError(f"cannot keep the egress record in {directory}: {error}") from error

    @classmethod
    def reading(cls, directory: Path) -> EgressReader:
        """The record of another process."""
        return EgressReader(directory)

    def totals(self) -> Totals:
        """See EgressReader."""
        with self._lock:
            return super().totals()

    async def keep(self) -> None:
        """Sign and sync once a second while something leaves; until cancelled."""
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            if self._changed():
                await asyncio.to_thread(self.sign)

    def sign(self) -> None:
        """Sign what was added and sync it to disk; begin another file when this one is large.

        A full disk is no error: what is unsigned is signed when there is room.
        """
        with self._signing:
            try:
                with self._lock, self._locked():
                    self._write_waiting()
                    self._tail.catch_up()
                    if self._tail.size == self._tail.signed:
                        return
                    self._write(self._checkpoint() + b"\n")
                    self._tail.catch_up()
                    handle = os.dup(self._handle)
                try:
                    os.fsync(handle)  # outside the lock: messages go on leaving meanwhile
                finally:
                    os.close(handle)
                grown = self._tail.offset - self._tail.begun_offset
                if grown >= self._limits.segment_bytes:
                    self._rotate("")
            except (OSError, UsageError) as error:
                log.warning("the egress record is not signed now: %s", error)

    def export(self) -> Iterator[bytes]:
        """See EgressReader; everything that left so far is signed and in it."""
        self.sign()
        with self._lock:
            return super().export()

    def erase(self) -> None:
        """The owner's wish: forget the entries and sums; the chain goes on from their last head.

        Raises HedgerowError when the disk does not take the beginning of the new one.
        """
        self.sign()
        try:
            with self._signing:
                self._rotate(ERASED, erase=True)
        except OSError as error:
            raise HedgerowError(f"the egress record is not erased: {error}") from error

    def close(self) -> None:
        """Sign and close."""
        self.sign()
        Appender.close(self)

    def _unwritten(self) -> int:
        return self.unwritten

    def _changed(self) -> bool:
        with self._lock, contextlib.suppress(OSError):
            return self.unwritten > 0 or self._path.stat().st_size > self._tail.signed_offset
        return True  # signing says what is wrong

    def _checkpoint(self) -> bytes:
        tail = self._tail
        origin = origin_of(self._identity.public)
        checkpoint = note.Checkpoint(origin, tail.size, tail.head, round(self._now(), 3))
        return encode(Signed(note=note.signed(checkpoint, self._key, self._identity.sign)))

    def _mend(self) -> None:
        """Cut off the piece of a line that a power loss left, and say so in the record."""
        for path in segments(self.directory)[-2:-1]:
            if path.stat().st_ino == self._tail.inode:  # it was about to make way for a new one
                path.unlink()
        rest = self._tail.catch_up()
        if self._tail.why == ERASED:  # the power went before all that was erased was gone
            for path in segments(self.directory)[:-1]:
                path.unlink()
        if not rest:
            return
        log.warning("%d bytes of a line at the end of %s are cut off", len(rest), self._path)
        os.ftruncate(self._handle, self._tail.offset)
        now = round(self._now(), 3)
        why = "power was lost while a line was written"
        since = self._tail.signed_seconds or now
        gap = Gap(time=now, since=since, messages=0, bytes=0, why=why)
        self._write(encode(gap) + b"\n")

    def _rotate(self, why: str, *, erase: bool = False) -> None:
        """Begin another file; those beyond the cap go, or all of them."""
        with self._lock, self._locked():
            self._tail.catch_up()
            self._begin_segment(self.directory, self._tail, why, erase=erase)
            self._tail.catch_up()  # `_changed` compares with where the file that grows is signed
        older = segments(self.directory)[:-1]
        size = sum(path.stat().st_size for path in older)
        for path in older:
            if size <= self._limits.bytes_max - self._limits.segment_bytes and not erase:
                break
            size -= path.stat().st_size
            path.unlink()
        sync_directory(self.directory)

    def _begin_segment(self, directory: Path, tail: Tail, why: str, *, erase: bool = False) -> None:
        """Put a new file in the place of the one that grows, which gets a name of its own."""
        head = Segment(
            device=self._identity.public,
            first=tail.size,
            previous=tail.head.hex(),
            time=round(self._now(), 3),
            kinds={} if erase else tail.kinds,
            days={} if erase else tail.days,
            why=why,
        )
        draft, current = directory / ".record.draft", directory / CURRENT
        with draft.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(segment_line(head) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if current.exists():
            number = 1 + max(
                (int(path.stem.partition("-")[2]) for path in segments(directory)[:-1]), default=0
            )
            os.link(current, directory / f"record-{number:08d}.jsonl")
        draft.replace(current)
        sync_directory(directory)
