"""Directories into which an operator lays bundles: of a coordinator, or of one device."""

import stat
from pathlib import Path
from typing import Final

from hedgerow.core.errors import UsageError

SUFFIX: Final = ".hedgerow"
OFFERS: Final = "offers"
"""Below a device's state directory."""
RELEASES: Final = "releases"
"""Below a coordinator's."""


def private(directory: Path) -> Path:
    """The directory, made for its owner alone where there is none.

    Raises:
        UsageError: others may write it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"others may write {directory}, where models come from; run chmod 700 on it"
        )
    return directory
