"""What a stage of a codec is, and what its two halves are given.

A *shrinker* turns a vector into a shorter one and a few bytes beside it; a *quantiser* turns the
last vector into a head and small symbols. Both halves of a stage stand in one file. Encoding may
be as clever as it likes; decoding only adds, multiplies and picks, element by element, so that
every machine that decodes the same bytes holds the same bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector
from hedgerow.core.streams import stream

Symbols = NDArray[np.uint8]
Shapes = Sequence[tuple[int, ...]]
VARINT_BYTES_MAX = 5
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SCALE = struct.Struct("<f")


class Setting(msgspec.Struct, frozen=True):
    """What both ends know without being told.

    `seed` is shared by both ends and differs from message to message; `shapes` are the tensors of
    the vector in order (empty: not known); `carried`: what is lost comes back next time, so a
    stage aims at the least error where it otherwise aims at none on average.
    """

    seed: int
    shapes: Shapes = ()
    carried: bool = False

    def raw(self, name: str, count: int) -> NDArray[np.uint64]:
        """`count` random 64-bit words that both ends agree on.

        They come straight from the bit generator: those words are the same in every version of
        NumPy, which its distributions and shuffles do not promise.
        """
        words: NDArray[np.uint64] = stream(self.seed, "seal", name).bit_generator.random_raw(count)
        return words


class Reader:
    """Bytes from the other side, taken from the front and never beyond their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next `count` bytes.

        Raises:
            PeerError: there are fewer (`bad_payload`).
        """
        start, end = self._at, self._at + count
        if end > len(self._data):
            raise bad(f"{count} more bytes were wanted, {len(self)} were left")
        self._at = end
        return self._data[start:end]

    def peek(self, count: int) -> memoryview:
        """Up to `count` of the next bytes, without taking them."""
        return self._data[self._at : self._at + count]

    def count(self, most: int) -> int:
        """A number from 0 to `most`, as `varint` wrote it."""
        value = 0
        for place in range(VARINT_BYTES_MAX):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if value > most or (byte == 0 and place):
                    break
                return value
        raise bad(f"a count was wanted, at most {most}")


class Opened(msgspec.Struct, frozen=True):
    """What a shrinker found in the bytes: the size of the short vector, and the way back."""

    size: int
    restore: Callable[[Vector], Vector]


class Shrunk(msgspec.Struct, frozen=True):
    """What a shrinker made: the short vector, what the other end needs besides, and the way back
    that the other end will find in it.
    """

    short: Vector
    side: bytes
    restore: Callable[[Vector], Vector]


class Shrinker(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    """A vector into a shorter vector and bytes beside it."""

    def shrink(self, vector: Vector, setting: Setting) -> Shrunk:
        """The short vector, what the other end needs besides, and the way back."""
        raise NotImplementedError

    def open(self, reader: Reader, size: int, setting: Setting) -> Opened:
        """Read what `shrink` wrote for a vector of `size` elements."""
        raise NotImplementedError

    def estimate(self, size: int, shapes: Shapes) -> tuple[int, float]:
        """The size of the short vector and the bytes beside it, as theory has them."""
        raise NotImplementedError


class Quantiser(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    """A vector into a head of a few bytes and symbols of `symbol_bits` bits."""

    @property
    def symbol_bits(self) -> int:
        """Bits of one symbol, 1 to 8."""
        return 8

    @property
    def entropy_bits(self) -> float:
        """Bits a symbol holds once its distribution is known; an upper bound."""
        return float(self.symbol_bits)

    def symbols(self, size: int) -> int:
        """How many symbols a vector of `size` elements becomes."""
        return size

    @property
    def head_bytes(self) -> int:
        """Length of the head."""
        return 4

    def quantise(self, vector: Vector, setting: Setting) -> tuple[bytes, Symbols]:
        """Head and symbols of a vector."""
        raise NotImplementedError

    def restore(self, head: memoryview, symbols: Symbols, size: int, setting: Setting) -> Vector:
        """The vector of `size` elements that head and symbols stand for."""
        raise NotImplementedError


class Plain(Quantiser, frozen=True, tag="float32"):
    """No quantiser: little-endian float32. What a codec does that names none."""

    @property
    def head_bytes(self) -> int:
        """None."""
        return 0

    def symbols(self, size: int) -> int:
        """Four bytes an element."""
        return 4 * size

    def quantise(self, vector: Vector, setting: Setting) -> tuple[bytes, Symbols]:
        """The bytes of the vector."""
        return b"", vector.astype("<f4").view(np.uint8)

    def restore(self, head: memoryview, symbols: Symbols, size: int, setting: Setting) -> Vector:
        """The vector of those bytes."""
        return symbols.view("<f4").astype(np.float32)


def among_zeros(positions: NDArray[np.int64], size: int) -> Callable[[Vector], Vector]:
    """The way back of a stage that leaves elements out: each at its position, the rest zero."""

    def restore(short: Vector) -> Vector:
        out = np.zeros(size, np.float32)
        out[positions] = short
        return out

    return restore


def bad(detail: str) -> PeerError:
    """The error for a payload that cannot be what an encoder made."""
    return PeerError("bad_payload", detail)


def varint(value: int) -> bytes:
    """A number from 0 up in as few bytes as it needs, seven bits a byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_size(value: int) -> int:
    """Bytes of `varint(value)`."""
    return max(1, math.ceil(value.bit_length() / 7))


def pack_scale(value: float) -> bytes:
    """A norm or step as four bytes; what float32 cannot hold becomes its largest number."""
    return _SCALE.pack(min(value, _FLOAT32_MAX))


def unpack_scale(head: memoryview) -> np.float32:
    """What `pack_scale` wrote.

    Raises:
        PeerError: it is negative or not finite (`bad_payload`).
    """
    (value,) = _SCALE.unpack(head)
    if not 0 <= value < math.inf:
        raise bad(f"a scale of {value} came, wanted a finite one from 0 up")
    return np.float32(value)
