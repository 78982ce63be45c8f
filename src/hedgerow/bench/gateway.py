"""A gateway that watches many machines: how much faster than real time, and how soon it decides.

The samples are synthetic vibration: a shaft's tone, its harmonics and noise. Everything behind the
sensor is what ships: windows, spectra, each machine's own normal, the guarded model, decisions, the
store, the console's figures. After some seconds of data to learn what is normal, blocks of a second
come as machines send them, spread evenly over each second, for latency and load; then as fast as
they are taken, for throughput. Through a broker (`mqtt`) all comes at real speed, and the last
phase is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.bench.gateway_machines import (
    TOPIC,
    Course,
    Machines,
    due_seconds,
    mosquitto,
    publishing,
)
from hedgerow.core.errors import HedgerowError
from hedgerow.decide.anomaly import AnomalySettings
from hedgerow.io import clock
from hedgerow.io.energy import EnergyMeter
from hedgerow.io.memory import resident_bytes
from hedgerow.io.sensors.base import Sensor
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge.edge import Judged
from hedgerow.serve.settings import ConsoleSettings, DeviceSettings

APP = "vibration"
LEARN_SECONDS = 28
"""Seconds of data from which each machine's normal is learned before anything is timed."""
QUICK = AnomalySettings(baseline_windows=16, calibration_windows=128)
PATIENCE_SECONDS = 120.0
START_SECONDS = 3.0
"""Time for a publishing process to start."""

Say = Callable[[str], None]


class GatewayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `hedgerow bench gateway --json` prints.

    `realtime_factor`: seconds of all machines' data worked off in one second (None through a
    broker). In real time: `cpu_percent` of one core and `rss_mb` of the agent, its model's process
    and what feeds it in this process; `p50_ms` and `p99_ms` from when a block's last sample was
    taken to the decisions on its windows. `dropped`: windows never judged; `ready`: machines whose
    normal was known when timing began.
    """

    machines: int
    samples_per_s: float
    realtime_factor: float | None
    cpu_percent: float
    rss_mb: float
    dropped: int
    p50_ms: float
    p99_ms: float
    windows: int
    ready: int
    through: str


class Watched(DeviceAgent):
    """An agent that notes when windows were judged."""

    def __init__(
        self, settings: DeviceSettings, sensors: Sequence[tuple[str, Sensor]] | None = None
    ) -> None:
        super().__init__(settings, sensors=sensors)
        self.done: list[tuple[float, NDArray[np.float64], NDArray[np.int64]]] = []

    def _seen(self, judged: Judged) -> None:
        super()._seen(judged)
        starts = np.array([cut.window.start_seconds for cut in judged.cuts])
        rows = np.array([int(cut.stream.name[8:]) for cut in judged.cuts])
        self.done.append((clock.monotonic(), starts, rows))


class Scene(msgspec.Struct, frozen=True):
    """What is asked: machines, samples a second of each, and seconds in real time."""

    machines: int
    rate_hz: float
    seconds: int

    def windows(self, seconds: int) -> int:
        """Windows of all machines after so many seconds without a gap."""
        schema = app_bundle(APP).manifest.input
        samples = int(seconds * self.rate_hz)
        whole = 0 if samples < schema.window else (samples - schema.window) // schema.hop + 1
        return self.machines * whole


def bench_gateway(
    machines: int, rate_hz: float, seconds: int, *, mqtt: bool = False, say: Say = lambda line: None
) -> GatewayResult:
    """Watch `machines` for `seconds`; through a Mosquitto broker of its own with `mqtt`.

    Raises:
        HedgerowError: windows never came, or there is no broker to start.
    """
    scene = Scene(machines, rate_hz, seconds)
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as directory:
        bench = _through_broker if mqtt else _in_memory
        return asyncio.run(bench(Path(directory), scene, say))


async def _in_memory(home: Path, scene: Scene, say: Say) -> GatewayResult:
    quick = max(4, scene.seconds // 2)
    infinite = float("inf")
    phases = [(LEARN_SECONDS, infinite), (scene.seconds, 1.0), (quick, infinite)]
    course = Course(scene.machines, scene.rate_hz, phases)
    agent = Watched(_settings(home), [("machines", Machines(course=course))])
    async with _running(agent):
        say(f"{scene.machines} machines: learning from {LEARN_SECONDS} s of data …")
        course.go(0)
        await _judged(agent, scene.windows(LEARN_SECONDS))
        say(f"{scene.seconds} s in real time …")
        course.go(1)
        live = await _timed(agent, scene, course, LEARN_SECONDS)
        say("as fast as it goes …")
        course.go(2)
        before = scene.windows(LEARN_SECONDS + scene.seconds)
        await _judged(agent, scene.windows(LEARN_SECONDS + scene.seconds + quick) - live.dropped)
        taken = agent.done[-1][0] - course.began[2]
    assert agent.windows >= before
    return msgspec.structs.replace(live, realtime_factor=round(quick / taken, 2))


async def _through_broker(home: Path, scene: Scene, say: Say) -> GatewayResult:
    total = LEARN_SECONDS + scene.seconds
    async with mosquitto(home) as url:
        table: dict[str, Any] = {
            "kind": "mqtt",
            "broker": {"url": url},
            "topic": TOPIC,
            "format": "raw",
            "raw": {"header_bytes": 8, "time": "float64_s"},
        }
        agent = Watched(_settings(home, table))
        async with _running(agent):
            began = clock.monotonic() + START_SECONDS
            say(f"{scene.machines} machines through Mosquitto, {total} s in real time …")
            pace = scene.rate_hz / agent.edge.engine.schema.rate_hz
            async with publishing(url, scene.machines, scene.rate_hz, total, began, pace):
                await asyncio.sleep(START_SECONDS)
                if agent.edge.sensors[0].failures:
                    raise HedgerowError(agent.edge.sensors[0].last_error)
                await _judged(agent, scene.windows(LEARN_SECONDS))
                course = Course(scene.machines, scene.rate_hz, [])
                course.began[1] = began + LEARN_SECONDS
                return await _timed(agent, scene, course, LEARN_SECONDS, "mqtt")


async def _timed(
    agent: Watched, scene: Scene, course: Course, first: int, through: str = "memory"
) -> GatewayResult:
    """What came of the phase in real time, whose first second is number `first`."""
    ready = len(np.flatnonzero(agent.edge.engine.scorer.ready)) if agent.edge.engine.scorer else 0
    meter, began = EnergyMeter(), clock.monotonic()
    noted = len(agent.done)
    await asyncio.sleep(scene.seconds)
    cpu = meter.joules().cpu_seconds / (clock.monotonic() - began)
    resident = resident_bytes(agent.process) + agent.models.runner.status.resident_bytes
    wanted = scene.windows(first + scene.seconds)
    with contextlib.suppress(HedgerowError):
        await _judged(agent, wanted, seconds_max=5.0)
    dropped = wanted - agent.windows
    schema = agent.edge.engine.schema
    waits = []
    for done, starts, rows in agent.done[noted:]:
        ends = (starts + schema.window / schema.rate_hz) * schema.rate_hz / scene.rate_hz
        due = due_seconds(scene.machines, rows, ends) - first + course.began[1]
        waits.append(done - due[ends > first])
    if not waits:
        raise HedgerowError(f"no window was judged in {scene.seconds} s")
    waited = np.concatenate(waits) * 1e3
    return GatewayResult(
        machines=scene.machines,
        samples_per_s=scene.machines * scene.rate_hz,
        realtime_factor=None,
        cpu_percent=round(100 * cpu, 1),
        rss_mb=round(resident / 1e6, 1),
        dropped=dropped,
        p50_ms=round(float(np.percentile(waited, 50)), 1),
        p99_ms=round(float(np.percentile(waited, 99)), 1),
        windows=len(waited),
        ready=ready,
        through=through,
    )


@contextlib.asynccontextmanager
async def _running(agent: DeviceAgent) -> Any:
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def _judged(agent: Watched, windows: int, seconds_max: float = PATIENCE_SECONDS) -> None:
    try:
        async with asyncio.timeout(seconds_max):
            while agent.windows < windows:
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise HedgerowError(
            f"{agent.windows} of {windows} windows were judged in {seconds_max:g} s; give it fewer "
            "machines or a lower rate"
        ) from error


def _settings(home: Path, *sensors: dict[str, Any]) -> DeviceSettings:
    return DeviceSettings(
        name="gateway",
        state=home / "gateway",
        app=APP,
        sensors=sensors,
        anomaly=QUICK,
        streams_max=100_000,
        console=ConsoleSettings(enabled=False),
    )
