"""One magnitude and a sign an element: the other half of STC.

Robust and communication-efficient federated learning from non-i.i.d. data (Sattler et al., 2019),
algorithm 1: after `topk` the vector becomes −μ, 0 or +μ with μ the mean magnitude of what travels.
Without `topk` before it, it is scaled sign (signSGD with majority of magnitude).
"""

import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Quantiser, Setting, Symbols, pack_scale, unpack_scale


class Ternary(Quantiser, frozen=True, tag="ternary"):
    """No settings."""

    @property
    def symbol_bits(self) -> int:
        """The sign."""
        return 1

    def quantise(self, vector: Vector, setting: Setting) -> tuple[bytes, Symbols]:
        """μ, and which are positive."""
        total = float(np.add.reduce(np.abs(vector), dtype=np.float64))
        return pack_scale(total / max(len(vector), 1)), (vector > 0).view(np.uint8)

    def restore(self, head: memoryview, symbols: Symbols, size: int, setting: Setting) -> Vector:
        """±μ."""
        mean = float(unpack_scale(head))
        return np.array((-mean, mean), np.float32).take(symbols)
