"""The owner's page in a real browser, served by the real server, over made-up devices."""

import asyncio
from pathlib import Path

import pytest

from hedgerow.io import clock
from hedgerow.protocol.owner import Event, GivenLabel, Period, SharingView, Verified
from hedgerow.web.access import new_code
from hedgerow.web.console import serve_console
from tests.web import gateways, owners
from tests.web.chromium import Page, chromium

LIVE = "document.querySelector('#link')?.textContent === 'live'"


async def opened(page: Page, url: str, width: int = 1280, scheme: str = "light") -> None:
    await page.look(width, 900, scheme)
    await page.call("Page.navigate", url=url)
    await page.until(LIVE)
    await page.until("document.querySelectorAll('#rows > li').length > 0")


async def text_of(page: Page, selector: str) -> str:
    text = await page.value(f"document.querySelector({selector!r}).innerText")
    return " ".join(str(text).split())


async def says(page: Page, selector: str, text: str) -> None:
    """Wait until the text is there."""
    await page.until(f"document.querySelector({selector!r}).innerText.includes({text!r})")


async def click(page: Page, selector: str) -> None:
    await page.value(f"document.querySelector({selector!r}).click()")


async def type_into(page: Page, selector: str, text: str) -> None:
    await page.value(
        f"(() => {{ const input = document.querySelector({selector!r}); input.value = {text!r};"
        " input.dispatchEvent(new Event('input', {bubbles: true}));"
        " input.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


async def names(page: Page) -> list[str]:
    found = "[...document.querySelectorAll('#rows .name')].map((node) => node.textContent)"
    return list(await page.value(found))


def test_two_thousand_streams_the_worst_first_found_and_paged(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory()
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url)
            assert await text_of(page, "h1") == "4 of 2,000 need a look"
            assert await page.value("document.title") == (
                "4 of 2,000 need a look · hall 3 gateway · Hedgerow"
            )
            assert (await names(page))[:4] == [
                f"press {n}" for n in ("1930", "1289", "0648", "0007")
            ]
            assert await text_of(page, "#page") == "1 to 12 of 2,000"
            hedge = await page.value("document.querySelector('#hedge').ariaLabel")
            assert hedge == (
                "2,000 streams, 4 need a look, 10 have changed, 7 are silent, 24 are learning, "
                "1,955 are as usual."
            )
            await click(page, "#after")
            await says(page, "#page", "13 to 24 of 2,000")
            await click(page, ".chip[data-state=quiet]")
            await page.until("document.querySelectorAll('#rows > li').length === 7")
            await click(page, ".chip[data-state='']")
            await type_into(page, "#search", "press 19")
            await says(page, "#page", "of 100")
            await type_into(page, "#order", "name")
            await page.until("document.querySelector('#rows .name').textContent === 'press 1900'")
            await type_into(page, "#search", "no such thing")
            await says(page, "#rows-empty", "None like that.")
            assert page.log == []

    asyncio.run(scenario())


def test_one_stream_is_looked_at_marked_labelled_and_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=40)
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url)
            await click(page, "#rows a")
            await says(page, "#detail-name", "press 0007")
            await page.until("document.querySelector('#history svg') !== null")
            assert await text_of(page, "#detail-label") == "anomaly, 2.41 × the threshold"
            assert "now, between" in await page.value(
                "document.querySelector('#history svg').ariaLabel"
            )
            assert await page.value("document.querySelectorAll('#signal path').length") == 1
            await drag(page, "#history svg", 0.3, 0.6)
            await says(page, "#mark-hint", "marked")
            await type_into(page, "#mark-label", "bearing worn")
            await click(page, "#mark button[type=submit]")
            await says(page, "#given", "bearing worn")
            ((_, given),) = owner.done
            assert isinstance(given, GivenLabel)
            assert (given.stream, given.label) == ("press 0007", "bearing worn")
            assert owners.NOW - 600 < given.start_seconds < given.end_seconds < owners.NOW
            assert 120 < given.end_seconds - given.start_seconds < 240

            await drag(page, "#history svg", 0.5, 0.75)
            await click(page, "#mark-forget")
            await says(page, "#forget-whose", "press 0007")
            await says(page, "#forget-count", "windows")
            await page.until("!document.querySelector('#forget-do').disabled")
            await click(page, "#forget-do")
            await says(page, "#toast", "Forgotten")
            kind, period = owner.done[-1]
            assert kind == "forget"
            assert isinstance(period, Period)
            assert period.stream == "press 0007"
            assert 100 < period.end_seconds - period.start_seconds < 200

            await click(page, "#day")
            await page.until("document.querySelector('#day').ariaPressed === 'true'")
            await page.value("history.back()")
            await page.until("document.querySelector('#detail').hidden")
            assert page.log == []

    asyncio.run(scenario())


async def drag(page: Page, selector: str, start: float, end: float) -> None:
    """Drag with the mouse over the middle of a node, between two shares of its width."""
    await page.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    x, y, width, height = await page.value(
        f"(() => {{ const box = document.querySelector({selector!r}).getBoundingClientRect();"
        " return [box.x, box.y, box.width, box.height]; })()"
    )
    points = [("mousePressed", start), ("mouseMoved", (start + end) / 2), ("mouseReleased", end)]
    for kind, share in points:
        await page.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x + width * share,
            y=y + height / 2,
            button="left",
            buttons=1,
            clickCount=1,
        )


