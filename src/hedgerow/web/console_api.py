"""The console's API: each route asks the `Owner` one thing and answers with it as JSON."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from hedgerow.core.errors import HedgerowError
from hedgerow.io.archive import zipped
from hedgerow.protocol.owner import (
    LABEL_BYTES_MAX,
    STREAM_BYTES_MAX,
    GivenLabel,
    Owner,
    Period,
    SentQuery,
    StreamQuery,
)
from hedgerow.web.console_door import Refused, posted
from hedgerow.web.metrics import CONTENT_TYPE, exposition, families_of
from hedgerow.web.serving import Feed

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class _Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    paused: bool


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stream: Annotated[str, msgspec.Meta(min_length=1, max_length=STREAM_BYTES_MAX)]
    start_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    end_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=LABEL_BYTES_MAX)]


class _Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    confirm: str
    """The device's name, typed in full"""
    record: bool = False


class Api:
    """Routes over one owner. What changes something makes `feed` tell the pages at once."""

    def __init__(self, owner: Owner, feed: Feed) -> None:
        self.owner, self.feed = owner, feed
        self._verifying = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """What may be asked."""
        asked = {
            "/api/owner": self._view,
            "/api/streams": self._streams,
            "/api/stream": self._stream,
            "/api/sent": self._sent,
            "/api/sent/export": self._export_record,
            "/api/touched": self._touched,
            "/api/export": self._export,
            "/metrics": self._metrics,
        }
        done = {
            "/api/sent/verify": self._verify,
            "/api/pause": self._pause,
            "/api/decline": self._decline,
            "/api/label": self._label,
            "/api/forget": self._forget,
            "/api/delete": self._delete,
        }
        return [
            *(Route(path, _told(handler)) for path, handler in asked.items()),
            *(Route(path, _told(handler), methods=["POST"]) for path, handler in done.items()),
        ]

    async def _view(self, request: Request) -> Response:
        return _json(self.owner.view())

    async def _streams(self, request: Request) -> Response:
        return _json(self.owner.streams(_asked(request, StreamQuery)))

    async def _stream(self, request: Request) -> Response:
        detail = self.owner.stream(request.query_params.get("name", ""))
        if detail is None:
            raise Refused(404, "there is no stream of that name, or it ended")
        return _json(detail)

    async def _sent(self, request: Request) -> Response:
        return _json(self.owner.sent(_asked(request, SentQuery)))

    async def _touched(self, request: Request) -> Response:
        return _json(self.owner.touched(_in_order(_asked(request, Period))))

    async def _export_record(self, request: Request) -> Response:
        return StreamingResponse(
            self.owner.export_record(),
            media_type="application/octet-stream",
            headers=_download(f"{_file_name(self.owner.name)}.egress"),
        )

    async def _export(self, request: Request) -> Response:
        return StreamingResponse(
            zipped(self.owner.export()),
            media_type="application/zip",
            headers=_download(f"{_file_name(self.owner.name)}.zip"),
        )

    async def _metrics(self, request: Request) -> Response:
        families = [*families_of(self.owner.view()), *self.owner.measures()]
        once = {family.name: family for family in families}  # a name may come only once
        return Response(
            exposition(once.values()),
            headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"},
        )

    async def _verify(self, request: Request) -> Response:
        await posted(request, _Nothing)
        if self._verifying.locked():
            raise Refused(409, "the record is being verified already; wait for it")
        async with self._verifying:
            return _json(await self.owner.verify())

    async def _pause(self, request: Request) -> Response:
        wanted = await posted(request, _Pause)
        await self.owner.pause(wanted.paused)
        return self._done({"paused": wanted.paused})

    async def _decline(self, request: Request) -> Response:
        await posted(request, _Nothing)
        return self._done({"declined": await self.owner.decline()})

    async def _label(self, request: Request) -> Response:
        wanted = await posted(request, _Label)
        _in_order(wanted)
        given = GivenLabel(
            stream=wanted.stream,
            start_seconds=wanted.start_seconds,
            end_seconds=wanted.end_seconds,
            label=wanted.label.strip(),
        )
        if not given.label:
            raise Refused(400, "a label is a word, not blanks")
        return self._done(await self.owner.label(given))

    async def _forget(self, request: Request) -> Response:
        period = _in_order(await posted(request, Period))
        return self._done(await self.owner.forget(period))

    async def _delete(self, request: Request) -> Response:
        wanted = await posted(request, _Delete)
        if wanted.confirm.strip() != self.owner.name:
            raise Refused(400, f"to delete everything, type the name {self.owner.name!r}")
        return self._done(await self.owner.delete(wanted.record))

    def _done(self, answer: object) -> Response:
        self.feed.renew()
        return _json(answer)


def encode(value: object) -> bytes:
    """As JSON; NaN becomes null."""
    return msgspec.json.encode(value)


def _told(handler: Handler) -> Handler:
    """With refusals and our own errors told in words."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as refused:
            return refused.answer()
        except HedgerowError as error:
            return Refused(409, str(error)).answer()

    return answer


def _asked(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(400, f"the request does not fit: {error}") from error


P = TypeVar("P", Period, _Label)


def _in_order(period: P) -> P:
    if period.end_seconds <= period.start_seconds:
        raise Refused(400, "a period ends after it starts")
    return period


def _json(value: object) -> Response:
    return Response(
        encode(value), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}


def _file_name(device: str) -> str:
    """A device's name as a file may have it."""
    kept = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in device)
    return kept.strip("-")[:64] or "device"
