"""Evenly spaced levels with stochastic rounding: right on average, for any vector.

QSGD: communication-efficient SGD via gradient quantization and encoding (Alistarh et al., 2017),
with the largest magnitude as the norm. Most elements of an update are far smaller than its largest,
so most symbols are alike: put `entropy` behind it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Quantiser, Setting, Symbols, bad, pack_scale, unpack_scale


class Quantise(Quantiser, frozen=True, tag="quantise"):
    """Settings: `bits` an element, 2 to 8; there are 2^bits − 1 levels, zero among them."""

    bits: Annotated[int, msgspec.Meta(ge=2, le=8)] = 8

    @property
    def symbol_bits(self) -> int:
        """As set."""
        return self.bits

    @property
    def highest(self) -> int:
        """The number of the highest level; the lowest is its negative."""
        return (1 << (self.bits - 1)) - 1

    def quantise(self, vector: Vector, setting: Setting) -> tuple[bytes, Symbols]:
        """The step between levels, and each element's level.

        An element between two levels takes either, the nearer one more often. A codec with
        feedback takes the nearest always.
        """
        top, highest = float(np.max(np.abs(vector), initial=0.0)), self.highest
        head = pack_scale(top / highest)
        step = np.frombuffer(head, "<f4")[0]
        if step == 0:
            return pack_scale(0.0), np.full(len(vector), highest, np.uint8)
        scaled = vector.astype(np.float64) / float(step)
        scaled += 0.5 if setting.carried else self._chance(len(vector), setting)
        levels = np.clip(np.floor(scaled), -highest, highest)
        return head, (levels + highest).astype(np.uint8)

    def restore(self, head: memoryview, symbols: Symbols, size: int, setting: Setting) -> Vector:
        """Level times step."""
        if np.max(symbols, initial=0) > 2 * self.highest:
            raise bad(f"level {np.max(symbols)} came, the highest is {2 * self.highest}")
        levels = np.arange(-self.highest, self.highest + 1).astype(np.float32)
        return (levels * unpack_scale(head))[symbols]

    def _chance(self, size: int, setting: Setting) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        words = setting.raw("quantise", (size + 1) // 2).view(np.uint32)[:size]
        return words.astype(np.float64) * 2.0**-32
