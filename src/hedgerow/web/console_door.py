"""The door of the console: the page for who is let in, the pairing page for everybody else."""

from __future__ import annotations

import http.cookies
import logging
from typing import Final, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hedgerow.core.errors import UsageError
from hedgerow.web.access import TOKEN_SECONDS, Access
from hedgerow.web.guard import same_origin
from hedgerow.web.serving import STATIC

log = logging.getLogger(__name__)

OPEN_PATHS: Final = ("/", "/api/pair")
"""Answered to anybody; so is what lies under /static/, which says nothing of the device."""

BODY_BYTES_MAX: Final = 16_384

T = TypeVar("T")


class _Pairing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str


class Door:
    """Lets in by `access`; the token travels in the cookie `cookie`, or as a bearer's."""

    def __init__(self, access: Access, cookie: str) -> None:
        self.access, self.cookie = access, cookie

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Keeps everybody else from `app`, but for the pages that let them in."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            open_to_all = path in OPEN_PATHS or path.startswith("/static/")
            if scope["type"] == "http" and not open_to_all and not self._admitted(scope):
                refusal = JSONResponse(
                    {"error": "this browser is not paired with the device; open its page"}, 401
                )
                return await refusal(scope, receive, send)
            return await app(scope, receive, send)

        return guarded

    async def page(self, request: Request) -> Response:
        """The console, or the page that asks for a code."""
        admitted = self._admitted(request.scope)
        name = "console.html" if admitted else "pair.html"
        return FileResponse(
            STATIC / name, 200 if admitted else 401, media_type="text/html; charset=utf-8"
        )

    async def pair(self, request: Request) -> Response:
        """Let a browser in that knows the code."""
        try:
            wanted = await posted(request, _Pairing)
        except Refused as refused:
            return refused.answer()
        try:
            token = self.access.pair(wanted.code)
        except (UsageError, OSError) as fault:  # others may read the files, or the disk is full
            log.error("nobody is paired: %s", fault)
            token = None
        if token is None:
            error = "that code is not valid; ask the device for a new one: hedgerow pair"
            return JSONResponse({"error": error}, 403)
        answer = JSONResponse({})
        answer.set_cookie(
            self.cookie,
            token,
            max_age=int(TOKEN_SECONDS),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    def _admitted(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        token = bearer.strip() if scheme.lower() == "bearer" else ""
        try:
            return self.access.admitted(token or _cookie(headers.get("cookie", ""), self.cookie))
        except UsageError as error:  # others may read the file of who is paired
            log.error("nobody is let in: %s", error)
            return False


class Refused(Exception):
    """A request that is not answered: its status, and why in words."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error

    def answer(self) -> Response:
        """As it is told."""
        return JSONResponse({"error": self.error}, self.status)


async def posted(request: Request, kind: type[T]) -> T:
    """The JSON that this server's own page posted.

    A form of another site can post no JSON without being asked for leave first, and its browser
    says where it comes from.

    Raises:
        Refused: from elsewhere, not JSON, too long, or not a `kind`.
    """
    if not same_origin(request.headers, request.url.scheme):
        raise Refused(403, "not for other sites")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "wanted application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Refused(413, f"a request has at most {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(400, f"the request does not fit: {error}") from error


def _cookie(header: str, name: str) -> str:
    try:
        jar = http.cookies.SimpleCookie(header)
    except http.cookies.CookieError:
        return ""
    return jar[name].value if name in jar else ""
