"""The page in a real browser, served by the real server, over made-up fleets."""

import asyncio
from urllib.parse import urlsplit

from hedgerow.protocol.view import FleetView
from hedgerow.web.dashboard import fleet_app, serve_dashboard
from tests.web import fleets
from tests.web.chromium import Page, chromium

LIVE = "document.querySelector('#link')?.textContent === 'live'"


async def opened(page: Page, url: str, width: int = 1440, scheme: str = "light") -> None:
    await page.look(width, 900, scheme)
    await page.call("Page.navigate", url=url)
    await page.until(LIVE)
    await page.until("document.querySelector('#fleet').textContent === 'watch'")


async def text_of(page: Page, selector: str) -> str:
    """The visible text of the first match, with runs of white space as one blank."""
    text = await page.value(f"document.querySelector({selector!r}).innerText")
    return " ".join(str(text).split())


async def count_of(page: Page, selector: str) -> int:
    return int(await page.value(f"document.querySelectorAll({selector!r}).length"))


def test_the_page_shows_the_fleet_and_runs_nothing_that_a_device_sends() -> None:
    async def scenario() -> None:
        view = fleets.running()
        view.devices[4].reason = view.devices[4].label = fleets.XSS
        view.outcomes = {"counted": 59, "not_finite": 1, "<b>odd</b>": 2, "constructor": 1}
        async with serve_dashboard(fleet_app(lambda: view)) as url, chromium() as page:
            await opened(page, url)
            assert await text_of(page, "h1") == "Round 7 of 20"
            assert await text_of(page, "#phase") == "Training: 3 at work, 3 counted."
            assert await text_of(page, "#bytes-up") == "6.5 MB"
            assert await text_of(page, "#bytes-kept") == "5.9 MB"
            assert await text_of(page, "#accuracy-mean") == "82.4%"
            assert await text_of(page, "#worst") == "worst 68.7%"
            assert await count_of(page, "#cards > li") == 10
            assert await text_of(page, "#cards > li") == (
                "wearer 1 counted pendulum 97% in 4 of the last 5 windows, above 80% "
                "Shared model 96.2% Personalised 97.8% Sent 641 kB Kept here 563 kB"
            )
            assert await text_of(page, "#cards > li:nth-child(8) .label") == "no decision yet"
            assert await text_of(page, "#cards > li:nth-child(10) .badge") == "away"
            assert await text_of(page, "#round-rows tr") == "6 10 2.0 s 764 kB 82.4% 68.7%"
            assert await text_of(page, "#outcome-rows") == (
                "59 counted in the sum 2 refused: <b>odd</b> "
                "1 refused: held a value that is no number 1 refused: constructor"
            )
            assert await count_of(page, "#vine .leaf") == 12
            assert await count_of(page, "#chart circle.mean") == 6
            chart = await page.value("document.querySelector('#chart svg').ariaLabel")
            assert "Mean 52.8% to 82.4%, worst 30.4% to 68.7%" in chart

            assert await text_of(page, "#cards > li:nth-child(4) .name") == fleets.XSS
            assert await text_of(page, "#cards > li:nth-child(5) .label") == fleets.XSS
            assert await text_of(page, "#cards > li:nth-child(5) .reason") == fleets.XSS
            assert await count_of(page, "main img, main b b") == 0
            assert await page.value("document.title") == "Round 7 of 20 · watch · Hedgerow"
            assert page.log == []

            view.round, view.phase, view.devices = 8, "aggregating", view.devices[1:]
            await page.until("document.querySelector('h1').textContent === 'Round 8 of 20'")
            assert await text_of(page, "#phase") == "Aggregating: adding up the updates."
            assert await count_of(page, "#cards > li") == 9
            assert await text_of(page, "#cards .name") == "wearer 2"

    asyncio.run(scenario())


def test_the_page_ends_with_the_table_and_says_so_when_the_server_has_gone() -> None:
    async def scenario() -> None:
        view = fleets.finished()
        async with chromium() as page:
            async with serve_dashboard(fleet_app(lambda: view)) as url:
                await opened(page, url)
                assert await text_of(page, "h1") == "20 of 20 rounds done"
                first = await text_of(page, "#result-rows tr")
                assert first == "wearer 1 97.0% 61.0% 97.5% 98.5% 98.0%"
                assert await text_of(page, "#result-feet") == (
                    "Mean 95.6% 56.0% 93.9% 97.2% 96.2% Worst 94.3% 51.1% 90.3% 95.8% 94.4%"
                )
                assert await count_of(page, "#result th[scope]") == 6 + 10 + 2
                assert "forbidden upper bound" in await text_of(page, ".caption")
                assert await count_of(page, "#vine .hip") == 3
            await page.until("document.querySelector('#link').dataset.state === 'over'")
            assert await text_of(page, "h1") == "20 of 20 rounds done"

    asyncio.run(scenario())


def test_the_page_says_that_it_lost_the_server_and_finds_it_again() -> None:
    async def scenario() -> None:
        view = fleets.running()
        async with chromium() as page:
            async with serve_dashboard(fleet_app(lambda: view)) as url:
                await opened(page, url)
            await page.until(
                "document.querySelector('#link').textContent === 'connection lost, retrying'"
            )
            view.round = 9
            port = urlsplit(url).port
            assert port is not None
            async with serve_dashboard(fleet_app(lambda: view), port=port):
                await page.until(LIVE)
                await page.until("document.querySelector('h1').textContent === 'Round 9 of 20'")

    asyncio.run(scenario())


def test_an_empty_fleet_and_a_large_one_have_their_own_faces_and_fit_a_phone() -> None:
    async def scenario() -> None:
        fleet = [FleetView(fleet="watch")]
        async with serve_dashboard(fleet_app(lambda: fleet[0])) as url, chromium() as page:
            await opened(page, url, width=375, scheme="dark")
            assert await text_of(page, "h1") == "Not started yet"
            assert await text_of(page, "#phase") == "Waiting for devices: 0 of the 1 a round needs."
            assert await text_of(page, "#devices-empty") != ""
            assert await page.value("document.querySelector('#rounds').hidden")

            fleet[0] = fleets.running(devices=200)
            await page.until("document.querySelectorAll('#cards > li').length === 200")
            assert await text_of(page, "#tally") == "180 of 200 here"
            shown = "getComputedStyle(document.querySelector('#cards .facts')).display !== 'none'"
            assert not await page.value(shown)
            await page.value("document.querySelector('#detail').click()")
            assert await page.value(shown)

            for entry in (fleets.running(), fleets.finished(), fleets.running(planned=5000)):
                fleet[0] = entry
                title = f"' of {entry.rounds_planned}'"
                await page.until(f"document.querySelector('h1').textContent.includes({title})")
                wide = "document.documentElement.scrollWidth - innerWidth"
                assert await page.value(wide) == 0
            assert page.log == []

    asyncio.run(scenario())
