"""Keeping sensors open: what they read goes into one bounded queue; one that fails is tried again.

A sensor waits when the queue is full: a replay slows down, and a live sensor drops at its own,
bounded source, where it is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Reading, Sensor, SensorDown
from hedgerow.io.surroundings import Surroundings

log = logging.getLogger(__name__)

PAUSE_SECONDS_LEAST = 0.5
PAUSE_SECONDS_MOST = 60.0


Arrived: TypeAlias = tuple[float, Sequence[Reading]]
"""When readings arrived, in monotonic seconds, and what they are."""


class Health(msgspec.Struct):
    """How one sensor or actuator does, for the console, the metrics and `hedgerow status`."""

    kind: str
    name: str
    up: bool = False
    failures: int = 0
    dropped: int = 0
    count: int = 0
    """Batches read, or notices acted on."""
    last_error: str = ""

    def failed(self, what: str, error: Exception, *, expected: bool) -> None:
        """One more failure of `what`; the same trouble is logged once."""
        self.failures += 1
        why = str(error) if expected else f"{type(error).__name__}: {error}"
        if self.last_error != why:
            log.warning("%s: %s; it is tried again", what, why, exc_info=not expected)
        self.last_error = why


def healths(kinds: Iterable[str]) -> list[Health]:
    """One for each, by a name of its own: `mqtt`, `mqtt 2` …"""
    numbers: Counter[str] = Counter()
    found = []
    for kind in kinds:
        numbers[kind] += 1
        found.append(Health(kind, kind if numbers[kind] == 1 else f"{kind} {numbers[kind]}"))
    return found


class Pause:
    """Ever longer pauses, with jitter, until something succeeds."""

    def __init__(self, around: Surroundings, rng: np.random.Generator) -> None:
        self._around, self._rng = around, rng
        self._seconds = PAUSE_SECONDS_LEAST

    def reset(self) -> None:
        """It works again."""
        self._seconds = PAUSE_SECONDS_LEAST

    async def wait(self) -> None:
        """The next pause, between half of it and the whole."""
        await self._around.sleep(self._seconds * float(self._rng.uniform(0.5, 1.0)))
        self._seconds = min(2 * self._seconds, PAUSE_SECONDS_MOST)


async def keep_reading(
    sensor: Sensor,
    around: Surroundings,
    queue: asyncio.Queue[Arrived],
    health: Health,
    rng: np.random.Generator,
) -> None:
    """Read until the sensor says that it has nothing more, or for ever.

    Raises:
        UsageError: its settings cannot work.
    """
    pause = Pause(around, rng)
    while True:
        try:
            async with contextlib.aclosing(sensor.batches(around)) as batches:
                async for readings in batches:
                    if not health.up:
                        health.up, health.last_error = True, ""
                        pause.reset()
                    health.count += 1
                    await queue.put((around.monotonic(), readings))
            health.up = False
            return
        except UsageError as error:
            raise UsageError(f"sensor {health.name}: {error}") from error
        except Exception as error:  # noqa: BLE001 - anybody's sensor; the others go on sensing
            health.up = False
            health.failed(f"sensor {health.name}", error, expected=isinstance(error, SensorDown))
        await pause.wait()
