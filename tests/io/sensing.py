"""What sensors and actuators are tried with: surroundings, a clock of its own, an egress record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.decide.notice import Notice
from hedgerow.io import plugins
from hedgerow.io.sensors.base import Block, Reading, Sensor
from hedgerow.io.surroundings import Surroundings


class Clock:
    """Time that passes when somebody sleeps. `set` moves the wall clock alone."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.wall, self.passed = start, 0.0

    def now(self) -> float:
        return self.wall + self.passed

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds
        await asyncio.sleep(0)


class Left(NamedTuple):
    to: str
    kind: str
    purpose: str
    size: int
    digest: bytes


class Egress:
    """Keeps what left."""

    def __init__(self) -> None:
        self.all: list[Left] = []

    def left(self, *, to: str, kind: str, purpose: str, size: int, digest: bytes = b"") -> None:
        self.all.append(Left(to, kind, purpose, size, digest))


def around(
    channels: Sequence[str],
    rate_hz: float,
    *,
    clock: Clock | None = None,
    egress: Egress | None = None,
) -> Surroundings:
    """Surroundings on the real clock, or on one of the test's."""
    if clock is None:
        return Surroundings("press 4", Path(), tuple(channels), rate_hz, egress=egress or Egress())
    return Surroundings(
        "press 4",
        Path(),
        tuple(channels),
        rate_hz,
        now=clock.now,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        egress=egress or Egress(),
    )


def sensor(kind: str, **settings: object) -> Sensor:
    """The sensor as the agent makes it of a table of settings."""
    return plugins.sensor({"kind": kind, **settings})


async def first(
    given: Sensor, surroundings: Surroundings, readings: int = 10**6, seconds: float = 90
) -> list[Reading]:
    """The first readings of a sensor, or all if it ends before; then it is closed."""
    taken: list[Reading] = []
    async with asyncio.timeout(seconds), aclosing(given.batches(surroundings)) as batches:
        async for batch in batches:
            taken += batch
            if len(taken) >= readings:
                break
    return taken


async def all_of(batches: AsyncGenerator[Sequence[Reading], None]) -> list[Reading]:
    """Everything until the sensor ends."""
    async with aclosing(batches):
        return [reading async for batch in batches for reading in batch]


def blocks(readings: Sequence[Reading], stream: str | None = None) -> list[Block]:
    """The blocks among the readings, of one stream or of all."""
    return [
        reading
        for reading in readings
        if isinstance(reading, Block) and stream in {None, reading.stream}
    ]


def joined(given: Sequence[Block]) -> NDArray[np.float32]:
    """The samples of blocks one after the other."""
    return np.concatenate([block.samples for block in given])


def gaps(given: Sequence[Block], rate_hz: float) -> list[float]:
    """By how many sample periods each block begins off the end of the one before."""
    return [
        (after.time_seconds - before.time_seconds) * rate_hz - len(before.samples)
        for before, after in pairwise(given)
    ]


def notice(stream: str = "press 4", *, alert: bool = False, second: float = 0.0) -> Notice:
    """A decision worth telling."""
    return Notice(
        stream=stream,
        time_seconds=1_700_000_000.0 + second,
        label="worn",
        confidence=0.9,
        reason="worn at 0.90 for 3 windows; was good",
        changed=True,
        alert=alert,
    )
