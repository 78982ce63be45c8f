"""Rounds with real agents and a local step that does nothing: what the machinery itself costs.

Every device has its own key, database, enrolment, connection and protocol machine; up to
`PROCESSES_MAX` devices each is a process of its own, beyond that they share two.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec

from hedgerow.core.errors import HedgerowError
from hedgerow.io import clock, entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.children import ends_with_parent
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsDeviceLink
from hedgerow.protocol import device as machine
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import DeviceShell, Hooks, Outcome
from hedgerow.serve.fleet import Fleet, running_fleet
from hedgerow.serve.joining import JoinFile, enrol
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.wire.messages import ModelRef, Offer
from hedgerow.wire.weights import model_ref, to_bytes

PROCESSES_MAX = 32
WARM_UP_ROUNDS = 3


class RoundResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench round --json` prints. `update_bytes` is one update's payload."""

    devices: int
    parameters: int
    round_seconds_median: float
    update_bytes: int
    rounds: int
    round_seconds_worst: float
    processes: int


class NoStep:
    """A trainer whose update is all zeros, at once."""

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        """A delta of zeros, as large as the model."""
        return Outcome(payloads=(bytes(len(blob)),), samples=1024, metrics={"loss": 0.0})

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        """Nothing is fitted."""
        return blob


def bench_round(devices: int, rounds: int) -> RoundResult:
    """Measure `rounds` rounds of a fleet of `devices`; at most 190, as a fleet shows 200.

    Raises:
        HedgerowError: rounds did not finish in time, or a process of devices ended.
    """
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as directory:
        return asyncio.run(_bench(Path(directory), devices, rounds))


async def _bench(home: Path, devices: int, rounds: int) -> RoundResult:
    total = rounds + WARM_UP_ROUNDS
    settings = CoordinatorSettings(
        fleet="bench",
        state=home / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(cohort=devices, quorum=devices, deadline_seconds=60.0, rounds=total),
    )
    processes = devices if devices <= PROCESSES_MAX else 2
    async with running_fleet(settings) as fleet:
        async with _hosts(home, fleet, devices, processes) as hosts:
            await _finished(fleet, hosts, total, deadline_seconds=120.0 + 3.0 * total)
        published = [shown for shown in fleet.view().rounds if shown.outcome == "published"]
        seconds = [shown.seconds for shown in published][-rounds:]
        parameters = fleet.shell.state.parameters
    return RoundResult(
        devices=devices,
        parameters=parameters,
        round_seconds_median=round(statistics.median(seconds), 4),
        update_bytes=4 * parameters,
        rounds=len(seconds),
        round_seconds_worst=round(max(seconds), 4),
        processes=processes,
    )


async def _finished(
    fleet: Fleet, hosts: list[Process], rounds: int, deadline_seconds: float
) -> None:
    until = clock.monotonic() + deadline_seconds
    while fleet.shell.state.rounds_done < rounds:
        if fleet.shell.tasks.failed.done():
            fleet.shell.tasks.failed.result()
        dead = [host.returncode for host in hosts if host.returncode is not None]
        if dead:
            raise HedgerowError(f"a process of devices ended with {dead[0]}; see above")
        if clock.monotonic() > until:
            raise HedgerowError(
                f"{fleet.shell.state.rounds_done} of {rounds} rounds were done after "
                f"{deadline_seconds:.0f} s; outcomes: {dict(fleet.shell.state.outcomes)}"
            )
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _hosts(
    home: Path, fleet: Fleet, devices: int, processes: int
) -> AsyncIterator[list[Process]]:
    """Processes that hold `devices` devices between them."""
    started: list[Process] = []
    try:
        for index in range(processes):
            count = devices // processes + (index < devices % processes)
            started.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "hedgerow.bench.round"),
                    *(str(fleet.join_path), str(home / f"host-{index}"), str(count)),
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    preexec_fn=ends_with_parent(),
                )
            )
        yield started
    finally:
        for process in started:
            if process.returncode is None:
                process.terminate()
        for process in started:
            await process.wait()


async def host(join: JoinFile, state: Path, count: int) -> None:
    """Run `count` devices on this event loop until cancelled."""
    bundle = app_bundle("watch")
    weights = bundle.weights[: bundle.manifest.layout.shared_size]
    model, blob = model_ref(0, weights), to_bytes(weights)
    executor = ThreadPoolExecutor(1)
    shells = await asyncio.gather(
        *(_device(join, state / str(i), model, blob, executor) for i in range(count))
    )
    failed: list[asyncio.Future[Any]] = [shell.tasks.failed for shell in shells]
    await asyncio.wait(failed, return_when=asyncio.FIRST_COMPLETED)
    for future in failed:
        if future.done():
            future.result()


async def _device(
    join: JoinFile, state: Path, model: ModelRef, blob: bytes, executor: ThreadPoolExecutor
) -> DeviceShell:
    state.mkdir(parents=True, mode=0o700)
    identity = Identity.load_or_create(state / "device.nk")
    store = DeviceStore(state / "device.db")
    store.put_blob(blob)
    meter = ByteMeter()
    enrolment = await enrol(join, identity, store, state.name, meter, entropy.generator())
    shell = DeviceShell(
        state=machine.DeviceState(
            device=identity.public, name=state.name, model=model, samples=1024
        ),
        identity=identity,
        coordinator=enrolment.coordinator,
        store=store,
        trainer=NoStep(),
        executor=executor,
        hooks=Hooks(
            installed=lambda model, shared: None,
            personalised=lambda model, weights: None,
            told=lambda what, fields: None,
        ),
    )
    link = NatsDeviceLink(
        enrolment.url,
        enrolment.fleet,
        Credentials(enrolment.credential, identity),
        shell.on_message,
        shell.on_state,
        meter,
    )
    shell.attach(link)
    await link.connect()
    return shell


if __name__ == "__main__":
    join_path, state_path, device_count = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(host(JoinFile.load(Path(join_path)), Path(state_path), int(device_count)))
