"""Does a message that a device keeps arrive, once, whatever is killed meanwhile; and how fast.

A real device writes messages into its outbox and sends them to a real NATS server, where a
coordinator counts them. The device is killed (SIGKILL) again and again, at a random moment of its
life; now and then the server is, too, and the coordinator begins anew. In the end every message
that the device's store said is kept must have been counted, and none twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from hedgerow.bench.outbox_device import BATCH, CREDENTIALS, LIMITS, kept_next, told
from hedgerow.core.errors import HedgerowError
from hedgerow.io import clock, entropy
from hedgerow.io.authority import Authority, Credentials
from hedgerow.io.children import ends_with_parent
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsCoordinatorLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.io.tasks import end
from hedgerow.serve.events import EventCounter
from hedgerow.wire.events import Event, Occurrence

FLEET: Final = "bench"
LIFE_SECONDS_MAX: Final = 0.2
SERVER_EVERY: Final = 50
COORDINATOR_EVERY: Final = 20
PATIENCE_SECONDS: Final = 60.0

Told = Callable[[str], None]


class OutboxResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench outbox --json` prints.

    `lost`: kept by the device and not counted; `duplicated`: counted more than once.
    `sent_again`: came twice, and was counted once. `messages_per_s` from the first write into the
    outbox to the last count, without kills, `BATCH` messages a commit.
    """

    kills: int
    lost: int
    duplicated: int
    messages_per_s: float
    messages: int
    sent_again: int
    server_kills: int
    coordinator_restarts: int
    batch: int = BATCH


class Tally:
    """How often each message of each device was counted."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray[tuple[int], np.dtype[np.uint8]]] = {}
        self.last_seconds = 0.0

    def counted(self, device: str, events: Sequence[Event]) -> None:
        """The coordinator counted these."""
        numbers = [int(one.time_seconds) for one in events if isinstance(one, Occurrence)]
        counts = self._counts.get(device, np.zeros(0, np.uint8))
        if max(numbers) >= len(counts):
            grown = np.zeros(2 * max(numbers) + BATCH, np.uint8)
            grown[: len(counts)] = counts
            self._counts[device] = counts = grown
        np.add.at(counts, numbers, 1)
        self.last_seconds = clock.monotonic()

    def missing(self, device: str, count: int) -> int:
        """How many of the first `count` messages were not counted."""
        counts = self._counts.get(device, np.zeros(0, np.uint8))[:count]
        return count - int(np.count_nonzero(counts))

    def twice(self, device: str) -> int:
        """How many were counted more than once."""
        return int(np.count_nonzero(self._counts.get(device, np.zeros(0, np.uint8)) > 1))


class Coordinator:
    """Counts events for the tally, and can begin anew from its database."""

    def __init__(self, home: Path, server: EmbeddedServer, authority: Authority) -> None:
        self._url = f"sqlite:///{home / 'coordinator.db'}"
        self.tally = Tally()
        self.again = 0
        self._link = NatsCoordinatorLink(
            server.url,
            FLEET,
            authority.coordinator_credentials,
            _ignore,
            _ignore,
            lambda up: None,
            ByteMeter(),
        )

    async def start(self) -> None:
        """Connect and count."""
        await self._link.connect()
        self._begin()

    def _begin(self) -> None:
        self._store = CoordinatorStore(self._url)
        self._counter = EventCounter(self._store, self._link, self.tally.counted)
        self._task = asyncio.create_task(self._counter.run())

    async def begin_anew(self) -> None:
        """Forget all that is not in the database."""
        await self._end()
        self._begin()

    async def stop(self) -> None:
        """Stop counting and disconnect."""
        await self._end()
        await self._link.close()

    async def _end(self) -> None:
        failed = self._task.done()
        await end([self._task])
        if failed:
            self._task.result()
        if self._counter.refused:
            raise HedgerowError(f"the coordinator refused events: {dict(self._counter.refused)}")
        self.again += self._counter.again
        self._store.close()


class Nursery:
    """The process that forks devices of one state directory."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def device(self, mode: str) -> int:
        """Start a life; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{mode}\n".encode())
        return int(await self.heard("device"))

    async def heard(self, word: str) -> str:
        """What follows the next line that begins with that word."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                line = (await self._process.stdout.readline()).decode()
                if not line:
                    raise HedgerowError("the process of the device ended by itself; see above")
                first, _, rest = line.strip().partition(" ")
                if first == word:
                    return rest


