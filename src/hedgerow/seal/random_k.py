"""A random part of the elements, the same at both ends: no position travels.

Federated learning: strategies for improving communication efficiency (Konečný et al., 2016), random
mask. Times 1 / share the result is right on average; a codec with feedback leaves the values as
they are, since what stays behind comes later.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Opened, Reader, Setting, Shapes, Shrinker, Shrunk, among_zeros


class RandomK(Shrinker, frozen=True, tag="random_k"):
    """Settings: the `share` of elements that travel, at least one."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1

    def count(self, size: int) -> int:
        """How many of `size` elements travel."""
        return min(size, max(1, round(self.share * size)))

    def shrink(self, vector: Vector, setting: Setting) -> Shrunk:
        """The chosen values, scaled; nothing beside them."""
        chosen = self._chosen(len(vector), setting)
        factor = 1.0 if setting.carried else len(vector) / max(len(chosen), 1)
        short = vector[chosen] * np.float32(factor)
        return Shrunk(short, b"", among_zeros(chosen, len(vector)))

    def open(self, reader: Reader, size: int, setting: Setting) -> Opened:
        """Puts the values back among zeros."""
        chosen = self._chosen(size, setting)
        return Opened(len(chosen), among_zeros(chosen, size))

    def estimate(self, size: int, shapes: Shapes) -> tuple[int, float]:
        """Values only."""
        return self.count(size), 0.0

    def _chosen(self, size: int, setting: Setting) -> NDArray[np.int64]:
        """Those with the smallest random words; the position in the low bits parts equals."""
        places = np.arange(size, dtype=np.uint64)
        words = setting.raw("random_k", size)
        low = np.uint64((1 << max(size - 1, 1).bit_length()) - 1)
        keys = words & ~low | places
        count = self.count(size)
        if count == size:
            return places.astype(np.int64)
        last = np.partition(keys, count - 1)[count - 1]
        return np.flatnonzero(keys <= last).astype(np.int64)
