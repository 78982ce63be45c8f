"""The console's API: what it answers, whom, and what it refuses to do for another site."""

import asyncio
import io
import json
import ssl
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette

from hedgerow.core.errors import UsageError
from hedgerow.io import clock
from hedgerow.protocol.owner import (
    GivenLabel,
    OwnerView,
    Period,
    SentPage,
    StreamDetail,
    StreamPage,
    Verified,
)
from hedgerow.web import serving
from hedgerow.web.access import Access, new_code, read_running
from hedgerow.web.console import console_app, cookie_name, serve_console
from tests.web import gateways, owners
from tests.web.asgi import Answer, ask, get, post
from tests.web.certificates import certificate
from tests.web.exposition import Read


@pytest.fixture
def owner() -> owners.MadeUpOwner:
    return gateways.factory(streams=60)


@pytest.fixture
def app(owner: owners.MadeUpOwner, tmp_path: Path) -> Starlette:
    return console_app(owner, Access(tmp_path, needed=False))


def told(answer: Answer) -> object:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def error(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/api/owner", "application/json"),
        ("/static/console.js", "text/javascript; charset=utf-8"),
        ("/static/console.css", "text/css; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_every_route_answers_with_its_type_and_the_policy(
    app: Starlette, path: str, kind: str
) -> None:
    answer = get(app, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == kind
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_view_the_streams_and_one_of_them(app: Starlette, owner: owners.MadeUpOwner) -> None:
    view = msgspec.json.decode(get(app, "/api/owner").body, type=OwnerView)
    assert view == owner.view()
    assert len(view.states) == 60
    body = get(app, "/api/streams?search=press&order=name&size=7&page=1").body
    page = msgspec.json.decode(body, type=StreamPage)
    assert (page.matched, page.pages, page.page) == (60, 9, 1)
    assert [stream.stream for stream in page.streams] == [f"press {n:04}" for n in range(7, 14)]
    detail = msgspec.json.decode(get(app, "/api/stream?name=press%200007").body, type=StreamDetail)
    assert detail.stream.state == "alert"
    assert len(detail.minutes.scores) == 300
    missing = get(app, "/api/stream?name=press")
    assert missing.status == 404
    assert "no stream of that name" in error(missing)


@pytest.mark.parametrize(
    "path",
    [
        *("/api/streams?page=-1", "/api/streams?size=101", "/api/streams?order=best"),
        *("/api/streams?colour=red", "/api/sent?before=x", "/api/sent?size=0"),
        *("/api/touched", "/api/touched?start_seconds=2&end_seconds=1"),
        "/api/touched?start_seconds=nan&end_seconds=1",
    ],
)
def test_what_does_not_fit_is_said_in_words(app: Starlette, path: str) -> None:
    answer = get(app, path)
    assert answer.status == 400
    assert len(error(answer)) > 10


def test_the_record_is_read_newest_first_page_by_page(app: Starlette) -> None:
    first = msgspec.json.decode(get(app, "/api/sent?size=5").body, type=SentPage)
    assert [entry.number for entry in first.entries] == [4127, 4126, 4125, 4124, 4123]
    assert first.more
    body = get(app, f"/api/sent?size=5&before={first.entries[-1].number}&kind=alert").body
    older = msgspec.json.decode(body, type=SentPage)
    assert [entry.kind for entry in older.entries] == ["alert"] * 5
    assert older.entries[0].number < 4123


def test_switches_reach_the_owner(app: Starlette, owner: owners.MadeUpOwner) -> None:
    assert told(post(app, "/api/pause", {"paused": True})) == {"paused": True}
    assert owner.view().sharing.paused
    assert told(post(app, "/api/decline", {})) == {"declined": True}
    assert told(post(app, "/api/decline", {})) == {"declined": False}
    span = {"start_seconds": 10.0, "end_seconds": 70.0}
    assert told(get(app, "/api/touched?start_seconds=10&end_seconds=70")) == {
        "windows": 60,
        "bytes": 60 * 8192,
        "notices": 1,
    }
    post(app, "/api/label", {"stream": "press 0001", **span, "label": " worn "})
    post(app, "/api/forget", {"stream": "press 0001", **span})
    assert owner.done[-2:] == [
        ("label", GivenLabel(stream="press 0001", label="worn", **span)),
        ("forget", Period(stream="press 0001", **span)),
    ]
    owner.verified = Verified(good=False, entries=7, bad=7, why="its hash is another")
    assert told(post(app, "/api/sent/verify", {})) == msgspec.to_builtins(owner.verified)


def test_deleting_takes_the_name_in_full(app: Starlette, owner: owners.MadeUpOwner) -> None:
    for confirm in ("", "hall 3", "HALL 3 GATEWAY"):
        refused = post(app, "/api/delete", {"confirm": confirm})
        assert refused.status == 400
        assert "'hall 3 gateway'" in error(refused)
    assert owner.done == []
    told(post(app, "/api/delete", {"confirm": "hall 3 gateway", "record": True}))
    assert owner.done == [("delete", True)]
    assert owner.view().streams.total == 0


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"paused": "yes"}, {"paused": True, "more": 1}, []),
        {"paused": None},
    ],
)
def test_a_switch_takes_nothing_else(
    app: Starlette, owner: owners.MadeUpOwner, body: object
) -> None:
    assert post(app, "/api/pause", body).status == 400
    assert owner.done == []


