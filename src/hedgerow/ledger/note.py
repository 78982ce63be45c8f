"""Checkpoints as signed notes: what a log held at one moment, in text that anybody can check.

    hedgerow.egress/UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4
    1289
    C2iK6dWlWPCQ9V3hQm1q0Q2kR8aJvX4f5n3b1m0cYzE=
    time 1763870000.25

    — hedgerow.egress/UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 3Rk1mW…

Source: C2SP `signed-note` and `tlog-checkpoint`. Lines after the third are extensions there; the
hash is a chain's head here, where theirs is the root of a tree.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from hedgerow.core.errors import PeerError

KEY_BYTES: Final = 32
HASH_BYTES: Final = 32
NOTE_BYTES_MAX: Final = 4096
_ED25519: Final = b"\x01"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_DASH: Final = "— "

Sign: TypeAlias = Callable[[bytes], bytes]


class Checkpoint(NamedTuple):
    """`size` entries led to `head` in the log `origin`, at `time_seconds` of the signer's clock."""

    origin: str
    size: int
    head: bytes
    time_seconds: float

    def text(self) -> str:
        """What is signed."""
        head = base64.b64encode(self.head).decode("ascii")
        return f"{self.origin}\n{self.size}\n{head}\ntime {self.time_seconds!r}\n"


def signed(checkpoint: Checkpoint, key: bytes, sign: Sign) -> str:
    """The note over a checkpoint; `key` is the signer's public Ed25519 key, 32 bytes."""
    text = checkpoint.text()
    stamp = key_id(checkpoint.origin, key) + sign(text.encode())
    return f"{text}\n{_DASH}{checkpoint.origin} {base64.b64encode(stamp).decode('ascii')}\n"


def key_id(name: str, key: bytes) -> bytes:
    """How a note names a key: the first 4 bytes of a hash of its name and itself."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key).digest()[:4]


def parsed(note: str) -> Checkpoint:
    """What a note says, whether or not anybody signed it.

    Raises:
        PeerError: `malformed`.
    """
    return _checkpoint(note.partition("\n\n")[0].split("\n"))


def opened(note: str, key: bytes, verify: Callable[[bytes, bytes], bool]) -> Checkpoint:
    """The checkpoint in a note, whose signature by `key` holds: `verify(data, signature)`.

    Raises:
        PeerError: `malformed`, `unsigned` (no signature by that key) or `forged`.
    """
    if len(note) > NOTE_BYTES_MAX:
        raise PeerError("malformed", f"a note of {len(note)} characters; at most {NOTE_BYTES_MAX}")
    text, separator, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if not separator:
        raise PeerError("malformed", "not a signed note: no empty line before a signature")
    checkpoint = _checkpoint(lines)
    stamp = _stamp(signatures, checkpoint.origin, key)
    if not verify(f"{text}\n".encode(), stamp):
        raise PeerError("forged", "the signature of a checkpoint does not hold")
    return checkpoint


def _checkpoint(lines: list[str]) -> Checkpoint:
    if len(lines) < 3:
        raise PeerError("malformed", "a checkpoint wants an origin, a size and a hash")
    origin, size, head, *extensions = lines
    times = [line.removeprefix("time ") for line in extensions if line.startswith("time ")]
    try:
        hashed = base64.b64decode(head, validate=True)
        time_seconds = float(times[0]) if times else float("nan")
    except (binascii.Error, ValueError) as error:
        raise PeerError("malformed", f"a checkpoint that cannot be read: {error}") from None
    if not origin or len(hashed) != HASH_BYTES or _NUMBER.fullmatch(size) is None:
        raise PeerError("malformed", "a checkpoint wants an origin, a size and 32 bytes of hash")
    return Checkpoint(origin, int(size), hashed, time_seconds)


def _stamp(signatures: str, name: str, key: bytes) -> bytes:
    wanted = key_id(name, key)
    for line in signatures.split("\n"):
        if not line.startswith(f"{_DASH}{name} "):
            continue
        try:
            stamp = base64.b64decode(line.rpartition(" ")[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        if stamp[:4] == wanted:
            return stamp[4:]
    raise PeerError("unsigned", f"no signature by the key of {name}")
