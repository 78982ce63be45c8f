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
from hedgerow.seal.stage import Opened, Reader, Setting, Shapes, Shrinker, varint, varint_size


class TopK(Shrinker, frozen=True, tag="topk"):
    """Settings: the `share` of elements that travel; at least one does, and no zero ever."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01

    def most(self, size: int) -> int:
        """How many of `size` elements may travel."""
        return min(size, max(1, round(self.share * size)))

    def shrink(self, vector: Vector, setting: Setting) -> tuple[Vector, bytes]:
        """The values in order of their positions; count and positions beside them."""
        count = self.most(len(vector))
        size = np.abs(vector)
        positions = np.argpartition(size, len(vector) - count)[len(vector) - count :]
        positions = np.sort(positions[size[positions] > 0]).astype(np.int64)
        side = varint(len(positions)) + pack_positions(positions, len(vector))
        return vector[positions], side

    def open(self, reader: Reader, size: int, setting: Setting) -> Opened:
        """Puts the values back among zeros."""
        count = reader.count(self.most(size))
        positions = unpack_positions(reader, count, size)

        def restore(short: Vector) -> Vector:
            out = np.zeros(size, np.float32)
            out[positions] = short
            return out

        return Opened(count, restore)

    def estimate(self, size: int, shapes: Shapes) -> tuple[int, float]:
        """Golomb's code of a random mask."""
        count = self.most(size)
        return count, varint_size(count) + count * golomb_bits(count / size) / 8
