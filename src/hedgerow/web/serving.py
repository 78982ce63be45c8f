"""Serving pages inside a loop that is already there, and telling them what changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hedgerow.core.errors import UsageError

LISTENERS_MAX = 32
"""Open event streams; one more is answered 503, and the page tries again later."""

EVENT_SECONDS = 0.2
KEEP_ALIVE_SECONDS = 15.0
CONNECTIONS_MAX = 4 * LISTENERS_MAX
"""Further ones are closed at once: each takes a file of a process that needs some itself."""

REQUEST_SECONDS_MAX = 10.0
"""Whoever connects has so long to send the head of a request."""

SEND_SECONDS_MAX = 30.0
"""A listener that takes in nothing for this long loses its place."""

STOP_SECONDS_MAX = 2
STATIC = Path(__file__).parent / "static"


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp,
    feed: Feed,
    host: str,
    port: int,
    *,
    what: str,
    certificate: Path | None = None,
    key: Path | None = None,
) -> AsyncIterator[str]:
    """Serve `app` in the running loop while the context is open.

    Gives the URL. Port 0 takes a free port. Signal handlers stay as they are. On the way out the
    event streams of `feed` end first, so that no open page holds up the stop.

    Raises:
        UsageError: the address cannot be bound, or the certificate and its key cannot be used;
            `what` names the page.
    """
    listening = await _listen(host, port, what)
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        http=_Bounded,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        listening.close()
        raise UsageError(
            f"{what} cannot use the certificate {certificate} with the key {key}: {error}; "
            "name PEM files of one another that this user may read"
        ) from error
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]), name=what)
    ready = asyncio.create_task(server.ready.wait(), name=f"{what} ready")
    try:
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield _url(listening, "http" if certificate is None else "https")
    finally:
        ready.cancel()
        feed.close()
        server.should_exit = True
        await running


class Feed:
    """The latest snapshot as JSON, encoded once for all listeners, with a number that tells change.

    `snapshot` is asked again `every_seconds` after the last time, and only while somebody listens.
    """

    def __init__(self, snapshot: Callable[[], bytes], every_seconds: float = EVENT_SECONDS) -> None:
        self.closed = asyncio.Event()
        self.listeners = 0
        self.every_seconds = every_seconds
        self._snapshot = snapshot
        self._body = b""
        self._number = 0
        self._taken = float("-inf")

    def current(self, now: float) -> tuple[int, bytes]:
        """Number and body, looked at anew when it is time."""
        if now - self._taken >= self.every_seconds:
            self._taken = now
            body = self._snapshot()
            if body != self._body:
                self._body, self._number = body, self._number + 1
        return self._number, self._body

    def renew(self) -> None:
        """Let the next look be a fresh one: something was changed."""
        self._taken = float("-inf")

    def close(self) -> None:
        """End every stream; there is no opening again."""
        self.closed.set()


class EventStream:
    """Server-sent events: the snapshot at once, then whenever it changed."""

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


class _Bounded(H11Protocol):
    """HTTP for whoever can reach the port: few connections, and none that says nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection came."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.close()
        else:
            self.loop.call_later(REQUEST_SECONDS_MAX, self._end_of_patience)

    def _end_of_patience(self) -> None:
        asked: object = self.cycle  # None until the head of a request is here
        if asked is None and not self.transport.is_closing():
            self.transport.close()


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


async def _listen(host: str, port: int, what: str) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise UsageError(
            f"{what} cannot listen on {host} port {port}: {error}; "
            "choose another port, or 0 for any free one"
        ) from error


def _url(listening: socket.socket, scheme: str) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{scheme}://[{shown}]:{port}/" if ":" in shown else f"{scheme}://{shown}:{port}/"
