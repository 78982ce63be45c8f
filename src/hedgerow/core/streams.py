"""Named random streams: every draw comes from a seed and a name, so that it can be replayed.

`stream` gives a generator for one name. Where there are many names, or millions, a 64-bit key
stands for each (`key_of`, `keys_of`), and draws are functions of key and position: SplitMix64,
after Fast splittable pseudorandom number generators (Steele, Lea, Flood, 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""One key each, `[K]`."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `names` alone, independent for each pair.

    Example: `stream(7, "device", device_id, "round", 3)`.
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(seed, names), "little")))


def key_of(seed: int, *names: str | int) -> np.uint64:
    """A key that depends on `seed` and `names` alone."""
    return np.uint64(int.from_bytes(_digest(seed, names)[:8], "little"))


def keys_of(seed: int, names: Sequence[str | int], ids: NDArray[np.integer]) -> Keys:
    """A key for each of `ids [K]`, none negative, under one name.

    They are not those of `key_of(seed, *names, id)`, which takes too long for a million.
    """
    return mixed(key_of(seed, *names) + _GOLDEN * (ids.astype(np.uint64) + np.uint64(1)))


def subkeys(keys: Keys, number: int) -> Keys:
    """For each of `keys [K]` the key of its part `number`, as of an epoch."""
    step = (int(_GOLDEN) * (number + 1)) & (2**64 - 1)  # arrays wrap around in silence, not scalars
    return mixed(mixed(keys) + np.uint64(step))


def permutations(keys: Keys, count: int) -> NDArray[np.int64]:
    """For each of `keys [K]` an order of the numbers from 0 to `count` − 1, `[K, count]`."""
    numbers = np.arange(count, dtype=np.uint64)
    if count < 2:
        return np.zeros((len(keys), count), np.int64)
    drawn = mixed(keys[:, None] + _GOLDEN * (numbers + np.uint64(1)))
    # Each number rides in the low bits of its draw: sorting is faster than sorting indices, and
    # two draws are never equal, so that every sorting algorithm gives the same order.
    low = np.uint64((1 << (count - 1).bit_length()) - 1)
    drawn &= ~low
    drawn |= numbers
    drawn.sort(axis=1)
    drawn &= low
    order: NDArray[np.int64] = drawn.view(np.int64)
    return order


def mixed(states: Keys) -> Keys:
    """SplitMix64's finaliser: every bit of a state moves half of the bits of its result."""
    states = states ^ (states >> np.uint64(30))
    states *= np.uint64(0xBF58476D1CE4E5B9)
    states ^= states >> np.uint64(27)
    states *= np.uint64(0x94D049BB133111EB)
    states ^= states >> np.uint64(31)
    return states


def _digest(seed: int, names: Sequence[str | int]) -> bytes:
    text = "\x1f".join([str(seed), *map(str, names)])
    return hashlib.sha256(text.encode()).digest()[:16]
