"""A hash chain over lines of JSON, and its verification without the device that wrote it.

A record is a list of lines. Each line but a checkpoint is an entry, and the head after it is

    head ← SHA-256(head ‖ line)        32 bytes, all zero before the first; the line without its end

so one changed, missing or moved byte changes every head behind it. A checkpoint line holds a signed
note over (number of entries, head). A record that was shortened at the front begins with a segment
line that says which entry it is and which head came before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeAlias

import msgspec

from hedgerow.core.errors import PeerError
from hedgerow.ledger import note

EMPTY: Final = bytes(note.HASH_BYTES)
LINE_BYTES_MAX: Final = 512 * 1024
"""A segment's sums may take half of it; every other line is far shorter."""

Text = Annotated[str, msgspec.Meta(max_length=200)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="line"):
    """Base of all lines. A field that this version does not know is no fault: the hash holds it."""


class Left(Entry, frozen=True, kw_only=True, tag="left", omit_defaults=True):
    """One message left the device: when, where to, which class, what for, how many bytes.

    `digest` is the SHA-256 of the payload in hex where it was at hand.
    """

    time: float
    to: Text
    kind: Text
    purpose: Text
    size: Count
    digest: Text = ""


class Gap(Entry, frozen=True, kw_only=True, tag="gap"):
    """`messages` of `bytes` bytes left between `since` and `time` and could not be written down
    one by one (each 0 where that is not known), and why.
    """

    time: float
    since: float
    messages: Count
    bytes: Count
    why: Text


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """How many messages, and their bytes."""

    messages: int = 0
    bytes: int = 0

    def plus(self, messages: int, size: int) -> Sum:
        """With these added."""
        return Sum(self.messages + messages, self.bytes + size)


class Segment(Entry, frozen=True, kw_only=True, tag="segment"):
    """A new file of the record: entry number `first`, after the head `previous` (hex).

    `kinds` and `days` (UTC) are the sums of all before it. `why` says what is special about it.
    """

    device: Text
    first: Count
    previous: Text
    time: float
    kinds: dict[str, Sum] = {}
    days: dict[str, dict[str, Sum]] = {}
    why: Text = ""


class Signed(Entry, frozen=True, kw_only=True, tag="checkpoint"):
    """A checkpoint over all entries before it. It is no entry itself."""

    note: Annotated[str, msgspec.Meta(max_length=note.NOTE_BYTES_MAX)]


Line: TypeAlias = Left | Gap | Segment | Signed
encode = msgspec.json.Encoder().encode
_decode: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
VerifyAs = Callable[[str, bytes, bytes], bool]
"""`verify(device, data, signature)`."""


def link(head: bytes, line: bytes) -> bytes:
    """The head after one more entry."""
    return hashlib.sha256(head + line).digest()


def decode(line: bytes) -> Line:
    """One line, without its end.

    Raises:
        PeerError: `malformed`.
    """
    if len(line) > LINE_BYTES_MAX:
        raise PeerError("malformed", f"a line of {len(line)} bytes; at most {LINE_BYTES_MAX}")
    try:
        return _decode.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("malformed", f"not a line of a record: {error}") from None