def test_pause_decline_verify_and_what_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=40)
        owner.verified = Verified(
            good=True, entries=4127, checkpoints=812, key="U" + "A" * 55, head="5e" * 32
        )
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url)
            assert await text_of(page, "#task-says") == (
                "It is training for round 118, 41 seconds ago. "
                "Trains the vibration model on what was normal here."
            )
            await click(page, "#decline")
            await page.until("document.querySelector('#task').hidden")
            await click(page, "#pause")
            await says(page, "#sharing-state", "paused")
            await says(page, "#pause", "Resume sharing")
            assert "Nothing goes to the fleet presses" in await text_of(page, "#sharing-because")
            await click(page, "#pause")
            await says(page, "#sharing-state", "on")
            assert owner.done == [("decline",), ("pause", True), ("pause", False)]

            assert await text_of(page, "#privacy-says") == "None spent"
            assert await text_of(page, "#class-rows tr") == "update 118 8.3 MB 80.1 kB"
            first = await text_of(page, "#message-rows tr")
            assert "exception press 0007 is beyond its threshold nats://hub.example:4222" in first
            await type_into(page, "#sent-kind", "alert")
            await page.until(
                "document.querySelector('#message-rows .kind').textContent === 'alert'"
            )
            await click(page, "#older")
            await page.until("!document.querySelector('#newest').disabled")

            await click(page, "#verify")
            await says(page, "#seal-says", "The chain holds: 4,127 entries verified")
            owner.verified = Verified(
                good=False, entries=90, bad=91, why="its hash is not the one that follows"
            )
            await click(page, "#verify")
            await says(page, "#seal-says", "The chain does not hold")
            assert await text_of(page, "#seal-note") == (
                "From entry 91 on: its hash is not the one that follows"
            )
            assert page.log == []

    asyncio.run(scenario())


def test_delete_takes_the_typed_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=40)
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url)
            await click(page, "#delete")
            await says(page, "#delete-name", "hall 3 gateway")
            for wrong in ("hall 3", "yes"):
                await type_into(page, "#delete-confirm", wrong)
                assert await page.value("document.querySelector('#delete-do').disabled")
            await type_into(page, "#delete-confirm", "hall 3 gateway")
            await click(page, "#delete-do")
            await says(page, "#toast", "Deleted")
            await says(page, "h1", "Nothing sensed yet")
            assert owner.done == [("delete", False)]
            assert page.log == []

    asyncio.run(scenario())


def test_one_watch_alone_is_shown_without_a_list_to_choose_from(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.watch()
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url, width=390, scheme="dark")
            assert await text_of(page, "h1") == "Row, 98%"
            await says(page, "#detail-name", "wearer 3")
            await page.until("document.querySelectorAll('#history .strip').length > 5")
            assert await page.value("document.querySelector('#filters').hidden")
            assert await page.value("document.querySelector('#pause').hidden")
            assert "in no fleet" in await text_of(page, "#sharing-says")
            assert await text_of(page, "#energy-note") == "not measured on this machine"
            assert page.log == []

    asyncio.run(scenario())


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_fits_and_runs_nothing_that_comes_from_outside(tmp_path: Path, width: int) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=30)
        owner.board.tell([gateways.smuggler(owners.XSS)], owner.now)
        event = Event(
            stream=owners.XSS, time_seconds=owners.NOW, label=owners.XSS, reason=owners.XSS
        )
        owner.change(events=[event], sharing=SharingView(fleet=owners.XSS, online=True))
        async with serve_console(owner, tmp_path) as url, chromium() as page:
            await opened(page, url, width=width)
            wide = "document.documentElement.scrollWidth - innerWidth"
            assert await page.value(wide) == 0
            await click(page, "#rows a")
            await says(page, "#detail-name", owners.XSS)
            await page.until("document.querySelector('#history svg') !== null")
            assert await page.value(wide) == 0
            assert await text_of(page, "#detail-name") == owners.XSS
            assert await page.value("document.querySelectorAll('main img').length") == 0
            assert await page.value("document.title !== 'owned'")
            assert page.log == []

    asyncio.run(scenario())


def test_a_browser_is_paired_at_the_door(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=40)
        async with serve_console(owner, tmp_path, pair="always") as url, chromium() as page:
            await page.look(390, 844, "light")
            await page.call("Page.navigate", url=url)
            await page.until("document.querySelector('h1')?.textContent === 'Pair this browser'")
            await page.until("!document.querySelector('#enter').disabled")
            await type_into(page, "#code", "2345-6789")
            await click(page, "#enter")
            await says(page, "#wrong", "not valid")
            await type_into(page, "#code", new_code(tmp_path, clock.now()).lower())
            await click(page, "#enter")
            await page.until(LIVE)
            await says(page, "h1", "1 of 40 needs a look")

    asyncio.run(scenario())


def test_the_page_says_that_the_device_is_gone_and_finds_it_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        owner = gateways.factory(streams=40)
        async with chromium() as page:
            async with serve_console(owner, tmp_path) as url:
                await opened(page, url)
            await says(page, "#link", "connection lost, retrying")
            port = int(url.rsplit(":", 1)[1].strip("/"))
            async with serve_console(owner, tmp_path, port=port):
                await page.until(LIVE)

    asyncio.run(scenario())
