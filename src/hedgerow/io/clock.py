"""The only place that reads a clock. Everything else is handed times as arguments."""

from __future__ import annotations

import time


def now() -> float:
    """Wall clock: Unix seconds. May jump; for stamps that people and other machines read."""
    return time.time()


def monotonic() -> float:
    """Seconds from an arbitrary start that never run backwards; for timers and durations."""
    return time.monotonic()
