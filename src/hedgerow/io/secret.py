"""Passwords and keys that settings name but do not hold."""

import os
from pathlib import Path

from hedgerow.core.errors import UsageError
from hedgerow.io.keys import read_secret


def named_secret(where: str) -> str:
    """What `where` names: `file:PATH`, whose first line it is, or `env:NAME`; empty: empty.

    A secret itself does not belong into settings, which are shown, copied and kept in repositories.

    Raises:
        UsageError: `where` is none of these, there is nothing, or others may read the file.
    """
    if not where:
        return ""
    kind, _, name = where.partition(":")
    if kind not in {"env", "file"} or not name:
        raise UsageError(
            "a secret stands in the settings itself, or is named in a way nobody knows; put it "
            "into a file that only its owner may read and write file:PATH, or env:NAME"
        )
    if kind == "env":
        value = os.environ.get(name, "")
    else:
        value = read_secret(Path(name).expanduser()).partition("\n")[0].strip()
    if not value:
        raise UsageError(f"the secret {where} is empty; write it there, on the first line")
    return value
