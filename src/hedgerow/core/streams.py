"""Named random streams: every draw comes from a seed and a name, so that it can be replayed."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `names` alone, independent for each pair.

    Example: `stream(7, "device", device_id, "round", 3)`.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
