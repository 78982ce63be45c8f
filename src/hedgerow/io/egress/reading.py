"""Looking into an egress record, and proving it: for the agent itself, and for anybody else."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hedgerow.core.errors import UsageError
from hedgerow.io.egress.files import Tail, decoded, segments
from hedgerow.io.keys import verify
from hedgerow.ledger.chain import (
    EMPTY,
    LINE_BYTES_MAX,
    Gap,
    Left,
    Segment,
    Sum,
    Verified,
    Verifier,
    encode,
    link,
    verify_lines,
)

PIECE_BYTES: Final = 2**20


class Entry(NamedTuple):
    """One entry: a message that left, or (kind `gap`) that some could not be written down.

    `digest` is the SHA-256 of the payload and `hash` the head of the chain after it, both in hex.
    """

    number: int
    time_seconds: float
    to: str
    kind: str
    purpose: str
    size: int
    digest: str
    hash: str


class Totals(NamedTuple):
    """Sums over everything that ever left, since the record was begun; days are UTC.

    `unwritten` messages wait for room on the disk. `faults` should be 0: lines that do not fit.
    """

    messages: int
    bytes: int
    entries: int
    head: str
    signed_entries: int
    signed_seconds: float | None
    kinds: dict[str, Sum]
    days: dict[str, dict[str, Sum]]
    unwritten: int
    faults: int


class EgressReader:
    """A record to look into, beside the agent that writes it. From one thread."""

    def __init__(self, directory: Path) -> None:
        """Raises UsageError when there is none."""
        self.directory = Path(directory)
        self._tail = Tail(self.directory)
        self._tail.catch_up()

    def totals(self) -> Totals:
        """The sums, up to the entry added last."""
        self._tail.catch_up()
        tail = self._tail
        whole = list(tail.kinds.values())
        return Totals(
            messages=sum(one.messages for one in whole),
            bytes=sum(one.bytes for one in whole),
            entries=tail.size,
            head=tail.head.hex(),
            signed_entries=tail.signed,
            signed_seconds=tail.signed_seconds,
            kinds=dict(tail.kinds),
            days={day: dict(kinds) for day, kinds in sorted(tail.days.items())},
            unwritten=self._unwritten(),
            faults=tail.faults,
        )

    def entries(self, limit: int = 50, before: int | None = None, kind: str = "") -> list[Entry]:
        """The newest, newest first: those numbered below `before`, of one kind or of all ("")."""
        found: list[Entry] = []
        for path in reversed(segments(self.directory)):
            found += reversed([one for one in _entries(path, kind) if _below(one, before)])
            if len(found) >= limit:
                break
        return found[:limit]

    def verify(self) -> Verified:
        """Check every hash and every signature there is, up to the newest checkpoint."""
        return verify_lines(_lines(self.export()), verifier())

    def export(self) -> Iterator[bytes]:
        """The record up to its newest checkpoint, as `hedgerow egress verify` reads it."""
        # All files are opened now: whatever is begun or dropped meanwhile, this stays one record.
        files = [path.open("rb") for path in segments(self.directory)]
        self._tail.catch_up()
        ends = [os.fstat(file.fileno()).st_size for file in files]
        if os.fstat(files[-1].fileno()).st_ino == self._tail.inode:
            ends[-1] = self._tail.signed_offset
        return _all_pieces(files, ends)

    def bytes(self) -> int:
        """What the record takes on disk."""
        return sum(path.stat().st_size for path in segments(self.directory))

    def _unwritten(self) -> int:
        return 0


def key_of(device: str) -> bytes:
    """The raw Ed25519 key, 32 bytes, that a device's name spells (an NKey, base32)."""
    return base64.b32decode(device)[1:33]


def verifier(device: str = "", known: dict[int, bytes] | None = None) -> Verifier:
    """A verifier with real signatures; see `ledger.chain`."""
    return Verifier(verify, key_of, device, known)


def verify_file(path: Path, device: str = "", since: Path | None = None) -> Verified:
    """Check an exported record, of that device if one is named; `since` is an older export of it.

    Raises UsageError when a file cannot be read, or when the older one is not good itself.
    """
    known: dict[int, bytes] = {}
    if since is not None:
        older = verify_lines(_lines(_pieces(since)), verifier(device))
        if not older.good:
            raise UsageError(f"{since} is not good itself: {older.why}")
        known = {older.first + older.entries: bytes.fromhex(older.head)}
    return verify_lines(_lines(_pieces(path)), verifier(device, known))


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
        return _all_pieces([file], [os.fstat(file.fileno()).st_size])
    except OSError as error:
        raise UsageError(f"cannot read the record {path}: {error.strerror}") from error


def _all_pieces(files: Sequence[BinaryIO], ends: Sequence[int]) -> Iterator[bytes]:
    """What is in open files up to their ends, in pieces; closes them."""
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(file)
        for file, left in zip(files, ends, strict=True):
            while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                yield piece


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines; one that never ends is given as far as it is read."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES_MAX:
            break
    if rest:
        yield rest


def _entries(path: Path, kind: str) -> Iterator[Entry]:
    """The entries of one file, oldest first."""
    head, number = EMPTY, 0
    wanted = b"" if not kind or kind == "gap" else encode(kind)
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.startswith(b'{"line":"segment"'):
            entry = decoded(line)
            if isinstance(entry, Segment):
                head, number = bytes.fromhex(entry.previous), entry.first
        elif line.startswith(b'{"line":"checkpoint"'):
            continue
        head, number = link(head, line), number + 1
        if wanted in line:
            entry = decoded(line)
            if isinstance(entry, Left) and kind in ("", entry.kind):
                yield Entry(
                    *(number - 1, entry.time, entry.to, entry.kind, entry.purpose, entry.size),
                    *(entry.digest, head.hex()),
                )
            elif isinstance(entry, Gap) and kind in ("", "gap"):
                why = f"{entry.messages} messages are not written down: {entry.why}"
                yield Entry(number - 1, entry.time, "", "gap", why, entry.bytes, "", head.hex())


def _below(entry: Entry, before: int | None) -> bool:
    return before is None or entry.number < before
