"""What an agent decides reaches its fleet, beside what it learns; and all that left is written."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.forwarding import ForwardRules
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from tests.serve.agents import made_up_recordings, running_agents, settings
from tests.serve.hosting import FLEET, until

__all__ = ["made_up_recordings"]


@pytest.mark.usefixtures("made_up_recordings")
def test_decisions_go_up_beside_updates_over_a_restart(tmp_path: Path) -> None:
    hub = CoordinatorSettings(
        fleet=FLEET,
        state=tmp_path / "coordinator",
        nats=NatsSettings(port=0),
        rounds=RoundRules(cohort=1, quorum=1, rounds=2),
    )

    def device(join: Path | None) -> DeviceAgent:
        rules = ForwardRules(exceptions="changes", summary_seconds=1.0)
        return DeviceAgent(msgspec.structs.replace(settings(tmp_path, 1, join), forward=rules))

    async def body() -> None:
        alone = device(None)
        async with running_agents(alone):
            await until(lambda: alone.store.outbox_count() > 3)
        async with running_fleet(hub) as fleet:
            agent = device(fleet.join_path)  # with what it had to say before it was in a fleet
            async with running_agents(agent):
                await until(lambda: agent.model.version == 2 and agent.forwarder.sent > 6)
                await until(lambda: sum(fleet.events.store.sums().values()) >= 6)
            told = {kind for _, kind in fleet.events.store.sums(agent.identity.public)}
            assert "summary" in told
            assert fleet.events.again == 0
        record = agent.egress
        assert record.verify().good
        kinds = record.totals().kinds
        assert {"login", "enrol", "check_in", "accept", "update", "report", "events"} <= set(kinds)
        assert record.totals().bytes - kinds["login"].bytes == agent.meter.total_up

    asyncio.run(body())
