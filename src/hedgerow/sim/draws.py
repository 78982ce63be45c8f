"""Uniform draws by number: the value depends on the key and the numbers alone, not on a history.

SplitMix64, after Fast splittable pseudorandom number generators (Steele, Lea, Flood, 2014). A
million devices can each have their own sequence without a generator being kept for any of them.
(`core.streams` draws for many at once; here one at a time, in plain integers, is what is wanted.)
"""

from __future__ import annotations

import math

from hedgerow.core.streams import key_of

_MASK = (1 << 64) - 1


def key(seed: int, *names: str | int) -> int:
    """`streams.key_of` as a plain integer."""
    return int(key_of(seed, *names))


def uniform(base: int, first: int, second: int = 0) -> float:
    """Draw (`first`, `second`) of `base`: a number between 0 and 1, neither of them itself."""
    state = _mixed((base + 0x9E3779B97F4A7C15 * (first + 1)) & _MASK)
    state = _mixed((state + 0xD1B54A32D192ED03 * (second + 1)) & _MASK)
    return ((state >> 12) + 0.5) * 2.0**-52


def exponential(base: int, first: int, second: int, mean: float) -> float:
    """A waiting time with that mean."""
    return -mean * math.log(uniform(base, first, second))


def _mixed(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
