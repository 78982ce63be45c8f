"""An agent through restarts and changes of its model, with streams whose normal it learns."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hedgerow.decide.anomaly import AnomalySettings
from hedgerow.io.sensors.base import Block
from hedgerow.serve import agent as agents
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge.engine import LEARNING
from hedgerow.serve.inference.base import InferenceSettings, ModelDown, ModelSpec
from hedgerow.serve.models import FACT_NORMAL, FACT_NORMAL_OF
from hedgerow.serve.settings import ConsoleSettings, DeviceSettings
from tests.serve.agents import running_agents
from tests.serve.edges import Scripted
from tests.serve.hosting import until

SCHEMA = app_bundle("vibration").manifest.input
NAMES = ("saw", "press", "lathe")
LEARN = 16 + 128 + 8


def vibration(names: Sequence[str], windows: int, first: int = 0) -> Scripted:
    """Each machine hums at its own loudness; eight windows a block."""
    rng = np.random.default_rng(first)

    def hum(name: str, start: int) -> Block:
        level = rng.normal(0, 0.01 * 4 ** NAMES.index(name), (8 * SCHEMA.window, 1))
        return Block(name, start * SCHEMA.window / SCHEMA.rate_hz, level.astype(np.float32))

    batches = [[hum(name, start) for name in names] for start in range(first, first + windows, 8)]
    return Scripted(openings=[batches])


def made(home: Path, sensor: Scripted) -> DeviceAgent:
    chosen = DeviceSettings(
        name="hall",
        state=home / "hall",
        app="vibration",
        anomaly=AnomalySettings(baseline_windows=16, calibration_windows=128),
        inference=InferenceSettings(guard=False),
        console=ConsoleSettings(enabled=False),
    )
    return DeviceAgent(chosen, sensors=[("scripted", sensor)])


def test_what_is_normal_is_known_again_after_a_restart_whoever_speaks_first(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        first = made(tmp_path, vibration(NAMES, LEARN))
        async with running_agents(first):
            await until(lambda: first.windows == 3 * LEARN)
            scorer = first.edge.engine.scorer
            assert scorer is not None
            assert scorer.ready.all()
            rows = {stream.name: stream.row for stream in first.edge.engine.streams.all()}
        again = made(tmp_path, vibration(NAMES[::-1], 8, first=1000))
        async with running_agents(again):
            await until(lambda: again.windows == 3 * 8)
            streams = again.edge.engine.streams.all()
            assert {stream.name: stream.row for stream in streams} == rows
            for stream in streams:
                assert stream.notice is not None
                assert stream.notice.label != LEARNING
                assert stream.notice.score < 2

    asyncio.run(body())


def test_what_was_normal_for_other_inputs_is_learned_anew(tmp_path: Path) -> None:
    async def body() -> None:
        first = made(tmp_path, vibration(NAMES, 8))
        async with running_agents(first):
            await until(lambda: first.windows == 3 * 8)
            first.models.keep()
        again = made(tmp_path, vibration(NAMES, 8))
        assert len(again.edge.engine.streams) == 3
        again.store.set_fact(FACT_NORMAL_OF, b"{}")
        assert len(again.models.engine().streams) == 0
        again.store.close()

    asyncio.run(body())


def test_a_model_that_cannot_be_run_leaves_the_one_before_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        agent = made(tmp_path, vibration(NAMES, LEARN))

        async def fails(spec: ModelSpec) -> None:
            assert agent.edge.changing == (spec.bundle.manifest.name != "vibration")
            raise ModelDown("it crashed while it started")

        async with running_agents(agent):
            await until(lambda: agent.windows > 0)
            monkeypatch.setattr(agent.models.runner, "use", fails)
            agent.home.bundle = app_bundle("watch")
            monkeypatch.setattr(agent.home, "weights", lambda: app_bundle("watch").weights)
            await agent.models.rebase()
            assert not agent.edge.changing
            await until(lambda: agent.windows == 3 * LEARN)
            assert agent.healthy()

    asyncio.run(body())


def test_one_whose_work_stands_still_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "STUCK_SECONDS", 0.3)

    async def body() -> None:
        agent = made(tmp_path, vibration(NAMES, LEARN))
        stuck, infer = asyncio.Event(), agent.models.runner.infer

        async def hangs(x: np.ndarray) -> np.ndarray:
            await stuck.wait()
            return await infer(x)

        monkeypatch.setattr(agent.models.runner, "infer", hangs)
        async with running_agents(agent):
            await until(lambda: not agent.healthy())
            stuck.set()
            await until(lambda: agent.windows == 3 * LEARN)
            await until(agent.healthy)
            await asyncio.sleep(0.4)  # with nothing to do it is well
            assert agent.healthy()
            agent._work[0].cancel()
            await until(lambda: not agent.healthy())

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(body())


def test_when_it_ends_by_an_error_all_that_waits_is_kept_and_all_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        agent = made(tmp_path, vibration(NAMES, LEARN))

        async def fails() -> None:
            await until(lambda: agent.windows == 3 * LEARN)
            raise RuntimeError("a fault")

        async def does_not_close() -> None:
            raise RuntimeError("another")

        monkeypatch.setattr(agent.forwarder, "run", fails)
        monkeypatch.setattr(agent.sharing, "close", does_not_close)
        with pytest.raises(RuntimeError):
            await agent.run(asyncio.Event())
        again = made(tmp_path, vibration(NAMES, 8))  # the store is free again
        assert again.edge.engine.scorer is not None
        assert again.edge.engine.scorer.ready.all()
        again.store.close()

    asyncio.run(body())


def test_what_was_learned_and_said_outlives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is looked at while the agent runs: what is in it then is what a kill leaves."""
    monkeypatch.setattr("hedgerow.serve.models.READY_SECONDS", 0.05)

    async def body() -> None:
        agent = made(tmp_path, vibration(NAMES, LEARN))
        async with running_agents(agent):
            await until(lambda: agent.windows == 3 * LEARN)
            await until(lambda: agent.store.fact(FACT_NORMAL) is not None)
            agent.store.set_fact(FACT_NORMAL, None)
            agent.models.label("press", 0.0, 1.0, "fault")
            assert agent.store.fact(FACT_NORMAL) is not None

    asyncio.run(body())
