"""Real roles as processes, and devices whose training a test holds and releases.

A hosted device is a real one in all but its trainer: own key, database, enrolment, NATS connection
and protocol machine.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag

import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.io import clock, entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsDeviceLink
from hedgerow.protocol import device as machine
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import FACT_MODEL, DeviceShell, Hooks, Outcome, Trainer, decode_model
from hedgerow.serve.joining import JoinFile, enrol, kept_enrolment
from hedgerow.wire.messages import Offer
from hedgerow.wire.weights import from_bytes, model_ref, to_bytes

FLEET = "meadow"
PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parents[2]
START: Vector = app_bundle("watch").weights
"""The model that every fleet here begins from; all of its tensors are shared."""
LAYOUT = app_bundle("watch").manifest.layout


async def until(condition: Callable[[], object], seconds_max: float = PATIENCE_SECONDS) -> None:
    """Return when `condition` holds; fail when it does not in time."""
    async with asyncio.timeout(seconds_max):
        while not condition():
            await asyncio.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on, for a server that has to come back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Role:
    """One `python -m …` as a process that may be killed and started again."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self._log = log
        self._arguments = arguments
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, ready: str = "") -> None:
        """Start it, and wait until it said `ready` on one of its outputs."""
        with self._log.open("wb") as sink:
            command = [sys.executable, "-m", *self._arguments]
            self._process = subprocess.Popen(  # noqa: ASYNC220
                command, stdout=sink, stderr=sink, cwd=ROOT, env=self._environment
            )
        await until(lambda: ready in self.said or self.code is not None)
        assert self.code is None, self.said

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send it that signal, and wait until it is gone; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(30)

    def __enter__(self) -> "Role":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end()


def coordinator(state: Path, **settings: object) -> Role:
    """`hedgerow coordinator` with these settings; `__` in a name stands for the dot."""
    pairs = {"dashboard__enabled": "false", "rounds__retry_seconds": 0.2, **settings}
    arguments = [f"--set={name.replace('__', '.')}={value}" for name, value in pairs.items()]
    state.mkdir(parents=True, exist_ok=True)
    log = state / "said"
    return Role(log, "hedgerow", "coordinator", "--fleet", FLEET, "--state", str(state), *arguments)


def delta_of(name: str, number: int) -> Vector:
    """What the device `name` learns in that round: an arbitrary vector, always the same."""
    rng = np.random.default_rng([*name.encode(), number])
    return (0.01 * rng.standard_normal(len(START))).astype(np.float32)


def fedavg(weights: Vector, updates: Mapping[str, int], number: int) -> Vector:
    """One round of FedAvg, written out: `updates` are samples by device name."""
    total, weight_total = np.zeros(len(weights), np.int64), 0.0
    for name, samples in updates.items():
        weight = samples / 1024
        term = delta_of(name, number).astype(np.float64) * weight
        total += np.rint(term * 2.0**32).astype(np.int64)
        weight_total += weight
    mean = (total.astype(np.float64) / round(weight_total * 2.0**32)).astype(np.float32)
    return weights + mean


class HeldTrainer:
    """Learns `delta_of` its name, as soon as `go` is set or `go_once` named the round."""

    def __init__(self, name: str, samples: int) -> None:
        self.go = Flag()
        self.go.set()
        self._released: set[int] = set()
        self.began: list[int] = []
        self.ended: list[int] = []
        self.stopped: list[int] = []
        self._name = name
        self._samples = samples

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        self.began.append(offer.round)
        while not self.go.wait(0.005) and offer.round not in self._released:
            if stop.is_set():
                self.stopped.append(offer.round)
                return Outcome((), 0, {})
        payload = to_bytes(delta_of(self._name, offer.round))
        self.ended.append(offer.round)
        return Outcome((payload,), self._samples, {"loss": 0.5})

    def go_once(self, number: int) -> None:
        """Let the training for that round end, now or when it begins."""
        self._released.add(number)

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        return blob


