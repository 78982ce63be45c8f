"""What the agent lends to sensors and actuators: who it is, clocks, and the egress record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hedgerow.io import clock


class Egress(Protocol):
    """Where everything that leaves the device is written down, as it leaves."""

    def left(self, *, to: str, kind: str, purpose: str, size: int, digest: bytes = b"") -> None:
        """One message of `size` bytes went out.

        `to` names the other side (a host, a broker), `kind` the class of message (`update`,
        `exception`, `summary`, `report`, `state`, `alert` …), `purpose` says in a few words what
        for, `digest` is the SHA-256 of the payload where it is at hand.
        """


class NoEgress:
    """Writes nothing down: for tests and for benchmarks that say so."""

    def left(self, *, to: str, kind: str, purpose: str, size: int, digest: bytes = b"") -> None:
        """Nothing."""


@dataclass(frozen=True)
class Surroundings:
    """Times are seconds. `channels` are those of the model, in the order samples come in."""

    device: str
    state: Path
    channels: tuple[str, ...]
    rate_hz: float
    now: Callable[[], float] = clock.now
    monotonic: Callable[[], float] = clock.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    egress: Egress = field(default_factory=NoEgress)
