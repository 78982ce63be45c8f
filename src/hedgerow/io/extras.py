"""Packages that only some installations have: what to install, said when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from hedgerow.core.errors import UsageError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports inside belong to the optional part `extra` of Hedgerow.

        with needs("opcua"):
            from asyncua import Client

    Raises:
        UsageError: one of them is not installed, or a library it stands on is missing.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"this needs the package {error.name or error}, which is not installed; run "
            f"pip install 'hedgerow[{extra}]'"
        ) from error
