"""A coordinator with everything it needs: keys, server, database, journal, and its page's data."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hedgerow.core.errors import UsageError
from hedgerow.io import clock, sqlite_file
from hedgerow.io.authority import Authority
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsCoordinatorLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.io.tasks import end
from hedgerow.protocol.view import FleetView
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.coordinator import CoordinatorShell
from hedgerow.serve.events import EventCounter
from hedgerow.serve.fleet_view import FleetRecorder
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings

log = logging.getLogger(__name__)

JOIN_FILE = "join.json"


class Fleet:
    """A running coordinator. Made by `running_fleet`."""

    def __init__(
        self,
        shell: CoordinatorShell,
        recorder: FleetRecorder,
        events: EventCounter,
        counting: asyncio.Task[None],
        url: str,
    ) -> None:
        self.shell = shell
        self.recorder = recorder
        self.events = events
        self._counting = counting
        self.url = url
        self.join_path = shell.settings.state / JOIN_FILE

    def view(self) -> FleetView:
        """The fleet as it is shown."""
        return self.recorder.view(self.shell.state)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; raises what made the coordinator fail."""
        waiter = asyncio.create_task(stop.wait())
        try:
            failing: list[asyncio.Future[Any]] = [self.shell.tasks.failed, self._counting]
            await asyncio.wait({waiter, *failing}, return_when=asyncio.FIRST_COMPLETED)
            for future in failing:
                if future.done():
                    future.result()
        finally:
            waiter.cancel()


@contextlib.asynccontextmanager
async def running_fleet(settings: CoordinatorSettings) -> AsyncIterator[Fleet]:
    """Start everything; stop it in the opposite order.

    Raises:
        UsageError: a setting, a port or a file stands in the way; says which.
    """
    bundle = app_bundle(settings.app)
    advertised = _advertised(settings.nats)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.close, sqlite_file.lock(settings.state / "coordinator"))
        authority = Authority.load_or_create(
            authority_path(settings.state), settings.fleet, clock.now()
        )
        identity = authority.coordinator_credentials.identity
        store = CoordinatorStore(
            settings.database or f"sqlite:///{settings.state.absolute() / 'coordinator.db'}"
        )
        stack.callback(store.close)
        recorder = FleetRecorder(settings.fleet, bundle.manifest.name, bundle.manifest.output.task)

        def told(what: str, fields: dict[str, Any]) -> None:
            log.info("%s %s", what, fields)
            recorder.told(shell.state, what, fields)

        shell = CoordinatorShell(settings, bundle, identity, authority.enroller, store, told)
        url = settings.nats.url
        if not url:
            server = embedded(settings.state, authority, settings.nats)
            if server.listens_everywhere and not advertised:
                raise UsageError(
                    f"nats.host is {server.host!r}: every interface, which is no address to go "
                    "into the join file; set nats.advertise to the one that devices reach, as "
                    "nats://factory.example:4222"
                )
            stack.push_async_callback(asyncio.to_thread, server.stop)
            await asyncio.to_thread(server.start)
            url = server.url
        join = authority.join_credentials
        JoinFile(
            fleet=settings.fleet,
            url=advertised or url,
            coordinator=identity.public,
            jwt=join.jwt,
            seed=join.identity.seed_text(),
        ).save(settings.state / JOIN_FILE)
        link = NatsCoordinatorLink(
            url,
            settings.fleet,
            authority.coordinator_credentials,
            on_note=shell.on_note,
            on_enrol=shell.on_enrol,
            on_state=shell.on_state,
            meter=ByteMeter(),
        )
        stack.push_async_callback(shell.close)  # from here on there is a link to close
        await shell.start(link)
        counter = EventCounter(store, link)
        counting = asyncio.create_task(counter.run(), name="events")
        stack.push_async_callback(end, [counting])
        yield Fleet(shell, recorder, counter, counting, url)


def _advertised(nats: NatsSettings) -> str:
    """`nats.advertise` if it is a URL or empty. Raises UsageError otherwise."""
    try:
        sound = urlsplit(nats.advertise).hostname is not None
    except ValueError:
        sound = False
    if nats.advertise and not sound:
        raise UsageError(
            f"nats.advertise is {nats.advertise!r}; wanted a URL, as nats://factory.example:4222"
        )
    return nats.advertise


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
