"""What simulated clients keep from round to round: on disk, so that memory does not grow with them.

Each name has one sparse file of a row for each client. A row takes space once it is written; pages
of it are in memory only as long as the system sees fit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.passes import Counts, Rows

Kind = TypeVar("Kind", bound=np.generic)


class ClientStates:
    """Vectors by name for each of `clients`. Use as a context manager, or `close` it.

    `folder` keeps the files for another run; without one they go when this is closed. Rows of
    different clients may be read and written by several threads at once.
    """

    def __init__(self, clients: int, folder: Path | None = None) -> None:
        self._clients = clients
        self._temporary = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="hedgerow-clients-")
            folder = Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._known: dict[str, NDArray[np.uint8]] = {}

    def open(self, name: str, size: int) -> None:
        """Make room for vectors `[size]` under `name`, or take up what an earlier run left.

        Raises:
            UsageError: there are vectors of another size.
        """
        if name in self._rows:
            if self._rows[name].shape[1] != size:
                raise UsageError(
                    f"clients keep {self._rows[name].shape[1]} numbers as {name!r}, not {size}; "
                    "give another model or algorithm a folder of its own"
                )
            return
        self._rows[name] = self._mapped(f"{name}.rows", (self._clients, size), np.float32)
        self._known[name] = self._mapped(f"{name}.known", (self._clients,), np.uint8)

    def read(self, name: str, clients: Counts) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows `[K, size]` of `clients [K]`, zeros where there is none yet, and which are."""
        rows = np.array(self._rows[name][clients])
        return rows, self._known[name][clients].astype(np.bool_)

    def write(self, name: str, clients: Counts, rows: Rows) -> None:
        """Keep `rows [K, size]`."""
        self._rows[name][clients] = rows
        self._known[name][clients] = 1

    def forget(self) -> None:
        """Everybody is new again."""
        for known in self._known.values():
            known[:] = 0
        for rows in self._rows.values():
            rows[:] = 0

    def close(self) -> None:
        """Write everything out; files in a folder of this object's own are deleted."""
        for mapped in (*self._rows.values(), *self._known.values()):
            if isinstance(mapped, np.memmap):
                mapped.flush()
        self._rows.clear()
        self._known.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> ClientStates:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _mapped(self, name: str, shape: tuple[int, ...], kind: type[Kind]) -> NDArray[Kind]:
        path = self._folder / name
        wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
        if wanted == 0:
            return np.zeros(shape, kind)
        if path.exists() and path.stat().st_size != wanted:
            raise UsageError(
                f"{path} has {path.stat().st_size} bytes, {wanted} were wanted; "
                "give another model, algorithm or number of clients a folder of its own"
            )
        return np.memmap(path, kind, "r+" if path.exists() else "w+", shape=shape)
