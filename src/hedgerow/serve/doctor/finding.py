"""One thing that was looked at."""

from typing import Literal

import msgspec

State = Literal["good", "odd", "bad"]


class Finding(msgspec.Struct, frozen=True):
    """`bad` stops the device or costs it data, `odd` is worth a look. `remedy` says what to do."""

    what: str
    state: State
    says: str
    remedy: str = ""


def good(what: str, says: str) -> Finding:
    """All is well."""
    return Finding(what, "good", says)


def odd(what: str, says: str, remedy: str) -> Finding:
    """The device works, but not as it might."""
    return Finding(what, "odd", says, remedy)


def bad(what: str, says: str, remedy: str = "") -> Finding:
    """The device does not work like that."""
    return Finding(what, "bad", says, remedy)
