"""Vibrating machines for `hedgerow bench gateway`: synthetic, in this process or over MQTT.

Run as a program it is the machines' side of a broker: URL, machines, rate, seconds, when, on the
monotonic clock, the first second began, and the rate over that of the model's input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.core.streams import stream
from hedgerow.io import clock
from hedgerow.io.children import ends_with_parent
from hedgerow.io.sensors.base import Block, Sensor
from hedgerow.io.surroundings import Surroundings

Array = NDArray[np.float32]
POOL = 64
"""Different seconds of vibration; machines take turns through them."""
TICKS = 100
"""Machines send at as many moments of each second."""
TOPIC = "bench/{stream}/vibration"


def vibration(rate_hz: float, seed: int = 0) -> list[Array]:
    """`POOL` seconds of synthetic vibration f32 `[rate_hz, 1]`, in g."""
    rng = stream(seed, "bench gateway")
    time_s = np.arange(int(rate_hz)) / rate_hz
    seconds = []
    for _ in range(POOL):
        level = rng.normal(0, 0.1, len(time_s))
        for harmonic in range(1, 6):
            level += 0.3 / harmonic * np.sin(2 * np.pi * (25 * harmonic * time_s + rng.uniform()))
        seconds.append(level.astype(np.float32)[:, None])
    return seconds


def shares(machines: int) -> list[NDArray[np.int64]]:
    """Which machines send at which tick."""
    return np.array_split(np.arange(machines), TICKS)


def due_seconds(
    machines: int, rows: NDArray[np.int64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """When the block came that completed each window, by its machine and its end in sample time."""
    tick = np.concatenate([np.full(len(s), t) for t, s in enumerate(shares(machines))])[rows]
    begins = tick / TICKS
    second = np.ceil(ends - begins - 1e-6) - 1
    due: NDArray[np.float64] = second + (tick + 1) / TICKS
    return due


class Course:
    """Phases of (seconds of data, speed); each begins when `go` says so.

    Machines that give more samples a second than the model's input has are as many times quicker.
    """

    def __init__(self, machines: int, rate_hz: float, phases: Sequence[tuple[int, float]]) -> None:
        self.machines, self.rate_hz, self.phases = machines, rate_hz, phases
        self.began: dict[int, float] = {}
        self._gates = [asyncio.Event() for _ in phases]

    def go(self, phase: int) -> None:
        """Begin this phase."""
        self._gates[phase].set()

    async def blocks(self, around: Surroundings) -> AsyncGenerator[Sequence[Block], None]:
        """Each block when its last sample was taken; at infinite speed at once."""
        pool, second = vibration(self.rate_hz), 0
        pace = self.rate_hz / around.rate_hz
        for number, (seconds, speed) in enumerate(self.phases):
            await self._gates[number].wait()
            began = self.began[number] = around.monotonic()
            for passed in range(seconds):
                for tick, machines in enumerate(shares(self.machines)):
                    due = began + (passed + (tick + 1) / TICKS) / speed
                    await around.sleep(max(0.0, due - around.monotonic()))
                    start = (second + tick / TICKS) * pace
                    yield [
                        Block(f"machine {i}", start, pool[(i + second) % POOL])
                        for i in machines.tolist()
                    ]
                second += 1


class Machines(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machines of a `Course`, as a sensor."""

    course: Any

    def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Block], None]:
        """The course's blocks."""
        blocks: AsyncGenerator[Sequence[Block], None] = self.course.blocks(around)
        return blocks


@contextlib.asynccontextmanager
async def mosquitto(directory: Path) -> AsyncIterator[str]:
    """A Mosquitto on a free port of loopback; gives its URL."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise UsageError("there is no mosquitto on this machine; install it (Debian: mosquitto)")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    settings = directory / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{user}")
    process = await asyncio.create_subprocess_exec(
        *(program, "-c", str(settings)),
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=ends_with_parent(),
    )
    try:
        await _listening(port)
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise HedgerowError(f"mosquitto does not listen on port {port} after 10 s")


@contextlib.asynccontextmanager
async def publishing(
    url: str, machines: int, rate_hz: float, seconds: int, began: float, pace: float
) -> AsyncIterator[None]:
    """The machines of a broker, in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hedgerow.bench.gateway_machines", url),
        *map(str, (machines, rate_hz, seconds, began, pace)),
        preexec_fn=ends_with_parent(),
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def publish(
    url: str, machines: int, rate_hz: float, seconds: int, began: float, pace: float
) -> None:
    """Send every machine's block of each second when its last sample was taken."""
    from hedgerow.io.mqtt.broker import Broker
    from hedgerow.io.mqtt.connection import Connection

    pool = [second.astype("<f4").tobytes() for second in vibration(rate_hz)]
    async with Connection(Broker(url=url), "machines") as connection:
        for second in range(seconds):
            for tick, share in enumerate(shares(machines)):
                due = began + second + (tick + 1) / TICKS
                await asyncio.sleep(max(0.0, due - clock.monotonic()))
                stamp = struct.pack("<d", (second + tick / TICKS) * pace)
                for i in share.tolist():
                    topic = TOPIC.replace("{stream}", f"machine {i}")
                    connection.publish(
                        *(topic, stamp + pool[(i + second) % POOL]),
                        kind="samples",
                        purpose="synthetic vibration",
                    )
        await connection.settle(10.0)


if __name__ == "__main__":
    _, broker_url, count, rate, length, start, quicker = sys.argv
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            publish(
                *(broker_url, int(count), float(rate), int(length)), float(start), float(quicker)
            )
        )
