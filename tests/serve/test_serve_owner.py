"""What an owner does with a running agent: pause, label, forget, export, verify, delete."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.io.device_store import DeviceStore, StoredWindow, StoreFull, StoreLimits
from hedgerow.io.egress import verify_file
from hedgerow.io.links import LinkDown
from hedgerow.io.sensors.base import Label, Sensor
from hedgerow.protocol.owner import GivenLabel, Period
from hedgerow.serve import agent as agents
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.forwarding import ForwardRules
from hedgerow.serve.inference.base import InferenceSettings
from hedgerow.serve.settings import ConsoleSettings, DeviceSettings
from tests.serve.agents import running_agents
from tests.serve.edges import LABELS, SCHEMA, Scripted, Sure, block, noise
from tests.serve.hosting import until

ALWAYS = Period(start_seconds=0, end_seconds=1e12)


def settings(home: Path, **more: Any) -> DeviceSettings:
    return DeviceSettings(
        **{
            "name": "hall",
            "state": home / "hall",
            "inference": InferenceSettings(guard=False),
            "console": ConsoleSettings(enabled=False),
            "forward": ForwardRules(exceptions="changes", summary_seconds=1),
            "keep_windows": "all",
            **more,
        }
    )


def presses(seconds: int = 20, first: int = 0) -> Scripted:
    """Two presses, a second a batch."""
    batches = [
        [block(name, 50 * (first + second), 50, seed=seed) for seed, name in enumerate("ab")]
        for second in range(seconds)
    ]
    return Scripted(openings=[batches])


WINDOWS = 2 * 37


@contextlib.asynccontextmanager
async def watching(
    home: Path, sensor: Sensor | None = None, windows: int = WINDOWS, **more: Any
) -> AsyncIterator[DeviceAgent]:
    """An agent that has judged and written down so many windows."""
    chosen = presses() if sensor is None else sensor
    agent = DeviceAgent(settings(home, **more), sensors=[("scripted", chosen)])
    agent.edge.model = Sure()  # of one label: each press changes to it once
    async with running_agents(agent):
        await until(lambda: agent.windows == windows)
        agent.house.keep()
        yield agent


class Link:
    """The way to a fleet, as far as events go."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.away = False

    async def send_events(self, data: bytes, message_id: str) -> None:
        if self.away:
            raise LinkDown("away")
        self.sent.append(message_id)


def test_paused_nothing_leaves_not_even_after_a_restart_and_then_all_of_it(tmp_path: Path) -> None:
    async def body() -> None:
        link = Link()
        async with watching(tmp_path) as agent:
            await agent.owner.pause(True)
            since = agent.owner.view().sharing.paused_seconds
            agent.forwarder.attach(link)
            await until(lambda: agent.store.outbox_count() > 0)
            agent.forwarder.nudge()
            await asyncio.sleep(0.1)
            assert since is not None
            assert agent.owner.view().sharing.waiting_messages == agent.store.outbox_count()
            waiting = agent.store.outbox_count()
        async with watching(tmp_path, presses(first=100)) as again:
            again.forwarder.attach(link)
            again.forwarder.nudge()
            await asyncio.sleep(0.1)
            sharing = again.owner.view().sharing
            assert (sharing.paused, sharing.paused_seconds) == (True, since)
            assert link.sent == []
            assert again.store.outbox_count() >= waiting
            await again.owner.pause(False)
            await until(lambda: again.store.outbox_count() == 0)
            assert link.sent
            assert again.owner.view().sharing.paused_seconds is None
        assert not DeviceAgent(settings(tmp_path)).owner.view().sharing.paused

    asyncio.run(body())


def test_forgetting_a_period_takes_what_reaches_into_it_and_nothing_else(tmp_path: Path) -> None:
    period = Period(start_seconds=5, end_seconds=10, stream="a")

    async def body() -> None:
        async with watching(tmp_path) as agent:
            touched = agent.owner.touched(period)
            assert touched.windows > 0
            assert await agent.owner.forget(period) == touched
            kept = agent.store.list_windows(limit=1000)
            assert len(kept) == WINDOWS - touched.windows
            for window in kept:
                assert window.seconds == SCHEMA.window / SCHEMA.rate_hz
                ends = window.start_seconds + window.seconds
                assert window.stream == "b" or ends <= 5 or window.start_seconds >= 10
            assert agent.owner.touched(period).windows == 0
            assert agent.owner.stream("b") is not None

    asyncio.run(body())


def test_a_label_finds_the_windows_kept_of_its_time(tmp_path: Path) -> None:
    given = GivenLabel(stream="a", start_seconds=2, end_seconds=8, label=LABELS[3])

    async def body() -> None:
        async with watching(tmp_path) as agent:
            assert (await agent.owner.label(given)).windows >= 12
            rows = agent.store.list_windows(limit=1000)
            labelled = [row for row in rows if row.label == 3]
            assert {row.stream for row in labelled} == {"a"}
            assert all(2 <= row.start_seconds + row.seconds / 2 < 8 for row in labelled)
            assert agent.owner.view().stored.labelled == {LABELS[3]: len(labelled)}
            detail = agent.owner.stream("a")
            assert detail is not None
            assert detail.given == [given]

    asyncio.run(body())


