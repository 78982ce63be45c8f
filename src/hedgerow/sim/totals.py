"""What a run has cost so far."""

from __future__ import annotations

import msgspec


class Totals(msgspec.Struct):
    """Sums since the run began; the fields of `RoundRow` of the same names."""

    bytes_up: int = 0
    bytes_down: int = 0
    updates: int = 0
    stale: int = 0
    wasted: int = 0
    abandoned: int = 0