def origin_of(device: str) -> str:
    """The name of a device's egress record in its checkpoints."""
    return f"hedgerow.egress/{device}"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What came of checking a record. `entries` were checked, from number `first` on.

    `bad` is the number of the entry at which the first fault showed, `why` says which. `device` is
    whose signatures they are; `sums` and `gaps` are over the entries that were checked.
    """

    good: bool
    device: str = ""
    first: int = 0
    entries: int = 0
    messages: int = 0
    bytes: int = 0
    gaps: int = 0
    checkpoints: int = 0
    head: str = ""
    signed_seconds: float | None = None
    kinds: dict[str, Sum] = {}
    bad: int | None = None
    why: str = ""


class Verifier:
    """Takes a record line by line; `result` is what came of it so far.

    `known` are heads that are known from elsewhere, by number of entries: an older export, say.
    """

    def __init__(
        self,
        verify: VerifyAs,
        key_of: Callable[[str], bytes],
        device: str = "",
        known: Mapping[int, bytes] | None = None,
    ) -> None:
        """`key_of` gives a device's raw public key; an empty `device` takes whose it says it is."""
        self._verify, self._key_of = verify, key_of
        self._device = device
        self._known = dict(known or {})
        self._head = EMPTY
        self._first: int | None = None
        self._size = 0
        self._signed = -1
        self._signed_seconds: float | None = None
        self._checkpoints = self._messages = self._bytes = self._gaps = 0
        self._kinds: dict[str, Sum] = {}
        self._bad: int | None = None
        self._why = ""

    def take(self, line: bytes) -> bool:
        """One line without its end; False from the first fault on."""
        if self._bad is not None:
            return False
        try:
            entry = decode(line)
            if self._first is None:
                self._begin(entry)
            if isinstance(entry, Signed):
                self._check_signature(entry)
            else:
                self._count(entry)
                self._head = link(self._head, line)
                self._size += 1
            self._compare()
        except PeerError as error:
            self._bad, self._why = self._size, error.detail
        return self._bad is None

    def result(self) -> Verified:
        """What came of it; a record whose last entries nobody signed is not good."""
        bad, why = self._bad, self._why
        if bad is None and self._first is None:
            bad, why = 0, "there is nothing in it"
        elif bad is None and self._signed != self._size:
            bad = max(self._signed, self._first or 0)
            why = f"the last {self._size - bad} entries are not signed"
        elif bad is None and self._known:
            bad = min(self._known)
            why = f"it does not reach entry {bad}, which is known from elsewhere"
        return Verified(
            good=bad is None,
            device=self._device,
            first=self._first or 0,
            entries=self._size - (self._first or 0),
            messages=self._messages,
            bytes=self._bytes,
            gaps=self._gaps,
            checkpoints=self._checkpoints,
            head=self._head.hex(),
            signed_seconds=self._signed_seconds,
            kinds=dict(sorted(self._kinds.items())),
            bad=bad,
            why=why,
        )

    def _begin(self, entry: Line) -> None:
        if not isinstance(entry, Segment):
            raise PeerError("malformed", "a record begins with a segment line")
        if self._device and entry.device != self._device:
            raise PeerError("other_device", f"this is the record of {entry.device}")
        self._device = entry.device
        self._first = self._size = entry.first
        try:
            self._head = bytes.fromhex(entry.previous)
        except ValueError:
            raise PeerError("malformed", "a segment's head is no hexadecimal") from None
        if len(self._head) != note.HASH_BYTES or (entry.first == 0 and self._head != EMPTY):
            raise PeerError("malformed", "a segment begins after a head that cannot be")
        beyond = [size for size in self._known if size < entry.first]
        if beyond:
            raise PeerError(
                "shortened",
                f"it begins at entry {entry.first} and only the first {max(beyond)} are known: "
                "nothing shows that it goes on from there",
            )
        self._compare()

    def _count(self, entry: Left | Gap | Segment) -> None:
        match entry:
            case Segment():
                if (entry.first, entry.previous) != (self._size, self._head.hex()):
                    raise PeerError("broken", f"entries before number {entry.first} are missing")
                if entry.device != self._device:
                    raise PeerError("other_device", f"goes on with entries of {entry.device}")
            case Gap():
                self._gaps += 1
                self._messages += entry.messages
                self._bytes += entry.bytes
            case Left():
                self._messages += 1
                self._bytes += entry.size
                self._kinds[entry.kind] = self._kinds.get(entry.kind, Sum()).plus(1, entry.size)

    def _check_signature(self, entry: Signed) -> None:
        key = self._key_of(self._device)
        checkpoint = note.opened(
            entry.note, key, lambda data, signature: self._verify(self._device, data, signature)
        )
        if checkpoint.origin != origin_of(self._device):
            raise PeerError("other_device", f"a checkpoint of {checkpoint.origin}")
        if (checkpoint.size, checkpoint.head) != (self._size, self._head):
            raise PeerError(
                "broken",
                f"the {checkpoint.size} entries that were signed are not the {self._size} here: "
                f"something before number {self._size} was changed, removed or added",
            )
        self._checkpoints += 1
        self._signed, self._signed_seconds = self._size, checkpoint.time_seconds

    def _compare(self) -> None:
        known = self._known.pop(self._size, None)
        if known is not None and known != self._head:
            raise PeerError("broken", f"the first {self._size} entries are others than those known")


def verify_lines(lines: Iterable[bytes], verifier: Verifier) -> Verified:
    """All lines, without their ends, up to the first fault."""
    for line in lines:
        if not verifier.take(line):
            break
    return verifier.result()