def test_all_that_is_stored_goes_out_and_the_record_verifies_without_the_device(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with watching(tmp_path) as agent:
            for number in range(5):
                agent.egress.left(to="broker", kind="alert", purpose="a test", size=number)
            parts = {}
            async for part in agent.owner.export():
                parts[part.name] = b"".join([piece async for piece in part.pieces])
            found = await agent.owner.verify()
            assert (found.good, found.key) == (True, agent.identity.public)
            assert agent.owner.view().sent.messages == 5
            record = tmp_path / "record"
            record.write_bytes(b"".join([piece async for piece in agent.owner.export_record()]))
            assert verify_file(record).good
            assert any(name.endswith(".hedgerow") for name in parts)
            assert any(
                content.startswith(b"{") and json.loads(content).get("name") == "hall"
                for name, content in parts.items()
                if name.endswith(".json")
            )
            damaged = record.read_bytes().replace(b"broker", b"nobody", 1)
            record.write_bytes(damaged)
            assert not verify_file(record).good

    asyncio.run(body())


@pytest.mark.parametrize("record", [False, True])
def test_deleting_leaves_nothing_sensed_or_decided_and_sensing_goes_on(
    tmp_path: Path, record: bool
) -> None:
    async def body() -> None:
        async with watching(tmp_path) as agent:
            agent.egress.left(to="broker", kind="alert", purpose="a test", size=7)
            await agent.owner.label(
                GivenLabel(stream="a", start_seconds=2, end_seconds=8, label=LABELS[3])
            )
            await agent.owner.delete(record)
            view = agent.owner.view()
            kept = {kept.kind: kept.count for kept in view.stored.kept}
            assert (kept["windows"], kept["notices"], kept["outbox"]) == (0, 0, 0)
            assert view.events == []
            assert view.streams.total == 0
            assert agent.store.given_labels() == []
            assert view.sent.messages == (0 if record else 1)
            assert (await agent.owner.verify()).good
        async with watching(tmp_path, presses(first=100)) as again:
            assert again.owner.view().streams.total == 2

    asyncio.run(body())


@pytest.mark.parametrize(("keep", "count"), [("none", 0), ("exceptions", 2), ("all", WINDOWS)])
def test_windows_are_kept_as_the_setting_says(tmp_path: Path, keep: str, count: int) -> None:
    async def body() -> None:
        async with watching(tmp_path, keep_windows=keep) as agent:
            assert agent.store.window_count() == count

    asyncio.run(body())


def test_what_is_seen_pushes_out_nothing_that_was_given_to_learn_from(tmp_path: Path) -> None:
    given = [StoredWindow(noise(100).T.copy(), 1, float(n), "train", "past") for n in range(8)]

    async def body() -> None:
        limits = StoreLimits(windows_bytes_max=20 * given[0].x.nbytes)
        first = DeviceAgent(settings(tmp_path, store=limits))
        first.store.add_windows(given)
        first.store.close()
        async with watching(tmp_path, store=limits) as agent:
            assert agent.store.window_count("train") == 8
            assert agent.store.window_count() == 20
            seen = agent.store.list_windows("a", limit=6)
            assert seen[0].start_seconds == 18  # the newest stay

    asyncio.run(body())


def full(store: DeviceStore) -> None:
    """The disk takes no more: to SQLite it is as one that has gone read-only."""
    store._db.execute("PRAGMA query_only = ON")


def test_on_a_full_disk_it_senses_on_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    async def body() -> None:
        sensor = presses()
        agent = DeviceAgent(settings(tmp_path), sensors=[("scripted", sensor)])
        full(agent.store)
        async with running_agents(agent):
            await until(lambda: agent.windows == WINDOWS)
            agent.house.keep()
            agent.forwarder.keep()
            agent.models.keep()
            agent._labelled(Label("a", 0.0, 5.0, LABELS[0]))  # one that came through a sensor
            with pytest.raises(StoreFull):
                await agent.owner.pause(True)
            assert agent.forwarder.paused  # it holds all the same
            assert agent.store.drops()["disk_full"] >= WINDOWS
            assert agent.owner.view().stored.full
            assert agent.healthy()
        async with watching(tmp_path, presses(first=100)) as again:
            assert again.store.window_count() == WINDOWS
            assert not again.owner.view().stored.full

    asyncio.run(body())


def test_what_cannot_be_kept_is_not_shared_for_a_while_and_sensing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "FULL_SECONDS", 0.01)
    tries = []

    async def run() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StoreFull("the disk takes no more")
        await asyncio.Event().wait()

    async def body() -> None:
        agent = DeviceAgent(settings(tmp_path), sensors=[("scripted", presses())])
        monkeypatch.setattr(agent.sharing, "run", run)
        async with running_agents(agent):
            await until(lambda: agent.windows == WINDOWS and len(tries) == 3)

    asyncio.run(body())


def test_what_went_wrong_is_on_the_page_with_its_count(tmp_path: Path) -> None:
    batches = [[block(name) for name in "abc"], [block("a", 100)._replace(samples=block("a")[2].T)]]

    async def body() -> None:
        sensor = Scripted(openings=[batches])
        async with watching(tmp_path, sensor, 2, streams_max=2) as agent:
            await until(lambda: agent.edge.engine.unfit == 1)
            dropped = agent.owner.view().load.dropped
            assert dropped == {
                "samples did not fit the model": 1,
                "more streams than streams_max": 1,
            }
            sensors = agent.owner.view().sensors
            assert [(one.kind, one.role, one.up) for one in sensors] == [
                ("scripted", "sensor", True)
            ]

    asyncio.run(body())
