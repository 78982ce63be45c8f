"""A seeded random rotation of any length: no padding, one norm for the whole vector.

Randomised Hadamard transform after Fast dimension reduction using Rademacher series (Ailon and
Liberty, 2009). A Hadamard matrix wants a power of two. Here the largest one, 2^m ≤ n, is laid over
the front and again over the back, where they overlap; before and after it element i meets element
i + ⌊n/2⌋, so that what lies in one place only is spread over all. Fresh signs stand before each
part, or parts of one and the same matrix would undo each other. Each keeps the norm, so the whole
does, and its inverse is the parts in reverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Setting


def rotated(vector: Vector, setting: Setting) -> Vector:
    """The vector, rotated as the seed says."""
    block = _block(len(vector))
    first, second, third = _signs(len(vector), setting)
    out: Vector = vector * first
    if block == len(vector):
        return hadamard(out)
    _meet(out)
    out *= second
    out[:block] = hadamard(out[:block])
    out *= third
    out[-block:] = hadamard(out[-block:])
    _meet(out)
    return out


def unrotated(vector: Vector, setting: Setting) -> Vector:
    """The inverse of `rotated`."""
    block = _block(len(vector))
    first, second, third = _signs(len(vector), setting)
    if block == len(vector):
        out = hadamard(vector)
        out *= first
        return out
    out = vector.copy()
    _meet(out)
    out[-block:] = hadamard(out[-block:])
    out *= third
    out[:block] = hadamard(out[:block])
    out *= second
    _meet(out)
    out *= first
    return out


def hadamard(vector: Vector) -> Vector:
    """The orthonormal Hadamard transform of a power of two of elements; its own inverse."""
    size = len(vector)
    half, turns = size // 2, size.bit_length() - 1
    if turns == 0:
        return vector.copy()
    here, there = vector, np.empty_like(vector)
    for turn in range(turns):  # every turn reads halves and writes pairs: long runs each time
        front, back = here[:half], here[half:]
        np.add(front, back, out=there[0::2])
        np.subtract(front, back, out=there[1::2])
        here, there = there, (np.empty_like(vector) if turn == 0 else here)
    here *= np.float32(2.0 ** (-turns / 2))
    return here


def _block(size: int) -> int:
    return 1 << (size.bit_length() - 1) if size else 0


def _meet(vector: Vector) -> None:
    """A two-point Hadamard transform of each i and i + ⌊n/2⌋, in place; its own inverse."""
    half = len(vector) // 2
    front, back = vector[:half], vector[half : 2 * half]
    total, difference = front + back, front - back
    np.multiply(total, np.float32(0.5**0.5), out=front)
    np.multiply(difference, np.float32(0.5**0.5), out=back)


def _signs(size: int, setting: Setting) -> NDArray[np.float32]:
    """Three rows of random signs `[3, n]`."""
    words = setting.raw("rotation", (3 * size + 63) // 64).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=3 * size).reshape(3, size)
    return np.float32(1) - np.float32(2) * bits
