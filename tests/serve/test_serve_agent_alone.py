"""An agent that nobody answers: it senses, infers and decides all the same."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from hedgerow.io.device_store import FACT_BUNDLE
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from tests.serve.agents import made_up_recordings, running_agents, settings
from tests.serve.hosting import FLEET, free_port, until

__all__ = ["made_up_recordings"]


async def decides(home: Path, join: Path | None) -> tuple[DeviceAgent, int]:
    """The agent, and how many windows it keeps."""
    agent = DeviceAgent(settings(home, 1, join))
    async with running_agents(agent):
        await until(lambda: agent.windows >= 20)
        assert agent.decision is not None
        assert agent.decision.reason
        assert agent.store.window_count("train") > agent.store.window_count("holdout") > 0
        kept = agent.store.window_count()
    assert agent.meter.total_up == agent.meter.total_down == 0
    return agent, kept


@pytest.mark.usefixtures("made_up_recordings")
def test_without_a_join_file_it_decides_and_does_so_again_after_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        first, kept = await decides(tmp_path, None)
        again, kept_again = await decides(tmp_path, None)
        assert again.identity.public == first.identity.public
        assert kept_again == kept

    asyncio.run(body())


@pytest.mark.usefixtures("made_up_recordings")
def test_with_a_join_file_and_no_server_it_decides(tmp_path: Path) -> None:
    from hedgerow.io.keys import Identity

    JoinFile(
        fleet=FLEET,
        url=f"nats://127.0.0.1:{free_port()}",
        coordinator=Identity.create().public,
        jwt="none",
        seed=Identity.create().seed_text(),
    ).save(tmp_path / "join.json")
    asyncio.run(decides(tmp_path, tmp_path / "join.json"))


@pytest.mark.usefixtures("made_up_recordings")
def test_enrolled_once_it_decides_with_the_fleets_model_when_the_fleet_is_gone(
    tmp_path: Path,
) -> None:
    from hedgerow.protocol.fleet import RoundRules
    from hedgerow.serve.fleet import running_fleet

    chosen = CoordinatorSettings(
        fleet=FLEET,
        state=tmp_path / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(cohort=1, quorum=1, rounds=1),
    )

    async def body() -> None:
        async with running_fleet(chosen) as fleet:
            agent = DeviceAgent(settings(tmp_path, 1, fleet.join_path))
            async with running_agents(agent):
                await until(lambda: agent.model.version == 1 and agent.metrics)
            weights = fleet.shell.state.model.hash
        again, _ = await decides(tmp_path, tmp_path / "coordinator" / "join.json")
        assert (again.model.version, again.model.hash) == (1, weights)

    asyncio.run(body())


@pytest.mark.usefixtures("made_up_recordings")
def test_after_a_restart_it_measures_and_personalises_the_model_at_hand(tmp_path: Path) -> None:
    """No publication comes: the fleet is gone. What is at hand is what it needs."""
    from hedgerow.protocol.fleet import RoundRules
    from hedgerow.serve.fleet import running_fleet

    chosen = CoordinatorSettings(
        fleet=FLEET,
        state=tmp_path / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(cohort=1, quorum=1, rounds=1),
    )

    async def body() -> None:
        async with running_fleet(chosen) as fleet:
            first = DeviceAgent(settings(tmp_path, 1, fleet.join_path))
            async with running_agents(first):
                await until(lambda: first.model.version == 1 and first.metrics)
                assert first.store.fact(FACT_BUNDLE) == first.bundle.hash.encode()
                assert first.store.blob(first.bundle.hash) == first.bundle.to_bytes()
        eager = msgspec.structs.replace(
            settings(tmp_path, 1, fleet.join_path), personalise_after_seconds=0.05
        )
        again = DeviceAgent(eager)
        async with running_agents(again):
            await until(lambda: len(again.metrics) == 2)
            assert again.metrics["accuracy"] == first.metrics["accuracy"]
            assert 0 <= again.metrics["accuracy_personalised"] <= 1

    asyncio.run(body())
