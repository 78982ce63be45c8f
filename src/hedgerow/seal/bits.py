"""Symbols and increasing positions as bits, without a Python loop.

Golomb coding of positions after Run-length encodings (Golomb, 1966), with the parameter that
Sparse binary compression (Sattler et al., 2018) derives for a Bernoulli(p) mask:

    b* = 1 + ⌊log₂(ln(φ − 1) / ln(1 − p))⌋        φ = (1 + √5) / 2

A gap g between positions is g mod 2^b in b bits and ⌊g / 2^b⌋ in unary. All remainders come first
and all quotients after them, which costs no bit and lets either half be done at once.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from hedgerow.seal.stage import Reader, Symbols, bad

GOLDEN = (1 + math.sqrt(5)) / 2
FEW = 48
"""Up to so many positions a loop is quicker than arrays; the bytes are the same."""


def pack(symbols: Symbols, bits: int) -> bytes:
    """Symbols below 2^bits, highest bit first, zeros behind the last."""
    if bits == 8:
        return symbols.tobytes()
    if bits == 4:
        even = np.zeros(len(symbols) + len(symbols) % 2, np.uint8)
        even[: len(symbols)] = symbols
        return (even[0::2] << 4 | even[1::2]).tobytes()
    if bits == 1:
        return np.packbits(symbols).tobytes()
    return np.packbits(np.unpackbits(symbols[:, None], axis=1)[:, 8 - bits :]).tobytes()


def packed_bytes(count: int, bits: int) -> int:
    """Length of `pack` of `count` symbols."""
    return (count * bits + 7) // 8


def unpack(data: memoryview, count: int, bits: int) -> Symbols:
    """What `pack` wrote; `data` has exactly `packed_bytes(count, bits)` bytes.

    Raises:
        PeerError: something stands behind the last symbol (`bad_payload`).
    """
    flat = np.frombuffer(data, np.uint8)
    if bits == 8:
        return flat
    spare = 8 * len(flat) - count * bits
    if spare and data[-1] & ((1 << spare) - 1):
        raise bad("bits stand behind the last symbol")
    if bits == 4:
        both = np.empty(2 * len(flat), np.uint8)
        both[0::2], both[1::2] = flat >> 4, flat & 15
        return both[:count]
    plane = np.unpackbits(flat, count=count * bits)
    if bits == 1:
        return plane
    wide = np.zeros((count, 8), np.uint8)
    wide[:, 8 - bits :] = plane.reshape(count, bits)
    return np.packbits(wide)


@functools.lru_cache(maxsize=1024)
def golomb_parameter(count: int, size: int) -> int:
    """b* for `count` positions out of `size`."""
    if count <= 0 or count >= size:
        return 0
    ratio = math.log(GOLDEN - 1) / math.log1p(-count / size)
    return max(0, 1 + math.floor(math.log2(ratio)))


def golomb_bits(share: float) -> float:
    """Mean bits a position: b* + 1 / (1 − (1 − p)^(2^b*)), the expected size of the code."""
    if share >= 1:
        return 1.0
    parameter = max(0, 1 + math.floor(math.log2(math.log(GOLDEN - 1) / math.log1p(-share))))
    return parameter + 1 / (1 - (1 - share) ** (1 << parameter))


def pack_positions(positions: NDArray[np.int64], size: int) -> bytes:
    """Increasing positions below `size`."""
    count = len(positions)
    if count == 0:
        return b""
    parameter = golomb_parameter(count, size)
    if count <= FEW:
        return _pack_few(positions.tolist(), parameter)
    gaps = positions.copy()
    gaps[1:] -= positions[:-1] + 1
    places = np.arange(parameter - 1, -1, -1)
    remainders = np.packbits((gaps[:, None] >> places & 1).astype(np.uint8))
    ends = np.cumsum((gaps >> parameter) + 1)
    unary = np.zeros(int(ends[-1]), np.uint8)
    unary[ends - 1] = 1
    return remainders.tobytes() + np.packbits(unary).tobytes()


def _pack_few(positions: list[int], parameter: int) -> bytes:
    """`pack_positions` on two whole numbers: the remainders and the quotients."""
    low = high = length = 0
    before, mask = -1, (1 << parameter) - 1
    for position in positions:
        gap, before = position - before - 1, position
        low = low << parameter | gap & mask
        steps = (gap >> parameter) + 1
        high, length = high << steps | 1, length + steps
    return _whole_bytes(low, len(positions) * parameter) + _whole_bytes(high, length)


def _whole_bytes(number: int, bits: int) -> bytes:
    """A number of so many bits, the highest first, zeros behind the last."""
    return (number << -bits % 8).to_bytes((bits + 7) // 8, "big")


@functools.lru_cache(maxsize=64)
def _weights(bits: int) -> NDArray[np.int64]:
    """What the bits of a number stand for, the highest first."""
    return 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)


def unpack_positions(reader: Reader, count: int, size: int) -> NDArray[np.int64]:
    """What `pack_positions` wrote for `count` positions; takes its bytes and no more.

    Raises:
        PeerError: these are no `count` increasing positions below `size` (`bad_payload`).
    """
    if count == 0:
        return np.zeros(0, np.int64)
    parameter = golomb_parameter(count, size)
    if count <= FEW:
        return _unpack_few(reader, count, size, parameter)
    spare = -count * parameter % 8
    flat = np.frombuffer(reader.take(packed_bytes(count, parameter)), np.uint8)
    if spare and int(flat[-1]) & ((1 << spare) - 1):
        raise bad("bits stand behind the last remainder")
    longest = count + (size >> parameter)  # bits of the quotients, all gaps being within `size`
    unary = np.unpackbits(np.frombuffer(reader.peek((longest + 7) // 8), np.uint8))
    ends = unary.nonzero()[0][:count]
    if len(ends) < count:
        raise bad(f"{count} positions were wanted, {len(ends)} came")
    last = int(ends[-1])
    quotients = reader.take(last // 8 + 1)
    if quotients[-1] & ((1 << (7 - last % 8)) - 1):
        raise bad("bits stand behind the last quotient")
    # Σ (gap + 1) − 1 up to each: ends − places is the sum of the quotients.
    places = np.arange(count)
    positions: NDArray[np.int64] = (ends - places << parameter) + places
    if parameter:
        plane = np.unpackbits(flat, count=count * parameter).reshape(count, parameter)
        positions += (plane @ _weights(parameter)).cumsum()
    if positions[-1] >= size:
        raise bad(f"position {positions[-1]} came, the vector has {size}")
    return positions


def _unpack_few(reader: Reader, count: int, size: int, parameter: int) -> NDArray[np.int64]:
    """`unpack_positions` on two whole numbers: the remainders and the quotients."""
    spare = -count * parameter % 8
    remainders = int.from_bytes(reader.take(packed_bytes(count, parameter)), "big")
    if remainders & ((1 << spare) - 1):
        raise bad("bits stand behind the last remainder")
    remainders >>= spare
    ahead = reader.peek((count + (size >> parameter) + 7) // 8)
    unary = f"{int.from_bytes(ahead, 'big'):0{8 * len(ahead)}b}"
    *runs, rest = unary.split("1", count)
    if len(runs) < count:
        raise bad(f"{count} positions were wanted, {len(runs)} came")
    position, positions = -1, []
    mask, shift = (1 << parameter) - 1, count * parameter
    for zeros in runs:
        shift -= parameter
        position += 1 + (len(zeros) << parameter) + (remainders >> shift & mask)
        positions.append(position)
    end = len(unary) - len(rest) - 1
    quotients = reader.take(end // 8 + 1)
    if quotients[-1] & ((1 << (7 - end % 8)) - 1):
        raise bad("bits stand behind the last quotient")
    if position >= size:
        raise bad(f"position {position} came, the vector has {size}")
    return np.array(positions, np.int64)
