"""The dashboard's routes, its guard and its stream of events."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from hedgerow.core.errors import UsageError
from hedgerow.protocol.view import FleetView
from hedgerow.web import serving
from hedgerow.web.dashboard import fleet_app, fleet_feed, serve_dashboard
from hedgerow.web.guard import SECURITY_HEADERS
from hedgerow.web.serving import STATIC
from tests.web import fleets
from tests.web.asgi import Answer, get, scope


@asynccontextmanager
async def listening(app: Starlette) -> AsyncIterator[tuple[Answer, asyncio.Event]]:
    """An open event stream; set the event to hang up."""
    answer, hang_up = Answer(), asyncio.Event()

    async def receive() -> Message:
        await hang_up.wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(app(scope("/events"), receive, answer.take))
    try:
        yield answer, hang_up
    finally:
        hang_up.set()
        async with asyncio.timeout(30):
            await task


def app_of(view: FleetView) -> Starlette:
    return fleet_app(lambda: view)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/api/fleet", "application/json"),
        ("/static/fleet.css", "text/css; charset=utf-8"),
        ("/static/fleet.js", "text/javascript; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
def test_every_route_answers_with_its_type_and_the_policy(path: str, kind: str) -> None:
    answer = get(app_of(fleets.running()), path)
    assert answer.status == 200
    assert (
        answer.headers["content-type"].replace("application/javascript", "text/javascript") == kind
    )
    assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


def test_the_policy_allows_nothing_inline_and_no_other_host() -> None:
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert ":" not in policy
    assert "require-trusted-types-for 'script'" in policy


def test_the_page_needs_no_other_host_and_sets_no_markup() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", text)
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page)


def test_the_snapshot_is_the_fleet_as_it_is_now() -> None:
    view = fleets.finished()
    answer = get(app_of(view), "/api/fleet")
    assert msgspec.json.decode(answer.body, type=FleetView) == view
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/static/../dashboard.py", "/static/none.js", "/none"])
def test_nothing_else_is_there(path: str) -> None:
    answer = get(app_of(fleets.running()), path)
    assert answer.status == 404
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("path", ["/", "/api/fleet", "/events"])
def test_the_dashboard_only_shows(path: str) -> None:
    assert get(app_of(fleets.running()), path, "POST").status == 405


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:80", "[::1]"]
)
def test_loopback_names_are_answered(host: str) -> None:
    assert get(app_of(fleets.running()), "/api/fleet", host=host).status == 200


@pytest.mark.parametrize("path", ["/", "/api/fleet", "/events", "/static/fleet.js"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "::1:80"])
def test_a_rebound_name_gets_nothing(host: str, path: str) -> None:
    answer = get(app_of(fleets.running()), path, host=host)
    assert answer.status == 400
    assert b"does not answer to the name" in answer.body


def test_a_configured_name_is_answered_and_no_other() -> None:
    app = fleet_app(fleets.running, hosts=["fleet.example"])
    assert get(app, "/", host="fleet.example:443").status == 200
    assert get(app, "/", host="localhost").status == 400


def test_another_site_may_link_here_but_not_listen() -> None:
    app = app_of(fleets.running())
    cross = {"sec_fetch_site": "cross-site"}
    assert get(app, "/", sec_fetch_mode="navigate", **cross).status == 200
    assert get(app, "/events", sec_fetch_mode="cors", **cross).status == 403
    assert get(app, "/api/fleet", sec_fetch_mode="no-cors", **cross).status == 403


def test_the_feed_looks_at_most_five_times_a_second_and_counts_changes() -> None:
    view, looks = fleets.running(), []

    def snapshot() -> FleetView:
        looks.append(1)
        return view

    feed = fleet_feed(snapshot)
    number, body = feed.current(10.0)
    assert msgspec.json.decode(body, type=FleetView).devices == view.devices
    view.round = 8
    assert feed.current(10.125) == (number, body)
    assert len(looks) == 1
    again, changed = feed.current(10.25)
    assert again == number + 1
    assert msgspec.json.decode(changed, type=FleetView).round == 8
    assert feed.current(10.5) == (again, changed)
    assert len(looks) == 3


def test_the_clock_alone_is_news_once_a_second() -> None:
    view = fleets.running()
    feed = fleet_feed(lambda: view)
    numbers = []
    for look, seconds in enumerate([4.0, 4.2, 4.9, 5.0, 5.3]):
        view.seconds = seconds
        numbers.append(feed.current(float(look))[0])
    assert numbers == [1, 1, 1, 2, 2]


def test_a_stream_starts_with_the_fleet_and_goes_on_with_changes_only() -> None:
    async def scenario() -> None:
        view = fleets.running()
        app = app_of(view)
        async with listening(app) as (answer, _):
            await answer.until(lambda: len(answer.events()) == 1)
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            await asyncio.sleep(3 * serving.EVENT_SECONDS)
            assert len(answer.events()) == 1
            view.round = 8
            await answer.until(lambda: len(answer.events()) == 2)
            assert [event.round for event in answer.events()] == [7, 8]
            assert app.state.feed.listeners == 1
        assert answer.ended
        assert app.state.feed.listeners == 0

    asyncio.run(scenario())


def test_a_quiet_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "KEEP_ALIVE_SECONDS", 0.0)

    async def scenario() -> None:
        async with listening(app_of(fleets.running())) as (answer, _):
            await answer.until(lambda: b"\n\n: still here\n\n" in answer.body)

    asyncio.run(scenario())


def test_listeners_are_bounded_and_a_place_comes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LISTENERS_MAX", 1)

    async def scenario() -> None:
        app = app_of(fleets.running())
        async with listening(app) as (first, _):
            await first.until(lambda: first.status == 200)
            async with listening(app) as (second, _):
                await second.until(lambda: second.ended)
                assert second.status == 503
                assert second.headers["retry-after"] == "5"
        async with listening(app) as (third, _):
            await third.until(lambda: third.status == 200)

    asyncio.run(scenario())


def test_a_listener_that_takes_nothing_in_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SEND_SECONDS_MAX", 0.01)

    async def scenario() -> None:
        app = app_of(fleets.running())

        async def never() -> Message:
            return await asyncio.Future()

        async def stuck(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async with asyncio.timeout(30):
            await app(scope("/events"), never, stuck)
        assert app.state.feed.listeners == 0

    asyncio.run(scenario())


def test_a_closed_feed_ends_its_streams_and_takes_no_more() -> None:
    async def scenario() -> None:
        app = app_of(fleets.running())
        async with listening(app) as (answer, _):
            await answer.until(lambda: answer.status == 200)
            app.state.feed.close()
            await answer.until(lambda: answer.ended)
        async with listening(app) as (late, _):
            await late.until(lambda: late.ended)
            assert late.status == 503

    asyncio.run(scenario())


def test_the_server_is_a_guest_in_the_loop_and_stops_with_a_listener_open() -> None:
    async def scenario() -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        async with serve_dashboard(app_of(fleets.running())) as url:
            assert {number: signal.getsignal(number) for number in before} == before
            port = urlsplit(url).port
            assert url == f"http://127.0.0.1:{port}/"
            read, write = await asyncio.open_connection("127.0.0.1", port)
            write.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = await read.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0]
            await read.readuntil(b"data: {")
        rest = await read.read()
        assert rest.endswith(b"0\r\n\r\n")
        write.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(scenario())


def test_a_listener_that_hangs_up_frees_its_place() -> None:
    async def scenario() -> None:
        app = app_of(fleets.running())
        async with serve_dashboard(app) as url:
            read, write = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            write.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await read.readuntil(b"data: {")
            assert app.state.feed.listeners == 1
            write.close()
            async with asyncio.timeout(30):
                while app.state.feed.listeners > 0:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_taken_port_is_said_in_words() -> None:
    async def scenario() -> None:
        async with serve_dashboard(app_of(fleets.running())) as url:
            port = urlsplit(url).port
            assert port is not None
            with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}"):
                async with serve_dashboard(app_of(fleets.running()), port=port):
                    raise AssertionError("two servers on one port")

    asyncio.run(scenario())
