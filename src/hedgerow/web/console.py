"""The owner's console of one device: a page, its API, and `/metrics`.

`console_app` is a plain ASGI application over an `Owner`; `serve_console` runs it in the agent's
loop. The page is for the machine it runs on; on another address a browser is paired first (see
`hedgerow.web.access`). What changes something is a POST of JSON from the page itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hedgerow.core.errors import UsageError
from hedgerow.protocol.owner import Owner
from hedgerow.web.access import RUNNING_FILE, Access, Running, write_running
from hedgerow.web.console_api import Api, encode
from hedgerow.web.console_door import Door
from hedgerow.web.guard import LOOPBACK_HOSTS, Guard
from hedgerow.web.serving import STATIC, EventStream, Feed, serve

log = logging.getLogger(__name__)

EVENT_SECONDS = 1.0
"""The page is told at most so often; with no page open nothing is looked at."""


def console_app(
    owner: Owner,
    access: Access,
    *,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
    addresses: bool = False,
) -> Starlette:
    """The console of the device that `owner` is.

    Args:
        owner: asked in the event loop.
        access: who is let in.
        hosts: names this server answers to (the `Host` header without its port).
        addresses: whether it answers to any bare IP address as well.
    """
    feed = Feed(lambda: encode(owner.view()), EVENT_SECONDS)
    api = Api(owner, feed)
    door = Door(access, cookie_name(owner.name))
    app = Starlette(
        routes=[
            Route("/", door.page),
            Route("/api/pair", door.pair, methods=["POST"]),
            Route("/events", EventStream(feed)),
            *api.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(Guard, hosts=hosts, addresses=addresses),
            Middleware(door.middleware),
        ],
    )
    app.state.feed = feed
    return app


@contextlib.asynccontextmanager
async def serve_console(
    owner: Owner,
    state: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    hosts: Sequence[str] = (),
    pair: Literal["auto", "always"] = "auto",
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[str]:
    """Serve the console in the running loop while the context is open. Gives its URL.

    While it runs, `console.json` in the state directory says where it is, for `hedgerow status`.
    `pair` "auto": a browser is paired unless the page is on a loopback address.

    Raises:
        UsageError: the address, the certificate or the state directory cannot be used.
    """
    near = is_loopback(host)
    access = Access(state, needed=not near or pair == "always")
    names = [*LOOPBACK_HOSTS, *hosts]
    if not near:
        own = socket.gethostname()
        names += [own, f"{own.partition('.')[0]}.local"]
        if certificate is None:
            log.warning(
                "the console on %s is not encrypted: whoever can listen on that network sees it; "
                "give console.certificate and console.key, or use a tunnel",
                host,
            )
    app = console_app(owner, access, hosts=names, addresses=not near)
    serving = serve(
        app, app.state.feed, host, port, what="the console", certificate=certificate, key=key
    )
    async with serving as url:
        running = Running(url=url, token=access.run_token, process=os.getpid())
        try:
            write_running(state, running)
        except OSError as error:
            raise UsageError(
                f"cannot write {state / RUNNING_FILE}: {error.strerror}; make the state directory "
                "writable for the user the device runs as"
            ) from error
        try:
            yield url
        finally:
            (state / RUNNING_FILE).unlink(missing_ok=True)


def cookie_name(device: str) -> str:
    """Of one's own for each device: cookies know hosts, but no ports."""
    return f"hedgerow_{hashlib.sha256(device.encode()).hexdigest()[:8]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
