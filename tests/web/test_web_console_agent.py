"""The console of a real agent in a real fleet: pause, label, forget, export, verify and delete."""

import asyncio
import io
import json
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from hedgerow.io.egress import verify_file
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.web.console import serve_console
from tests.serve.agents import made_up_recordings, running_agents, settings
from tests.serve.hosting import FLEET, until
from tests.web.chromium import Page, chromium
from tests.web.exposition import Read
from tests.web.test_web_console_page import LIVE, click, says, text_of, type_into

__all__ = ["made_up_recordings"]

pytestmark = pytest.mark.usefixtures("made_up_recordings")


@asynccontextmanager
async def device(home: Path, join: Path | None = None) -> AsyncIterator[tuple[DeviceAgent, str]]:
    """An agent that runs, and the address of its console."""
    agent = DeviceAgent(settings(home, 1, join))
    async with running_agents(agent), serve_console(agent.owner, agent.settings.state) as url:
        yield agent, url


async def fetched(url: str) -> bytes:
    def get() -> bytes:
        with urllib.request.urlopen(url, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    return await asyncio.to_thread(get)


async def opened(page: Page, url: str) -> None:
    await page.look(1280, 900, "light")
    await page.call("Page.navigate", url=url)
    await page.until(LIVE)
    await page.until("document.querySelector('#history svg') !== null")


def test_what_left_is_on_the_page_pausing_stops_it_and_the_chain_tells(tmp_path: Path) -> None:
    rules = RoundRules(cohort=1, quorum=1, deadline_seconds=60, retry_seconds=0.2)
    chosen = CoordinatorSettings(
        fleet=FLEET, state=tmp_path / "coordinator", nats=NatsSettings(port=0), rounds=rules
    )

    async def body() -> None:
        async with (
            running_fleet(chosen) as fleet,
            device(tmp_path, fleet.join_path) as (agent, url),
            chromium() as page,
        ):
            await opened(page, url)
            await says(page, "#sharing-note", f"with the fleet {FLEET}, connected")
            await until(lambda: "update" in agent.egress.totals().kinds)
            await says(page, "#class-rows", "update")
            await page.until("document.querySelectorAll('#message-rows tr').length > 2")

            await click(page, "#pause")
            await says(page, "#sharing-state", "paused")
            await windows(agent, 10)  # what was under way has gone
            before = shared(agent)
            await windows(agent, 30)  # some ten reports would have been due
            assert shared(agent) == before
            await click(page, "#pause")
            await says(page, "#sharing-state", "on")
            await until(lambda: shared(agent) > before)

            await click(page, "#verify")
            await says(page, "#seal-says", "The chain holds")
            record = tmp_path / "record"
            record.write_bytes(await fetched(f"{url}api/sent/export"))
            found = verify_file(record, agent.identity.public)
            assert found.good
            assert found.entries >= before
            assert page.log == []

    asyncio.run(body())


def shared(agent: DeviceAgent) -> int:
    """Messages that left, but for the word that this device takes no part."""
    kinds = agent.egress.totals().kinds
    return sum(of.messages for kind, of in kinds.items() if kind != "decline")


async def windows(agent: DeviceAgent, more: int) -> None:
    wanted = agent.windows + more
    await until(lambda: agent.windows >= wanted)


def test_a_record_that_was_tampered_with_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        async with device(tmp_path) as (agent, url), chromium() as page:
            for number in range(20):
                agent.egress.left(to="broker:1883", kind="alert", purpose="a test", size=number)
            await asyncio.to_thread(agent.egress.sign)
            await opened(page, url)
            await says(page, "#message-rows", "broker:1883")
            await click(page, "#verify")
            await says(page, "#seal-says", "The chain holds: 21 entries verified")
            (file,) = [
                path
                for path in (agent.settings.state / "egress").iterdir()
                if b"broker:1883" in path.read_bytes()
            ]
            file.write_bytes(file.read_bytes().replace(b"broker:1883", b"broker:1884", 1))
            await click(page, "#verify")
            await says(page, "#seal-says", "The chain does not hold")

    asyncio.run(body())


def test_forget_export_and_delete_reach_the_store(tmp_path: Path) -> None:
    async def body() -> None:
        async with device(tmp_path) as (agent, url), chromium() as page:
            await until(lambda: agent.windows >= 20)
            await opened(page, url)
            kept = agent.store.window_count()
            assert kept > 50
            with zipfile.ZipFile(io.BytesIO(await fetched(f"{url}api/export"))) as archive:
                files = [name for name in archive.namelist() if name.startswith("windows/")]
                x = [np.load(io.BytesIO(archive.read(name)))["x"] for name in files]
                assert json.loads(archive.read("about.json"))["name"] == "watch 1"
            assert sum(map(len, x)) >= kept

            await click(page, "#forget")
            await type_into(page, "#forget-from", "2000-01-01T00:00:00")
            await type_into(page, "#forget-to", "2100-01-01T00:00:00")
            await page.until("!document.querySelector('#forget-do').disabled")
            await click(page, "#forget-do")
            await says(page, "#toast", "Forgotten")
            assert agent.store.window_count() < kept

            await click(page, "#delete")
            await says(page, "#delete-name", "watch 1")
            await type_into(page, "#delete-confirm", "watch 1")
            await click(page, "#delete-do")
            await says(page, "#toast", "Deleted")
            assert agent.store.window_count() < 20
            seen = agent.windows
            await until(lambda: agent.windows > seen)  # it goes on from nothing
            assert page.log == []

    asyncio.run(body())


def test_a_pause_outlives_the_agent(tmp_path: Path) -> None:
    async def body() -> None:
        async with device(tmp_path) as (agent, _):
            await agent.owner.pause(True)
        async with device(tmp_path) as (again, url):
            assert again.owner.view().sharing.paused
            text = (await fetched(f"{url}metrics")).decode()
            assert Read(text).values["hedgerow_sharing_paused", ()] == 1
            assert await text_is(url, "watch 1")

    asyncio.run(body())


async def text_is(url: str, name: str) -> bool:
    return bool(json.loads(await fetched(f"{url}api/owner"))["name"] == name)


def test_a_label_given_on_the_page_is_kept_and_shown(tmp_path: Path) -> None:
    async def body() -> None:
        async with device(tmp_path) as (agent, url), chromium() as page:
            await until(lambda: agent.windows >= 20)
            await opened(page, url)
            await type_into(page, "#mark-from", "2020-01-01T00:00:00")
            await type_into(page, "#mark-to", "2100-01-01T00:00:00")
            await type_into(page, "#mark-label", "resting")
            await click(page, "#mark button[type=submit]")
            await says(page, "#given", "resting")
            stream = await text_of(page, "#detail-name")
            (given,) = agent.store.given_labels(stream)
            assert given.label == "resting"
            assert page.log == []

    asyncio.run(body())


def test_every_metric_of_an_agent_is_explained(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")

    async def body() -> None:
        async with device(tmp_path) as (agent, url):
            await until(lambda: agent.windows >= 5)
            read = Read((await fetched(f"{url}metrics")).decode())
            assert [name for name in read.types if f"`{name}`" not in page] == []
            assert read.values["hedgerow_windows_total", ()] >= 5

    asyncio.run(body())
