"""A small fleet for tests: links with what they received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from hedgerow.io import clock
from hedgerow.io.authority import Authority, Credentials
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter, Update
from hedgerow.io.nats_journal import JournalLimits
from hedgerow.io.nats_link import NatsCoordinatorLink, NatsDeviceLink
from hedgerow.io.nats_server import EmbeddedServer

FLEET = "meadow"
PATIENCE_SECONDS = 20.0


async def until(condition: Callable[[], object]) -> None:
    # Polling keeps the links free of hooks that only tests would use.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


class Device:
    def __init__(self, server: EmbeddedServer, authority: Authority) -> None:
        self.identity = Identity.create()
        jwt = authority.issue_device(self.identity.public, clock.now())
        self.credentials = Credentials(jwt, self.identity)
        self.received: list[bytes] = []
        self.states: list[bool] = []
        self.meter = ByteMeter()
        self.link = NatsDeviceLink(
            server.url,
            FLEET,
            self.credentials,
            self.received.append,
            self.states.append,
            self.meter,
        )

    @property
    def id(self) -> str:
        return self.identity.public

    @property
    def up(self) -> bool:
        return self.states[-1:] == [True]


class Coordinator:
    def __init__(
        self, server: EmbeddedServer, authority: Authority, limits: JournalLimits | None = None
    ) -> None:
        self.notes: list[tuple[str, bytes]] = []
        self.enrolments: list[tuple[str, bytes]] = []
        self.states: list[bool] = []
        self.updates: list[Update] = []
        self.meter = ByteMeter()
        self.link = NatsCoordinatorLink(
            server.url,
            FLEET,
            authority.coordinator_credentials,
            lambda device, data: self.notes.append((device, data)),
            lambda device, data: self.enrolments.append((device, data)),
            self.states.append,
            self.meter,
            limits,
        )

    async def read(self, start_sequence: int) -> None:
        async for batch in self.link.updates(start_sequence):
            self.updates.extend(batch)

    @property
    def bodies(self) -> list[bytes]:
        return [update.data for update in self.updates]


@asynccontextmanager
async def device(server: EmbeddedServer, authority: Authority) -> AsyncIterator[Device]:
    made = Device(server, authority)
    await made.link.connect()
    try:
        yield made
    finally:
        await made.link.close()


@asynccontextmanager
async def coordinator(
    server: EmbeddedServer,
    authority: Authority,
    start_sequence: int = 1,
    limits: JournalLimits | None = None,
) -> AsyncIterator[Coordinator]:
    made = Coordinator(server, authority, limits)
    await made.link.connect()
    reading = asyncio.create_task(made.read(start_sequence))
    try:
        yield made
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await made.link.close()
