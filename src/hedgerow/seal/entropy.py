"""Entropy coding of symbols with DEFLATE, from the standard library.

DEFLATE compressed data format (RFC 1951). Several small symbols are put into one byte, so that its
Huffman code sees them together: for EDEN at 2 to 4 bits that comes within about one per cent of
the entropy. Three ways are tried and the shortest is sent, plain packing among them, so it never
costs more than one byte.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from hedgerow.seal.bits import pack, packed_bytes, unpack
from hedgerow.seal.stage import Reader, Symbols, bad

PACKED, GROUPED, SINGLE = 0, 1, 2


class Entropy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="entropy",
):
    """No settings. The last stage, behind a quantiser."""

    def encode(self, symbols: Symbols, bits: int) -> bytes:
        """The shortest of the ways, after a byte that names it."""
        ways = [bytes([PACKED]) + pack(symbols, bits)]
        grouped = _grouped(symbols, bits)
        ways.append(bytes([GROUPED]) + _deflated(grouped.tobytes(), zlib.Z_HUFFMAN_ONLY))
        ways.append(bytes([SINGLE]) + _deflated(symbols.tobytes(), zlib.Z_RLE))
        return min(ways, key=len)

    def decode(self, reader: Reader, count: int, bits: int) -> Symbols:
        """`count` symbols from all that is left.

        Raises:
            PeerError: that is not what was written (`bad_payload`).
        """
        way = reader.take(1)[0]
        if way == PACKED:
            return unpack(reader.take(packed_bytes(count, bits)), count, bits)
        if way == GROUPED:
            per = 8 // bits
            flat = np.frombuffer(_inflated(reader, -(-count // per)), np.uint8)
            shifts = np.arange(per - 1, -1, -1, dtype=np.uint8) * np.uint8(bits)
            if np.max(flat, initial=0) >> (bits * per):
                raise bad("a group of symbols is out of range")
            spread = (flat[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
            if spread[count:].any():
                raise bad("symbols stand behind the last")
            return spread[:count]
        if way == SINGLE:
            flat = np.frombuffer(_inflated(reader, count), np.uint8)
            if np.max(flat, initial=0) >> bits:
                raise bad("a symbol is out of range")
            return flat
        raise bad(f"way {way} of entropy coding is not known")


def _grouped(symbols: Symbols, bits: int) -> Symbols:
    """As many symbols a byte as fit, the first one highest."""
    per = 8 // bits
    padded = np.zeros(-(-len(symbols) // per) * per, np.uint8)
    padded[: len(symbols)] = symbols
    out = np.zeros(len(padded) // per, np.uint8)
    for place in range(per):
        out = out << np.uint8(bits) | padded[place::per] if per > 1 else padded
    return out


def _deflated(data: bytes, strategy: int) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return deflater.compress(data) + deflater.flush()


def _inflated(reader: Reader, size: int) -> bytes:
    """Exactly `size` bytes; stops reading at one more."""
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(reader.take(len(reader)), size + 1)
    except zlib.error as error:
        raise bad(f"not DEFLATE: {error}") from None
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise bad(f"{size} bytes were wanted from DEFLATE, {len(data)} or others came")
    return data
