"""The fleet dashboard: one page, one JSON snapshot and one stream of events, read only.

`fleet_app` is a plain ASGI application; `serve_dashboard` runs it inside the loop that is already
there. Nothing on the page comes from another host, and nobody but this host is answered unless the
operator names more host names: a page on the web that points its own name at 127.0.0.1 (DNS
rebinding) gets a 400.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hedgerow.core.errors import UsageError
from hedgerow.protocol.view import FleetView

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
LISTENERS_MAX = 32
"""Open event streams; one more is answered 503, and the page tries again later."""

EVENT_SECONDS = 0.2
KEEP_ALIVE_SECONDS = 15.0
SEND_SECONDS_MAX = 30.0
"""A listener that takes in nothing for this long loses its place."""

STOP_SECONDS_MAX = 2
STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def fleet_app(
    snapshot: Callable[[], FleetView], *, hosts: Sequence[str] = LOOPBACK_HOSTS
) -> Starlette:
    """The dashboard of the fleet that `snapshot` shows.

    Args:
        snapshot: gives the fleet as it is now; called at most five times a second for all
            listeners together, and once for each `/api/fleet`, in the event loop.
        hosts: names this server answers to (the `Host` header without its port). Add a name here
            when people reach the page by it, for instance behind a proxy.
    """
    feed = Feed(snapshot)

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    async def fleet(request: Request) -> Response:
        body = msgspec.json.encode(snapshot())
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/api/fleet", fleet),
            Route("/events", EventStream(feed)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
    )
    app.state.feed = feed
    return app


@contextlib.asynccontextmanager
async def serve_dashboard(
    app: Starlette, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve `app` (from `fleet_app`) in the running loop while the context is open.

    Gives the URL. Port 0 takes a free port. Signal handlers stay as they are. On the way out the
    event streams end first, so that no open page holds up the stop.

    Raises:
        UsageError: the address cannot be bound.
    """
    listening = await _listen(host, port)
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=4 * LISTENERS_MAX,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]), name="dashboard")
    ready = asyncio.create_task(server.ready.wait(), name="dashboard-ready")
    try:
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield _url(listening)
    finally:
        ready.cancel()
        app.state.feed.close()
        server.should_exit = True
        await running


class Feed:
    """The latest snapshot as JSON, encoded once for all listeners, with a number that tells change.

    Seconds are cut to whole ones: the clock alone is news once a second, not five times.
    """

    def __init__(self, snapshot: Callable[[], FleetView]) -> None:
        self.closed = asyncio.Event()
        self.listeners = 0
        self._snapshot = snapshot
        self._body = b""
        self._number = 0
        self._taken = float("-inf")

    def current(self, now: float) -> tuple[int, bytes]:
        """Number and body; the fleet is looked at anew after `EVENT_SECONDS`."""
        if now - self._taken >= EVENT_SECONDS:
            self._taken = now
            view = self._snapshot()
            body = msgspec.json.encode(msgspec.structs.replace(view, seconds=view.seconds // 1))
            if body != self._body:
                self._body, self._number = body, self._number + 1
        return self._number, self._body

    def close(self) -> None:
        """End every stream; there is no opening again."""
        self.closed.set()


class EventStream:
    """Server-sent events: the fleet at once, then whenever it changed."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one listener until it goes or the feed closes."""
        if scope["method"] != "GET":
            refusal = PlainTextResponse("only GET", 405, {"Allow": "GET"})
            return await refusal(scope, receive, send)
        if self.feed.closed.is_set() or self.feed.listeners >= LISTENERS_MAX:
            refusal = PlainTextResponse("too many listeners", 503, {"Retry-After": "5"})
            return await refusal(scope, receive, send)
        self.feed.listeners += 1
        ends = [
            asyncio.create_task(_disconnected(receive)),
            asyncio.create_task(self.feed.closed.wait()),
        ]
        try:
            await self._tell(ends, send)
        except (OSError, TimeoutError):
            pass  # the listener is gone, or as good as gone
        finally:
            self.feed.listeners -= 1
            for end in ends:
                end.cancel()
        return None

    async def _tell(self, ends: Sequence[asyncio.Task[object]], send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send_part(send, b"retry: 1000\n\n")
        clock = asyncio.get_running_loop().time
        told, told_at = 0, clock()
        while not any(end.done() for end in ends):
            now = clock()
            number, body = self.feed.current(now)
            if number != told:
                await _send_part(send, b"id: %d\ndata: %b\n\n" % (number, body))
                told, told_at = number, now
            elif now - told_at >= KEEP_ALIVE_SECONDS:
                await _send_part(send, b": still here\n\n")
                told_at = now
            await asyncio.wait(ends, timeout=EVENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Guard:
    """Answers known host names only, keeps other sites out, and puts the security headers on."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = frozenset(name.lower().strip("[]") for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be answered."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(Headers(scope=scope)) or self.app
        return await answer(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> Response | None:
        host = _host_name(headers.get("host", ""))
        if host not in self.hosts:
            return PlainTextResponse(
                f"this server does not answer to the name {host!r}; open it by one of "
                f"{', '.join(sorted(self.hosts))}, or add the name to its settings\n",
                400,
            )
        # A link from elsewhere may lead here; a script elsewhere may not use this server up.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in {"cross-site", "same-site"} and mode != "navigate":
            return PlainTextResponse("not for other sites\n", 403)
        return None


class _Server(uvicorn.Server):
    """uvicorn as a guest: says when it is ready and leaves the signals to its host."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_part(send: Send, part: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS_MAX):
        await send({"type": "http.response.body", "body": part, "more_body": True})


def _host_name(header: str) -> str:
    """The name in a `Host` header: without port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


async def _listen(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise UsageError(
            f"the dashboard cannot listen on {host} port {port}: {error}; "
            "choose another port, or 0 for any free one"
        ) from error


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
