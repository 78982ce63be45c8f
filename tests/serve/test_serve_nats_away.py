"""The NATS server dies in the middle of a round and comes back. `SOAK_OUTAGE_SECONDS=60` makes it
stay away for a minute."""

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from hedgerow.core.layout import Vector
from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.fleet import Fleet, running_fleet
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.wire.weights import from_bytes
from tests.serve.agents import HeldAgent, made_up_recordings, running_agents, settings
from tests.serve.hosting import FLEET, START, Role, free_port, seconds, until

OUTAGE_SECONDS = float(os.environ.get("SOAK_OUTAGE_SECONDS", "3"))
RULES = RoundRules(cohort=2, quorum=2, deadline_seconds=600, retry_seconds=0.2, rounds=3)

__all__ = ["made_up_recordings"]


def mean_of(agents: list[HeldAgent], number: int) -> Vector:
    """FedAvg over what the agents learned, from what they handed over."""
    total, weight_total = np.zeros(len(START), np.int64), 0
    for agent in agents:
        outcome = agent.outcomes[number]
        weight = outcome.samples / 1024
        term = from_bytes(outcome.payloads[0]).astype(np.float64) * weight
        total += np.rint(term * 2.0**32).astype(np.int64)
        weight_total += round(weight * 2.0**32)
    return (total.astype(np.float64) / weight_total).astype(np.float32)


async def run_through_outage(fleet: Fleet, server: Role, agents: list[HeldAgent]) -> None:
    early, late = agents
    await until(lambda: early.began == late.began == [1])
    assert server.end() == -signal.SIGKILL
    before = [agent.windows for agent in agents]
    early.go.set()  # done while nobody can be told
    await until(lambda: waiting(early.store) == 1)
    await seconds(OUTAGE_SECONDS)
    assert fleet.shell.state.outcomes == {}
    # It senses and decides all along: about 40 windows a second here, on a busy machine fewer.
    for agent, windows in zip(agents, before, strict=True):
        assert agent.windows > windows + 5 * OUTAGE_SECONDS
        assert agent.decision is not None
    await server.start("NATS at")
    late.go.set()
    await until(lambda: fleet.shell.state.rounds_done == RULES.rounds)
    await until(lambda: all(agent.model.version == RULES.rounds for agent in agents))
    await until(lambda: not any(waiting(agent.store) for agent in agents))


def waiting(store: DeviceStore) -> int:
    return len(store.outbox())


@pytest.mark.usefixtures("made_up_recordings")
@pytest.mark.timeout(120 + 2 * OUTAGE_SECONDS)
def test_nats_away_in_the_middle_of_a_round_loses_nothing(tmp_path: Path) -> None:
    state, port = tmp_path / "coordinator", free_port()
    chosen = CoordinatorSettings(
        fleet=FLEET, state=state, nats=NatsSettings(url=f"nats://127.0.0.1:{port}"), rounds=RULES
    )
    arguments = ("--fleet", FLEET, "--state", str(state), f"--set=nats.port={port}")

    async def body() -> None:
        with Role(tmp_path / "said", "hedgerow", "server", *arguments) as server:
            await server.start("NATS at")
            async with running_fleet(chosen) as fleet:
                agents = [HeldAgent(settings(tmp_path, w, fleet.join_path)) for w in (1, 2)]
                for agent in agents:
                    agent.go.clear()
                async with running_agents(*agents):
                    await run_through_outage(fleet, server, agents)
                assert [agent.began for agent in agents] == [[1, 2, 3]] * 2
                assert fleet.shell.state.outcomes == {"counted": 6}
                wanted = START
                for number in (1, 2, 3):
                    wanted = wanted + mean_of(agents, number)
                np.testing.assert_array_equal(fleet.shell.weights, wanted)
            assert server.end(signal.SIGTERM) == 0

    asyncio.run(body())