POSTS = ("pause", "decline", "label", "forget", "delete", "sent/verify", "pair")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "https://localhost"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}, 403),
        ({"host": "evil.example"}, 400),
    ],
)
def test_another_site_can_change_nothing(
    app: Starlette,
    owner: owners.MadeUpOwner,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    body = {"paused": True, "confirm": "hall 3 gateway", "code": "x"}
    assert post(app, f"/api/{path}", body, **headers).status == status
    assert get(app, f"/api/{path}").status == 405
    assert owner.done == []


def test_a_form_that_another_site_sends_by_itself_changes_nothing(
    app: Starlette, owner: owners.MadeUpOwner
) -> None:
    form = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    sent = {"origin": "https://evil.example", "content_type": "text/plain", **form}
    assert post(app, "/api/delete", {"confirm": "hall 3 gateway"}, **sent).status == 403
    assert owner.done == []


def test_a_request_is_bounded(app: Starlette) -> None:
    answer = post(app, "/api/pause", {"paused": True, "x": "y" * 20_000})
    assert answer.status == 413


def test_everything_comes_as_a_zip_and_the_record_as_a_file(app: Starlette) -> None:
    answer = get(app, "/api/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="hall-3-gateway.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["about.json", "windows/00001.npz"]
        assert json.loads(archive.read("about.json"))["name"] == "hall 3 gateway"
        assert archive.read("windows/00001.npz") == b"\0" * 1000 + b"\1" * 2000
    record = get(app, "/api/sent/export")
    assert record.body == b"egress 1\nentry\n"
    assert "hall-3-gateway.egress" in record.headers["content-disposition"]


def test_metrics_are_served(app: Starlette) -> None:
    read = Read(get(app, "/metrics").body.decode())
    assert read.values["hedgerow_streams", (("state", "alert"),)] == 1


# The door ---------------------------------------------------------------------------------------

PRIVATE = ("/api/owner", "/api/streams", "/events", "/metrics", "/api/export", "/api/sent/export")


@pytest.fixture
def locked(owner: owners.MadeUpOwner, tmp_path: Path) -> Starlette:
    return console_app(owner, Access(tmp_path, needed=True), addresses=True)


def test_who_is_not_paired_sees_the_door_and_nothing_else(
    locked: Starlette, owner: owners.MadeUpOwner
) -> None:
    page = get(locked, "/")
    assert page.status == 401
    assert b"Pair this browser" in page.body
    assert b"hall 3" not in page.body
    for path in PRIVATE:
        answer = get(locked, path)
        assert answer.status == 401, path
        assert b"hall 3" not in answer.body
    assert post(locked, "/api/delete", {"confirm": "hall 3 gateway"}).status == 401
    assert owner.done == []
    assert get(locked, "/static/base.css").status == 200


def test_a_code_opens_the_door(locked: Starlette, tmp_path: Path) -> None:
    wrong = post(locked, "/api/pair", {"code": "AAAA-AAAA"})
    assert wrong.status == 403
    assert "hedgerow pair" in error(wrong)
    paired = post(locked, "/api/pair", {"code": new_code(tmp_path, clock.now())})
    cookie = paired.headers["set-cookie"]
    assert cookie.startswith(cookie_name("hall 3 gateway") + "=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    own = cookie.partition(";")[0]
    assert b"What it senses" in get(locked, "/", cookie=own).body
    assert get(locked, "/api/owner", cookie=f"other=1; {own}").status == 200
    assert get(locked, "/api/owner", cookie=own[:-1]).status == 401
    assert get(locked, "/api/owner", cookie="a b;;=").status == 401


def test_a_program_brings_its_token_as_a_bearer(locked: Starlette, tmp_path: Path) -> None:
    token = Access(tmp_path, needed=True).pair(new_code(tmp_path, clock.now()))
    assert get(locked, "/metrics", authorization=f"Bearer {token}").status == 200
    assert get(locked, "/metrics", authorization=f"Basic {token}").status == 401
    assert get(locked, "/metrics", authorization="Bearer ").status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.168.1.20:8421", 200), ("[fd00::1]:8421", 200), ("localhost", 200), ("a.example", 400)],
)
def test_away_from_loopback_addresses_are_names_too(
    locked: Starlette, host: str, status: int
) -> None:
    assert get(locked, "/static/base.css", host=host).status == status


# Served -----------------------------------------------------------------------------------------


def test_the_console_says_where_it_is_while_it_is(
    owner: owners.MadeUpOwner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serve_console(owner, tmp_path) as url:
            running = read_running(tmp_path)
            assert running is not None
            assert running.url == url
            assert (tmp_path / "console.json").stat().st_mode & 0o077 == 0
        assert read_running(tmp_path) is None

    asyncio.run(scenario())


def test_another_address_asks_for_pairing_and_can_be_encrypted(
    owner: owners.MadeUpOwner, tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path)

    async def scenario() -> None:
        everywhere = "0.0.0.0"  # noqa: S104
        served = serve_console(owner, tmp_path, host=everywhere, certificate=chain, key=key)
        async with served as url:
            assert url.startswith("https://127.0.0.1:")
            running = read_running(tmp_path)
            assert running is not None
            trusting = ssl.create_default_context(cafile=str(chain))
            request = urllib.request.Request(url + "api/owner")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                await asyncio.to_thread(urllib.request.urlopen, request, context=trusting)
            request.add_header("Authorization", f"Bearer {running.token}")
            answer = await asyncio.to_thread(urllib.request.urlopen, request, context=trusting)
            assert msgspec.json.decode(answer.read(), type=OwnerView).name == "hall 3 gateway"
            answer.close()

    asyncio.run(scenario())


def test_a_certificate_that_is_none_is_said(owner: owners.MadeUpOwner, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")

    async def scenario() -> None:
        path = tmp_path / "no.pem"
        with pytest.raises(UsageError, match="cannot use the certificate"):
            async with serve_console(owner, tmp_path, certificate=path, key=path):
                raise AssertionError("served")

    asyncio.run(scenario())


def test_a_page_that_nobody_has_open_costs_nothing(
    owner: owners.MadeUpOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    view = owner.view

    def looked() -> OwnerView:
        looks.append(1)
        return view()

    monkeypatch.setattr(owner, "view", looked)

    async def scenario() -> None:
        async with serve_console(owner, tmp_path):
            await asyncio.sleep(3 * serving.EVENT_SECONDS)

    asyncio.run(scenario())
    assert looks == []


def test_events_tell_the_view_and_a_switch_is_told_at_once(
    owner: owners.MadeUpOwner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        app = console_app(owner, Access(tmp_path, needed=False))
        feed = app.state.feed
        number, body = feed.current(0.0)
        assert msgspec.json.decode(body, type=OwnerView) == owner.view()
        await ask(app, "/api/pause", "POST", b'{"paused":true}', content_type="application/json")
        again, changed = feed.current(0.1)
        assert again == number + 1
        assert msgspec.json.decode(changed, type=OwnerView).sharing.paused

    asyncio.run(scenario())
