"""A run on disk between two rounds, so that it can be taken up again and gives the same bits.

The file is a pickle that is read with a list of what may be in it: plain data, arrays, and the
states of Hedgerow's own machines. A file from elsewhere can name no function to be called.
"""

from __future__ import annotations

import importlib
import io
import pickle
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from hedgerow.core.errors import UsageError

ROOMS = ("hedgerow.protocol.", "hedgerow.wire.", "hedgerow.sim.", "hedgerow.algorithms.")
"""Data classes and structs of these rooms, and of those below them, may stand in a file."""
BELOW = ("hedgerow.seal.", "hedgerow.core.", "hedgerow.model.")
PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "slice"),
    ("msgspec._utils", "rebuild"),
    ("hedgerow.aggregate.mean", "ExactSum"),
    ("hedgerow.protocol.learning", "Sums"),
    ("hedgerow.protocol.learning", "Shape"),
}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(pickle.dumps(state, protocol=5))
    partial.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, or None where there is nothing.

    Raises:
        UsageError: the file is damaged, or holds something that no run keeps.
    """
    if not path.exists():
        return None
    try:
        state = _Reader(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # whatever a damaged pickle raises
        raise UsageError(
            f"{path} cannot be taken up again ({error}); delete it, and the run starts over"
        ) from error
    if not isinstance(state, dict):
        raise UsageError(f"{path} holds no run; delete it, and the run starts over")
    return state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return super().find_class(module, name)
        if module.startswith((*ROOMS, *BELOW)) and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and (
                is_dataclass(found) or issubclass(found, msgspec.Struct | tuple)
            ):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} may not stand in it")