class Host:
    """One device of a fleet on this event loop. `async with` runs it; again after that is fine."""

    def __init__(self, name: str, join: JoinFile, state: Path, samples: int = 1024) -> None:
        self.name, self.join, self.samples = name, join, samples
        self.begin, self.layout = START, LAYOUT
        self.state_path = state / name
        self.trainer = HeldTrainer(name, samples)
        self.receipts: list[tuple[str, str]] = []
        self.told: list[str] = []
        self.meter = ByteMeter()
        self.identity: Identity
        self.store: DeviceStore
        self.shell: DeviceShell
        self.link: NatsDeviceLink
        self._executor: ThreadPoolExecutor

    async def start(self) -> None:
        self.state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.identity = Identity.load_or_create(self.state_path / "device.nk")
        self.store = DeviceStore(self.state_path / "device.db")
        self._executor = ThreadPoolExecutor(1)
        kept = self.store.fact(FACT_MODEL)
        model = model_ref(0, self.begin) if kept is None else decode_model(kept)
        if kept is None:
            self.store.put_blob(to_bytes(self.begin))
        enrolment = kept_enrolment(self.store)
        if enrolment is None:
            enrolment = await enrol(
                *(self.join, self.identity, self.store, self.name, self.meter),
                entropy.generator(),
            )
        self.shell = DeviceShell(
            state=machine.DeviceState(
                device=self.identity.public,
                name=self.name,
                model=model,
                samples=self.samples,
                check_in_seconds=1.0,
            ),
            identity=self.identity,
            coordinator=enrolment.coordinator,
            store=self.store,
            trainer=self.make_trainer(),
            executor=self._executor,
            hooks=Hooks(
                lambda model, blob: None, lambda model, weights: None, self._heard, self.learned
            ),
            layout=self.layout,
        )
        self.link = NatsDeviceLink(
            enrolment.url,
            enrolment.fleet,
            Credentials(enrolment.credential, self.identity),
            self.shell.on_message,
            self.shell.on_state,
            self.meter,
        )
        self.shell.attach(self.link)
        await self.link.connect()

    def make_trainer(self) -> Trainer:
        """What it learns with; the identity and the store are there."""
        return self.trainer

    def learned(self, memory: bytes) -> None:
        """What it keeps from now on."""

    async def stop(self) -> None:
        await self.shell.close()
        self._executor.shutdown()
        self.store.close()
        if self.shell.tasks.failed.done():
            self.shell.tasks.failed.result()

    @property
    def version(self) -> int:
        """Of the model in use."""
        return self.shell.state.model.version

    @property
    def weights(self) -> Vector:
        shared = self.shell._blob(self.shell.state.model.hash)
        return from_bytes(shared)

    @property
    def updates_sent(self) -> int:
        """How often an update went out on the wire."""
        return self.meter.messages_up["update"]

    def outcome(self, number: int) -> str | None:
        """What the receipt for that round said."""
        wanted = f"{self.identity.public}/{number}/update"
        return next((outcome for name, outcome in self.receipts if name == wanted), None)

    def _heard(self, what: str, fields: dict[str, object]) -> None:
        self.told.append(what)
        if what == "receipt":
            self.receipts.append((str(fields["id"]), str(fields["outcome"])))


@contextlib.asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    """Enrol and run these devices."""
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await host.start()
            stack.push_async_callback(host.stop)
        yield


@contextlib.contextmanager
def kept(state: Path) -> Iterator[CoordinatorStore]:
    """What a coordinator that is down has kept."""
    store = CoordinatorStore(f"sqlite:///{state.absolute() / 'coordinator.db'}")
    try:
        yield store
    finally:
        store.close()


def kept_weights(state: Path, version: int) -> Vector:
    with kept(state) as store:
        found = store.model_weights(version)
    assert found is not None
    return from_bytes(found)


async def seconds(duration: float) -> None:
    """Let time pass; a deadline to look at is better where there is one."""
    until_ = clock.monotonic() + duration
    while clock.monotonic() < until_:
        await asyncio.sleep(0.02)
