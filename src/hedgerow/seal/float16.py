"""Half precision: two bytes an element, ±65,504 at most, relative error 2⁻¹¹."""

import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Quantiser, Setting, Symbols

LARGEST = np.float32(65504.0)


class Float16(Quantiser, frozen=True, tag="float16"):
    """IEEE 754 binary16. All low bytes come first, then all high ones, which repeat more."""

    @property
    def head_bytes(self) -> int:
        """None."""
        return 0

    def symbols(self, size: int) -> int:
        """Two bytes an element."""
        return 2 * size

    def quantise(self, vector: Vector, setting: Setting) -> tuple[bytes, Symbols]:
        """The nearest half; what is beyond becomes the largest."""
        halves = np.clip(vector, -LARGEST, LARGEST).astype("<f2")
        return b"", halves.view(np.uint8).reshape(-1, 2).T.reshape(-1)

    def restore(self, head: memoryview, symbols: Symbols, size: int, setting: Setting) -> Vector:
        """The halves as float32."""
        pairs = np.ascontiguousarray(symbols.reshape(2, size).T)
        return pairs.reshape(-1).view("<f2").astype(np.float32)
