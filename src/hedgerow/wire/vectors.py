"""Vectors by name as they are kept: safetensors, with whose they are in front of each name.

What was kept for another owner (an algorithm, say) is of no use to this one and is not read.
"""

from collections.abc import Mapping

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load, save

from hedgerow.core.errors import HedgerowError


def pack(vectors: Mapping[str, NDArray[np.float32]], owner: str) -> bytes:
    """Vectors of any shape as bytes."""
    return save({f"{owner}:{name}": np.ascontiguousarray(v) for name, v in vectors.items()})


def unpack(data: bytes, owner: str) -> dict[str, NDArray[np.float32]]:
    """What `pack` made for that owner; empty for no bytes.

    Raises:
        HedgerowError: the bytes are damaged.
    """
    if not data:
        return {}
    try:
        found = load(data)
    except safetensors.SafetensorError as error:
        raise HedgerowError(f"kept vectors are damaged: {error}; remove them") from error
    head = f"{owner}:"
    return {
        name.removeprefix(head): part.astype(np.float32, copy=False)
        for name, part in found.items()
        if name.startswith(head)
    }
