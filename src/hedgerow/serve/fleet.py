"""A coordinator with everything it needs: keys, server, database, journal, and its page's data."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hedgerow.core.errors import UsageError
from hedgerow.io import clock
from hedgerow.io.authority import Authority
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsCoordinatorLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.protocol.view import FleetView
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.coordinator import CoordinatorShell
from hedgerow.serve.fleet_view import FleetRecorder
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings

log = logging.getLogger(__name__)

JOIN_FILE = "join.json"


class Fleet:
    """A running coordinator. Made by `running_fleet`."""

    def __init__(self, shell: CoordinatorShell, recorder: FleetRecorder, url: str) -> None:
        self.shell = shell
        self.recorder = recorder
        self.url = url
        self.join_path = shell.settings.state / JOIN_FILE

    def view(self) -> FleetView:
        """The fleet as it is shown."""
        return self.recorder.view(self.shell.state)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; raises what made the coordinator fail."""
        waiter = asyncio.create_task(stop.wait())
        try:
            waits: set[asyncio.Future[Any]] = {waiter, self.shell.tasks.failed}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self.shell.tasks.failed.done():
                self.shell.tasks.failed.result()
        finally:
            waiter.cancel()


@contextlib.asynccontextmanager
async def running_fleet(settings: CoordinatorSettings) -> AsyncIterator[Fleet]:
    """Start everything; stop it in the opposite order.

    Raises:
        UsageError: a setting, a port or a file stands in the way; says which.
    """
    bundle = app_bundle(settings.app)
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority.load_or_create(
        authority_path(settings.state), settings.fleet, clock.now()
    )
    store = CoordinatorStore(
        settings.database or f"sqlite:///{settings.state.absolute() / 'coordinator.db'}"
    )
    recorder = FleetRecorder(settings.fleet, bundle.manifest.name)
    identity = authority.coordinator_credentials.identity

    def told(what: str, fields: dict[str, Any]) -> None:
        log.info("%s %s", what, fields)
        recorder.told(shell.state, what, fields)

    shell = CoordinatorShell(settings, bundle, identity, authority.enroller, store, told)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(store.close)
        url = settings.nats.url
        if not url:
            server = embedded(settings.state, authority, settings.nats)
            stack.push_async_callback(asyncio.to_thread, server.stop)
            await asyncio.to_thread(server.start)
            url = server.url
        link = NatsCoordinatorLink(
            url,
            settings.fleet,
            authority.coordinator_credentials,
            on_note=shell.on_note,
            on_enrol=shell.on_enrol,
            on_state=shell.on_state,
            meter=ByteMeter(),
        )
        stack.push_async_callback(shell.close)
        join = authority.join_credentials
        JoinFile(
            fleet=settings.fleet,
            url=url,
            coordinator=identity.public,
            jwt=join.jwt,
            seed=join.identity.seed_text(),
        ).save(settings.state / JOIN_FILE)
        await shell.start(link)
        yield Fleet(shell, recorder, url)


def embedded(state: Path, authority: Authority, nats: NatsSettings) -> EmbeddedServer:
    """The NATS server of a fleet whose keys and state lie in `state`."""
    if nats.url:
        raise UsageError(
            f"nats.url is {nats.url!r}: a server elsewhere; leave it empty to embed one"
        )
    return EmbeddedServer(state / "nats", authority, nats.host, nats.port)


def authority_path(state: Path) -> Path:
    """Where a fleet's keys lie."""
    return state / "authority"
