"""Rounds with real links where not everybody answers."""

import asyncio
from pathlib import Path

import numpy as np

from hedgerow.protocol import device as machine
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from tests.serve.hosting import FLEET, START, Host, fedavg, running, seconds, until

FAST = {"ash": 1024, "birch": 512}


def chosen(state: Path, rules: RoundRules) -> CoordinatorSettings:
    return CoordinatorSettings(fleet=FLEET, state=state, nats=NatsSettings(port=0), rounds=rules)


def test_an_over_selected_round_waits_for_no_straggler(tmp_path: Path) -> None:
    rules = RoundRules(
        cohort=2, quorum=2, over_selection=0.34, deadline_seconds=60, retry_seconds=0.2, rounds=4
    )

    async def body() -> None:
        async with running_fleet(chosen(tmp_path / "coordinator", rules)) as fleet:
            join = JoinFile.load(fleet.join_path)
            fast = [Host(name, join, tmp_path, samples) for name, samples in FAST.items()]
            slow = Host("cedar", join, tmp_path)
            for host in (*fast, slow):
                host.trainer.go.clear()
            async with running(*fast):
                await until(lambda: all(host.trainer.began == [1] for host in fast))
                async with running(slow):
                    await until(lambda: len(fleet.shell.state.members) == 3)
                    await until(lambda: all(m.samples for m in fleet.shell.state.members.values()))
                    for host in fast:
                        host.trainer.go_once(1)
                    for number in (2, 3, 4):
                        await until(lambda number=number: slow.trainer.began[-1:] == [number])  # type: ignore[misc]
                        for host in fast:
                            host.trainer.go_once(number)
                    await until(lambda: fleet.shell.state.rounds_done == 4)
                    # Each time it was stopped, as its round had been closed without it.
                    await until(lambda: slow.trainer.stopped == [2, 3, 4])
                    await until(lambda: slow.version == 4)
                    assert slow.updates_sent == 0
            assert fleet.shell.state.outcomes == {"counted": 8}
            wanted = START
            for number in (1, 2, 3, 4):
                wanted = fedavg(wanted, FAST, number)
            np.testing.assert_array_equal(fleet.shell.weights, wanted)

    asyncio.run(body())


def test_an_owner_who_pauses_sharing_gets_silence_until_it_is_resumed(tmp_path: Path) -> None:
    rules = RoundRules(cohort=2, quorum=1, deadline_seconds=60, retry_seconds=0.2, rounds=3)

    async def body() -> None:
        async with running_fleet(chosen(tmp_path / "coordinator", rules)) as fleet:
            join = JoinFile.load(fleet.join_path)
            ash, birch = (Host(name, join, tmp_path, samples) for name, samples in FAST.items())
            for host in (ash, birch):
                host.trainer.go.clear()
            async with running(ash):
                await until(lambda: ash.trainer.began == [1])
                async with running(birch):
                    await until(lambda: len(fleet.shell.state.members) == 2)
                    await until(lambda: all(m.samples for m in fleet.shell.state.members.values()))
                    ash.trainer.go_once(1)
                    await until(lambda: birch.trainer.began == ash.trainer.began[1:] == [2])
                    birch.shell.handle(machine.PauseSharing(True))  # in the middle of training
                    await until(lambda: birch.trainer.stopped == [2])
                    ash.trainer.go_once(2)  # the round is settled without birch
                    await until(lambda: ash.trainer.began == [1, 2, 3])
                    sent = birch.meter.messages_up["note"]
                    birch.shell.on_state(True)  # as after a reconnection: no word of it
                    await seconds(2.5)  # two check-ins would have been due
                    assert birch.meter.messages_up["note"] == sent
                    assert birch.updates_sent == 0
                    birch.shell.handle(machine.PauseSharing(False))
                    birch.trainer.go.set()
                    ash.trainer.go.set()
                    await until(lambda: fleet.shell.state.rounds_done == 3)
                    await until(lambda: birch.version == 3)
            assert fleet.shell.state.outcomes["counted"] in {3, 4}  # birch may be back for round 3

    asyncio.run(body())
