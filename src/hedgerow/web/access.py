"""Who may see a device's console from elsewhere: browsers that were paired with a code.

A code is made by somebody who can write the device's state directory (`hedgerow pair`). It lets one
browser in, once, within ten minutes, and is void after five wrong tries. While no code was asked
for there is nothing to guess. What a paired browser keeps is a random token; here lies its hash.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.io import clock, entropy
from hedgerow.io.keys import read_secret, replace_secret

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 signs that are not mistaken for one another."""

CODE_LENGTH: Final = 8
"""40 bits: five tries in ten minutes find it with a chance of 5 in 10^12."""

CODE_SECONDS: Final = 600.0
TRIES_MAX: Final = 5
TOKENS_MAX: Final = 32
TOKEN_SECONDS: Final = 90 * 86_400.0

CODE_FILE: Final = "console.code"
TOKENS_FILE: Final = "console.tokens"
RUNNING_FILE: Final = "console.json"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Where the console of a running agent is, for programs of its own user on this machine."""

    url: str
    token: str
    process: int


class _Code(msgspec.Struct, kw_only=True):
    hash: str
    expires_seconds: float
    tries: int = 0


class _Tokens(msgspec.Struct, kw_only=True):
    made: dict[str, float] = {}
    """Hash of each token → when it was made, oldest first"""


class Access:
    """Pairing and admission for one state directory.

    `needed` False lets everybody in: for a page on the loopback address. Raises UsageError when
    others may read the files.
    """

    def __init__(self, state: Path, needed: bool, now: Callable[[], float] = clock.now) -> None:
        self.needed = needed
        self.run_token = entropy.secret_bytes(32).hex()
        """Admitted while this process lives."""
        self._state, self._now = state, now

    def admitted(self, token: str) -> bool:
        """Whether a token, from a cookie or an `Authorization` header, is one of ours."""
        if not self.needed:
            return True
        if not token:
            return False
        if hmac.compare_digest(token.encode(), self.run_token.encode()):
            return True
        made = _tokens(self._state).made.get(_hash(token))
        return made is not None and self._now() - made <= TOKEN_SECONDS

    def pair(self, code: str) -> str | None:
        """A new token for the browser that knows the code, which then is used up; else None."""
        path = self._state / CODE_FILE
        if not path.exists():
            return None
        kept = _code(path)
        # More than ten minutes to go: the clock was set back meanwhile.
        left = -1.0 if kept is None else kept.expires_seconds - self._now()
        if kept is None or kept.tries >= TRIES_MAX or not 0.0 <= left <= CODE_SECONDS:
            path.unlink(missing_ok=True)
            return None
        if not hmac.compare_digest(_hash(plain_code(code)), kept.hash):
            kept.tries += 1
            _save(path, kept)
            return None
        path.unlink(missing_ok=True)
        token = entropy.secret_bytes(32).hex()
        tokens = _tokens(self._state)
        tokens.made[_hash(token)] = self._now()
        for oldest in list(tokens.made)[:-TOKENS_MAX]:
            del tokens.made[oldest]
        _save(self._state / TOKENS_FILE, tokens)
        return token


def new_code(state: Path, now: float) -> str:
    """A fresh code in the place of any other, such as `7KQM-X2P9`.

    Raises UsageError when the state directory is not there or cannot be written.
    """
    code = "".join(ALPHABET[byte % 32] for byte in entropy.secret_bytes(CODE_LENGTH))
    kept = _Code(hash=_hash(code), expires_seconds=now + CODE_SECONDS)
    try:
        _save(state / CODE_FILE, kept)
    except OSError as error:
        raise UsageError(
            f"cannot write {state / CODE_FILE}: {error.strerror}; run this as the user the device "
            "runs as, and give its state directory by --state"
        ) from error
    return f"{code[:4]}-{code[4:]}"


def forget_paired(state: Path) -> int:
    """Turn out every paired browser; how many there were."""
    count = len(_tokens(state).made)
    (state / TOKENS_FILE).unlink(missing_ok=True)
    return count


def plain_code(code: str) -> str:
    """A code as people type it: case, blanks and hyphens do not matter."""
    return "".join(code.upper().split()).replace("-", "")


def write_running(state: Path, running: Running) -> None:
    """Say where the console is. Raises OSError."""
    _save(state / RUNNING_FILE, running)


def read_running(state: Path) -> Running | None:
    """Where the console is, as last written; None: nothing runs. Raises UsageError."""
    path = state / RUNNING_FILE
    try:
        return msgspec.json.decode(read_secret(path), type=Running) if path.exists() else None
    except (msgspec.DecodeError, PermissionError) as error:
        raise UsageError(
            f"cannot read {path}: {error}; run this as the user the device runs as"
        ) from error


def _tokens(state: Path) -> _Tokens:
    path = state / TOKENS_FILE
    try:
        return msgspec.json.decode(read_secret(path), type=_Tokens) if path.exists() else _Tokens()
    except msgspec.DecodeError:
        return _Tokens()  # browsers are paired again; a damaged file lets nobody in


def _code(path: Path) -> _Code | None:
    try:
        return msgspec.json.decode(read_secret(path), type=_Code)
    except msgspec.DecodeError:
        return None


def _save(path: Path, value: msgspec.Struct) -> None:
    replace_secret(path, msgspec.json.encode(value).decode("ascii"))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
