"""The fleet dashboard: one page, one JSON snapshot and one stream of events, read only.

`fleet_app` is a plain ASGI application; `serve_dashboard` runs it inside the loop that is already
there. Nothing on the page comes from another host, and nobody but this host is answered unless the
operator names more host names: a page on the web that points its own name at 127.0.0.1 (DNS
rebinding) gets a 400.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hedgerow.protocol.view import FleetView
from hedgerow.web.guard import LOOPBACK_HOSTS, Guard
from hedgerow.web.serving import STATIC, EventStream, Feed, serve


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
    feed = fleet_feed(snapshot)

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


def serve_dashboard(
    app: Starlette, host: str = "127.0.0.1", port: int = 0
) -> AbstractAsyncContextManager[str]:
    """Serve `app` (from `fleet_app`) in the running loop while the context is open: `serve`."""
    return serve(app, app.state.feed, host, port, what="the dashboard")


def fleet_feed(snapshot: Callable[[], FleetView]) -> Feed:
    """The fleet as events. Seconds are cut to whole ones: the clock alone is news once a second."""

    def body() -> bytes:
        view = snapshot()
        return msgspec.json.encode(msgspec.structs.replace(view, seconds=view.seconds // 1))

    return Feed(body)
