"""Virtual time: a heap of what is going to happen.

What happens is data (who, what, with which values), never a function, so that a simulation can be
kept in a file between two events and go on from there.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Happening(NamedTuple):
    """`what` happens to `who` (a device's number, or −1 for the coordinator) at `at_seconds`."""

    at_seconds: float
    order: int
    who: int
    what: str
    values: tuple[Any, ...]


@dataclass(slots=True)
class Clock:
    """`now` in seconds since the simulation began. Same moment: first planned, first to happen."""

    now: float = 0.0
    planned: int = 0
    queue: list[Happening] = field(default_factory=list)

    def plan(self, at_seconds: float, who: int, what: str, *values: Any) -> None:
        """Something will happen; what lies in the past happens now."""
        self.planned += 1
        moment = max(at_seconds, self.now)
        heapq.heappush(self.queue, Happening(moment, self.planned, who, what, values))

    def next(self) -> Happening | None:
        """Go on to the next happening and take it out; None where nothing is planned."""
        if not self.queue:
            return None
        happening = heapq.heappop(self.queue)
        self.now = happening.at_seconds
        return happening

    def peek(self) -> float | None:
        """When the next happening is due."""
        return self.queue[0].at_seconds if self.queue else None
