"""How long things have been kept, whatever the wall clock says.

A device without a battery for its clock wakes up in 1970, and leaps by decades when the network
comes. Ages therefore go by a clock of their own: it runs with the time since boot, which nobody
sets, and over a restart it takes what can be known. Within one boot that is exact. Across two it is
what the wall clock says, unless that went back or leapt further than anybody believes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hedgerow.io import clock

DOWNTIME_SECONDS_MAX: Final = 90 * 86_400.0
"""A longer time without power is taken for a clock that was set: nothing ages by it."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Clocks(NamedTuple):
    """What a timeline runs by. `boot_id` names the boot that `boot_seconds` counts from."""

    boot_id: str
    boot_seconds: Callable[[], float]
    wall_seconds: Callable[[], float]


def this_machine() -> Clocks:
    """The clocks of this machine; time in suspend counts where the system says it."""
    try:
        boot_id = _BOOT_ID.read_text("ascii").strip()
    except OSError:  # not Linux: each start counts as a boot of its own
        boot_id = ""
    which = getattr(time, "CLOCK_BOOTTIME", None)
    boot = clock.monotonic if which is None else lambda: time.clock_gettime(which)
    return Clocks(boot_id, boot, clock.now)


class _Moment(msgspec.Struct, frozen=True, array_like=True):
    """The timeline at one moment, with what the other clocks said then."""

    seconds: float
    boot_id: str
    boot_seconds: float
    wall_seconds: float


class Timeline:
    """Seconds that never go back and never leap; 0 when it was begun. `kept` continues one.

    `jumped`: over the last restart the wall clock could not be believed.
    """

    def __init__(self, clocks: Clocks, kept: bytes | None = None) -> None:
        self._clocks = clocks
        self._begin = 0.0
        self.jumped = False
        if kept is not None:
            self._begin = self._resumed(msgspec.msgpack.decode(kept, type=_Moment))
        self._boot = clocks.boot_seconds()

    def seconds(self) -> float:
        """Now."""
        return self._begin + max(0.0, self._clocks.boot_seconds() - self._boot)

    def to_bytes(self) -> bytes:
        """As it is kept, to be continued later."""
        clocks = self._clocks
        return msgspec.msgpack.encode(
            _Moment(self.seconds(), clocks.boot_id, clocks.boot_seconds(), clocks.wall_seconds())
        )

    def _resumed(self, last: _Moment) -> float:
        since_boot = self._clocks.boot_seconds() - last.boot_seconds
        if last.boot_id and last.boot_id == self._clocks.boot_id and since_boot >= 0:
            return last.seconds + since_boot
        away = self._clocks.wall_seconds() - last.wall_seconds
        self.jumped = not 0 <= away <= DOWNTIME_SECONDS_MAX
        return last.seconds + (0.0 if self.jumped else away)
