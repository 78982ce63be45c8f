"""Ed25519 identities as NATS NKeys: made on the machine that uses them, never sent anywhere.

The public half (`U…`, 56 characters) is the device id. The seed lies in a file that only its owner
may read, apart from every database, so that a lost database never costs a device its name.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

import nkeys
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from hedgerow.core.errors import UsageError
from hedgerow.io import entropy

Kind: TypeAlias = Literal["user", "account", "operator"]

PREFIXES: Final[dict[str, int]] = {
    "user": nkeys.PREFIX_BYTE_USER,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
}
PUBLIC_LENGTH: Final = 56
SIGNATURE_BYTES: Final = 64


class Identity:
    """A signing key and its public name. Nothing prints or pickles the seed."""

    __slots__ = ("_seed", "_signing", "public")

    def __init__(self, seed: str) -> None:
        """From the NKey text of a seed (`S…`). Raises UsageError when it is none."""
        try:
            _, raw = nkeys.decode_seed(seed.encode("ascii"))
            self._signing = SigningKey(bytes(raw))
            public: bytes = nkeys.from_seed(seed.encode("ascii")).public_key
        except (nkeys.NkeysError, binascii.Error, UnicodeError, CryptoError, ValueError):
            raise UsageError(
                "a key seed is not a valid NKey seed; restore it from a copy"
            ) from None
        self._seed = seed
        self.public: Final[str] = public.decode("ascii")

    @classmethod
    def create(cls, kind: Kind = "user") -> Identity:
        """A new key that exists in memory only."""
        return cls(nkeys.encode_seed(entropy.secret_bytes(32), PREFIXES[kind]).decode("ascii"))

    @classmethod
    def load_or_create(cls, path: Path, kind: Kind = "user") -> Identity:
        """The key in the file `path`; made there, readable by its owner alone, when there is none.

        Two processes that start at once end with the same key. Raises UsageError when others may
        read the file or write its directory, or when it holds something else.
        """
        path = Path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(
                f"others may write {path.parent}, where a key lies; run chmod 700 on it"
            )
        if not path.exists():
            write_secret(path, cls.create(kind).seed_text() + "\n")
        return cls.load(path, kind)

    @classmethod
    def load(cls, path: Path, kind: Kind = "user") -> Identity:
        """The key in the file `path`. Raises UsageError as `load_or_create`, or when missing."""
        identity = cls(read_secret(path).strip())
        wanted = nkeys.decode_seed(identity.seed_text().encode("ascii"))[0]
        if wanted != PREFIXES[kind]:
            raise UsageError(f"{path} holds another kind of key than the {kind} key it should")
        return identity

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `data`."""
        return self._signing.sign(data).signature

    def seed_text(self) -> str:
        """The secret itself, to write into a credential file. Never log it."""
        return self._seed

    def __repr__(self) -> str:
        return f"Identity({self.public})"

    def __reduce__(self) -> str:
        raise UsageError("an identity is not copied between processes; each makes its own")


def verify(public: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made by the key named `public`. Never raises."""
    key = _verify_key(public)
    if key is None or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        key.verify(data, signature)
    except BadSignatureError:
        return False
    return True


def is_public(text: str, kind: Kind = "user") -> bool:
    """Whether `text` is a well-formed public key of that kind."""
    return _verify_key(text, kind) is not None


@lru_cache(maxsize=16_384)
def _verify_key(public: str, kind: Kind = "user") -> VerifyKey | None:
    if len(public) != PUBLIC_LENGTH:
        return None
    try:
        raw = base64.b32decode(public.encode("ascii"))
    except (binascii.Error, UnicodeError):
        return None
    body, checksum = raw[:-2], raw[-2:]
    if body[0] != PREFIXES[kind] or nkeys.crc16(bytearray(body)).to_bytes(2, "little") != checksum:
        return None
    return VerifyKey(body[1:])


def write_secret(path: Path, text: str) -> None:
    """Put `text` into a new file that only its owner may read; whole, or not at all.

    When the file exists already it is left as it is: whoever came first has won.
    """
    with _draft(path, text) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)  # unlike a rename, this never replaces a key that is there
    sync_directory(path.parent)


def replace_secret(path: Path, text: str) -> None:
    """As `write_secret`, but a file that is there is replaced; readers see one or the other."""
    with _draft(path, text) as draft:
        draft.replace(path)
    sync_directory(path.parent)


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    """A file beside `path` that holds `text` durably, for its owner alone; gone afterwards."""
    draft = path.with_name(f".{path.name}.{entropy.secret_bytes(8).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def read_secret(path: Path) -> str:
    """The text of a secret file. Raises UsageError when missing or when others may read it."""
    try:
        with path.open(encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(f"others may read the secret {path}; run chmod 600 on it")
            return file.read(65_536)
    except FileNotFoundError:
        raise UsageError(f"there is no secret file {path}") from None
    except UnicodeError:
        raise UsageError(f"the secret file {path} is not text; restore it from a copy") from None


def sync_directory(directory: Path) -> None:
    """Make names that were just created or renamed in `directory` survive a power loss."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
