"""What learning on site says of itself, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from hedgerow.core.layout import Vector

State: TypeAlias = Literal["off", "idle", "waiting", "learning", "paused"]


@dataclass(frozen=True, eq=False)
class Learned:
    """Weights `[P]` that did better on held-out windows, higher is better: `before` → `after`.

    `seconds` of CPU time and `joules`, an estimate, are what they cost.
    """

    weights: Vector
    why: str
    before: float
    after: float
    windows: int
    seconds: float
    joules: float


class OnSiteView(msgspec.Struct, frozen=True):
    """How learning on site stands. `why` says what it waits for, or why it learns."""

    state: State
    why: str
    windows: int
    streams: int
    bytes: int
    labelled: int
    trainings: int
    offered: int
    cpu_seconds_today: float
    joules_today: float
    last: str = ""
    """What came of the last training, in words."""