def bench_outbox(kills: int, messages: int, said: Told) -> OutboxResult:
    """Kill the device `kills` times, then time `messages`, in whole batches, without.

    Raises:
        HedgerowError: a device ended by itself, or messages did not arrive in time.
    """
    messages = max(1, messages // BATCH) * BATCH
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as directory:
        return asyncio.run(_bench(Path(directory), kills, messages, said))


async def _bench(home: Path, kills: int, messages: int, said: Told) -> OutboxResult:
    authority = Authority.load_or_create(home / "authority", FLEET, clock.now())
    with EmbeddedServer(home / "server", authority) as server:
        coordinator = Coordinator(home, server, authority)
        await coordinator.start()
        victim = _state(home / "victim", authority)
        restarts = 0
        async with _nursery(victim, server.url) as nursery:
            for kill in range(1, kills + 1):
                await _one_life(nursery)
                if kill % SERVER_EVERY == 0:
                    server.kill()
                    server.start()
                if kill % COORDINATOR_EVERY == 0:
                    await coordinator.begin_anew()
                    restarts += 1
                if kill % max(1, kills // 10) == 0:
                    said(f"{kill} kills, {told(victim):,} messages kept")
            await nursery.device("drain")
            await _ended_well(nursery)
        kept, device = _kept(victim), Credentials.load(victim / CREDENTIALS).identity.public
        tally = coordinator.tally
        await _arrived(lambda: tally.missing(device, kept))
        said(f"timing {messages:,} messages")
        timed = _state(home / "timed", authority)
        rate = await _rate(timed, server, tally, messages)
        other = Credentials.load(timed / CREDENTIALS).identity.public
        await coordinator.stop()
        return OutboxResult(
            kills=kills,
            lost=tally.missing(device, kept) + tally.missing(other, messages),
            duplicated=tally.twice(device) + tally.twice(other),
            messages_per_s=round(rate),
            messages=kept + messages,
            sent_again=coordinator.again,
            server_kills=kills // SERVER_EVERY,
            coordinator_restarts=restarts,
        )


async def _one_life(nursery: Nursery) -> None:
    """Born, at work for a random while (perhaps not even awake), killed."""
    device = await nursery.device("for_ever")
    await asyncio.sleep(float(entropy.generator().uniform(0.0, LIFE_SECONDS_MAX)))
    os.kill(device, signal.SIGKILL)
    code = int(await nursery.heard("ended"))
    if code != -signal.SIGKILL:
        raise HedgerowError(f"the device ended with {code} before it was killed; see above")


async def _ended_well(nursery: Nursery) -> None:
    code = int(await nursery.heard("ended"))
    if code != 0:
        raise HedgerowError(f"the device ended with {code}; see above")


async def _rate(state: Path, server: EmbeddedServer, tally: Tally, messages: int) -> float:
    """Messages a second through outbox, server and coordinator."""
    name = Credentials.load(state / CREDENTIALS).identity.public
    async with _nursery(state, server.url) as nursery:
        await nursery.device(str(messages))
        begun = float(await nursery.heard("begun"))
        await _ended_well(nursery)
    await _arrived(lambda: tally.missing(name, messages))
    return messages / (tally.last_seconds - begun)


def _kept(state: Path) -> int:
    """How many messages the device kept; at least as many as it was told."""
    store = DeviceStore(state / "device.db", LIMITS)
    try:
        return max(kept_next(store), told(state))
    finally:
        store.close()


async def _arrived(missing: Callable[[], int]) -> None:
    """Wait until none is missing, for as long as fewer and fewer are."""
    seen, since = missing(), clock.monotonic()
    while seen > 0 and clock.monotonic() - since < PATIENCE_SECONDS:
        await asyncio.sleep(0.05)
        if (now := missing()) < seen:
            seen, since = now, clock.monotonic()


def _state(directory: Path, authority: Authority) -> Path:
    identity = Identity.create()
    jwt = authority.issue_device(identity.public, clock.now())
    Credentials(jwt, identity).save(directory / CREDENTIALS)
    return directory


@contextlib.asynccontextmanager
async def _nursery(state: Path, url: str) -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hedgerow.bench.outbox_device", str(state), url, FLEET),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=ends_with_parent(),
    )
    try:
        yield Nursery(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _ignore(device: str, data: bytes) -> None:
    return
