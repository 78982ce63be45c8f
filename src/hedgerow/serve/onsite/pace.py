"""Stopping and continuing a process, so that it takes no more of a core than it may (Linux)."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

TICK_SECONDS: Final = 0.1
"""How often a process is stopped or continued, at most."""
GAUGE_SECONDS: Final = 2.0


class Pace:
    """Stops and continues a process so that it keeps to a share of a core."""

    def __init__(self, pid: int, share: float, monotonic: Callable[[], float]) -> None:
        self._pid, self._share, self._monotonic = pid, share, monotonic
        self._began = self._gauged = monotonic()
        self._at_gauge = 0.0
        self._stopped = False
        self._hertz = os.sysconf("SC_CLK_TCK")
        self.cpu_seconds = 0.0
        self.recent_cores = 0.0
        self.held = False
        """Whether the budget wants it stopped, whatever its share."""

    def measure(self) -> float:
        """CPU seconds since the last time."""
        try:
            text = Path(f"/proc/{self._pid}/stat").read_text("utf-8")
            fields = text.rpartition(")")[2].split()
            total = (int(fields[11]) + int(fields[12])) / self._hertz
        except (OSError, ValueError, IndexError):  # it has ended, or this is no Linux
            return 0.0
        spent, self.cpu_seconds = total - self.cpu_seconds, max(self.cpu_seconds, total)
        return max(0.0, spent)

    def gauge_due(self) -> bool:
        """Whether to look at the machine again; then `recent_cores` is of the time since."""
        now = self._monotonic()
        if now - self._gauged < GAUGE_SECONDS:
            return False
        self.recent_cores = (self.cpu_seconds - self._at_gauge) / (now - self._gauged)
        self._gauged, self._at_gauge = now, self.cpu_seconds
        return True

    def steer(self) -> None:
        """Stop it where it is ahead of its share, continue it where it is not."""
        elapsed = self._monotonic() - self._began
        # A tick's worth ahead is no offence: the counter moves in hundredths.
        ahead = self.cpu_seconds > self._share * elapsed + TICK_SECONDS
        stop = self.held or (ahead and not math.isclose(self._share, 1.0))
        if stop != self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGSTOP if stop else signal.SIGCONT)
            self._stopped = stop
