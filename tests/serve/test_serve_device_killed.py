"""A device that dies with -9 comes back as the same device, with what it had not delivered."""

import asyncio
import sqlite3
from pathlib import Path

import numpy as np

from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.device import FACT_ENROLMENT
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from tests.serve.hosting import (
    FLEET,
    START,
    Host,
    Role,
    coordinator,
    fedavg,
    free_port,
    kept_weights,
    running,
    until,
)

RULES = RoundRules(cohort=2, quorum=2, deadline_seconds=60, retry_seconds=0.2, rounds=1)
UPDATES = {"ash": 1024, "birch": 1024}


def slow_device(join: Path, home: Path, name: str) -> Role:
    arguments = ("tests.serve.slow_device", str(join), str(home), name)
    return Role(home / f"{name} said", *arguments)


def identity_of(state: Path) -> tuple[str, bytes | None]:
    store = DeviceStore(state / "device.db")
    try:
        return (state / "device.nk").read_text(), store.fact(FACT_ENROLMENT)
    finally:
        store.close()


def test_killed_in_training_it_rejoins_and_its_update_counts(tmp_path: Path) -> None:
    settings = CoordinatorSettings(
        fleet=FLEET, state=tmp_path / "coordinator", nats=NatsSettings(port=0), rounds=RULES
    )
    began = tmp_path / "birch" / "began"

    async def body() -> None:
        async with running_fleet(settings) as fleet:
            ash = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            async with running(ash):
                with slow_device(fleet.join_path, tmp_path, "birch") as birch:
                    await birch.start()
                    await until(began.exists)
                    await until(lambda: ash.outcome(1) == "counted")
                    birch.end()
                    before = identity_of(tmp_path / "birch")
                    assert before[1] is not None
                    await birch.start()
                    await until(lambda: began.read_text() == "1\n1\n")
                    (tmp_path / "birch" / "go").touch()
                    await until(lambda: fleet.shell.state.rounds_done == 1)
                    birch.end()
                    assert identity_of(tmp_path / "birch") == before
                assert ash.trainer.began == [1]
            assert fleet.shell.state.outcomes == {"counted": 2}
            assert len(fleet.shell.state.members) == 2
            np.testing.assert_array_equal(fleet.shell.weights, fedavg(START, UPDATES, 1))

    asyncio.run(body())


def test_killed_with_an_update_nobody_took_it_sends_that_one_later(tmp_path: Path) -> None:
    """No second training: what was learned lies in the outbox."""
    state = tmp_path / "coordinator"
    settings = {"nats__port": free_port(), "rounds__cohort": 2, "rounds__quorum": 2}
    birch_state = tmp_path / "birch"

    async def body() -> None:
        with coordinator(state, **settings, rounds__rounds=1) as role:
            await role.start("fleet ")
            ash = Host("ash", JoinFile.load(state / "join.json"), tmp_path)
            async with running(ash):
                with slow_device(state / "join.json", tmp_path, "birch") as birch:
                    await birch.start()
                    await until((birch_state / "began").exists)
                    role.end()
                    (birch_state / "go").touch()
                    await until(lambda: waits_in_outbox(birch_state))
                    birch.end()
                    await birch.start()
                    await role.start("fleet ")
                    await until(lambda: ash.version == 1)
                    birch.end()
            role.end()

    asyncio.run(body())
    assert (birch_state / "began").read_text() == "1\n"
    np.testing.assert_array_equal(kept_weights(state, 1), fedavg(START, UPDATES, 1))


def waits_in_outbox(state: Path) -> bool:
    """Whether an update lies in the outbox of a device that runs, by its database alone."""
    with sqlite3.connect(f"file:{state / 'device.db'}?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM outbox").fetchone()
    database.close()
    return bool(count == 1)
