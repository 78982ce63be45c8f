"""Asking an ASGI application without a server."""

import asyncio
import re
from collections.abc import Callable
from urllib.parse import unquote

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from hedgerow.protocol.view import FleetView


class Answer:
    """An HTTP answer as it comes out of the application."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = Headers()
        self.body = b""
        self.ended = False
        self.came = asyncio.Event()

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self.came.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self.came.wait()
                self.came.clear()

    def events(self) -> list[FleetView]:
        data = re.findall(rb"^data: (.*)$", self.body, re.MULTILINE)
        return [msgspec.json.decode(item, type=FleetView) for item in data]


def scope(path: str, method: str = "GET", **headers: str) -> dict[str, object]:
    """A request's head; `path` may have a query, header names have _ for -."""
    named = {"host": "localhost"} | {k.replace("_", "-"): v for k, v in headers.items()}
    bare, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(bare),
        "raw_path": bare.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in named.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }


async def ask(
    app: ASGIApp, path: str, method: str = "GET", body: bytes = b"", **headers: str
) -> Answer:
    answer, sent = Answer(), False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    await app(scope(path, method, **headers), receive, answer.take)
    return answer


def get(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(ask(app, path, method, b"", **headers))


def post(app: ASGIApp, path: str, value: object, **headers: str) -> Answer:
    """Post JSON as the page itself does."""
    own = {"content_type": "application/json", "origin": "http://localhost"} | headers
    return asyncio.run(ask(app, path, "POST", msgspec.json.encode(value), **own))
