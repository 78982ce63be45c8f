"""The largest elements, and where they stand: the sparse half of STC.

Robust and communication-efficient federated learning from non-i.i.d. data (Sattler et al., 2019).
Positions travel as Golomb-coded gaps. What stays behind is lost unless the codec has feedback:
this stage is biased.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.seal.bits import golomb_bits, pack_positions, unpack_positions
from hedgerow.seal.stage import (
    Opened,
    Reader,
    Setting,
    Shapes,
    Shrinker,
    Shrunk,
    among_zeros,
    varint,
    varint_size,
)


class TopK(Shrinker, frozen=True, tag="topk"):
    """Settings: the `share` of elements that travel; at least one does, and no zero ever."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01

    def most(self, size: int) -> int:
        """How many of `size` elements may travel."""
        return min(size, max(1, round(self.share * size)))

    def shrink(self, vector: Vector, setting: Setting) -> Shrunk:
        """The values in order of their positions; count and positions beside them."""
        count = self.most(len(vector))
        size = np.abs(vector)
        largest = size.argpartition(len(vector) - count)[len(vector) - count :]
        positions = largest[size[largest] > 0].astype(np.int64, copy=False)
        positions.sort()
        side = varint(len(positions)) + pack_positions(positions, len(vector))
        return Shrunk(vector[positions], side, among_zeros(positions, len(vector)))

    def open(self, reader: Reader, size: int, setting: Setting) -> Opened:
        """Puts the values back among zeros."""
        count = reader.count(self.most(size))
        positions = unpack_positions(reader, count, size)
        return Opened(count, among_zeros(positions, size))

    def estimate(self, size: int, shapes: Shapes) -> tuple[int, float]:
        """Golomb's code of a random mask."""
        count = self.most(size)
        return count, varint_size(count) + count * golomb_bits(count / size) / 8
