"""A coordinator that dies with -9, its embedded NATS server with it, and comes back."""

import asyncio
from pathlib import Path

import numpy as np

from hedgerow.serve.joining import JoinFile
from tests.serve.hosting import (
    START,
    Host,
    coordinator,
    fedavg,
    free_port,
    kept,
    kept_weights,
    running,
    until,
)

SAMPLES = {"ash": 1024, "birch": 512, "cedar": 2048}


def hosts_of(state: Path, home: Path) -> list[Host]:
    join = JoinFile.load(state / "join.json")
    return [Host(name, join, home, samples) for name, samples in SAMPLES.items()]


def test_killed_in_the_middle_of_a_round_it_finishes_that_round(tmp_path: Path) -> None:
    state = tmp_path / "coordinator"

    async def body() -> None:
        settings = {"nats__port": free_port(), "rounds__cohort": 3, "rounds__quorum": 3}
        with coordinator(state, **settings, rounds__rounds=1) as role:
            await role.start("fleet ")
            ash, birch, cedar = hosts = hosts_of(state, tmp_path)
            cedar.trainer.go.clear()
            async with running(*hosts):
                await until(lambda: ash.outcome(1) == birch.outcome(1) == "counted")
                await until(lambda: cedar.trainer.began)
                role.end()
                await until(lambda: not any(host.shell.state.online for host in hosts))
                await role.start("fleet ")
                await until(lambda: all(host.shell.state.online for host in hosts))
                cedar.trainer.go.set()
                await until(lambda: all(host.version == 1 for host in hosts))
                for host in hosts:
                    np.testing.assert_array_equal(host.weights, fedavg(START, SAMPLES, 1))
                    assert host.trainer.began == [1]
                    assert host.updates_sent == 1
                    assert host.receipts == [(f"{host.identity.public}/1/update", "counted")]
            role.end()

    asyncio.run(body())
    np.testing.assert_array_equal(kept_weights(state, 1), fedavg(START, SAMPLES, 1))
    with kept(state) as store:
        assert [(row.number, row.state, row.metrics) for row in store.rounds()] == [
            (1, "closed", {"terms": 3.0})
        ]


def test_killed_right_after_a_round_closed_it_begins_the_next(tmp_path: Path) -> None:
    state = tmp_path / "coordinator"
    after_one = fedavg(START, SAMPLES, 1)
    after_two = fedavg(after_one, SAMPLES, 2)

    async def body() -> None:
        settings = {"nats__port": free_port(), "rounds__cohort": 3, "rounds__quorum": 3}
        with coordinator(state, **settings, rounds__rounds=2, rounds__pause_seconds=1) as role:
            await role.start("fleet ")
            hosts = hosts_of(state, tmp_path)
            async with running(*hosts):
                await until(lambda: any(host.version == 1 for host in hosts))
                role.end()
                await role.start("fleet ")
                await until(lambda: all(host.version == 2 for host in hosts))
                for host in hosts:
                    assert host.trainer.began == [1, 2]
                    np.testing.assert_array_equal(host.weights, after_two)
            role.end()

    asyncio.run(body())
    np.testing.assert_array_equal(kept_weights(state, 1), after_one)
    np.testing.assert_array_equal(kept_weights(state, 2), after_two)


def test_killed_while_idle_it_remembers_who_is_enrolled(tmp_path: Path) -> None:
    state = tmp_path / "coordinator"

    async def body() -> None:
        settings = {"nats__port": free_port(), "rounds__cohort": 3, "rounds__quorum": 3}
        with coordinator(state, **settings, rounds__rounds=1) as role:
            await role.start("fleet ")
            ash, birch, cedar = hosts_of(state, tmp_path)
            async with running(ash, birch):
                await until(lambda: ash.shell.state.online and birch.shell.state.online)
                role.end()
                await role.start("fleet ")
                asked = [host.meter.messages_up["join"] for host in (ash, birch)]
                async with running(cedar):
                    await until(lambda: all(host.version == 1 for host in (ash, birch, cedar)))
                    np.testing.assert_array_equal(cedar.weights, fedavg(START, SAMPLES, 1))
                assert [host.meter.messages_up["join"] for host in (ash, birch)] == asked
            role.end()

    asyncio.run(body())
    with kept(state) as store:
        assert sorted(device.name for device in store.devices()) == sorted(SAMPLES)


def test_killed_again_and_again_at_any_moment_changes_no_bit(tmp_path: Path) -> None:
    state = tmp_path / "coordinator"
    rounds = 60
    wanted = START
    for number in range(1, rounds + 1):
        wanted = fedavg(wanted, SAMPLES, number)

    async def body() -> None:
        settings = {"nats__port": free_port(), "rounds__cohort": 3, "rounds__quorum": 3}
        with coordinator(state, **settings, rounds__rounds=rounds) as role:
            await role.start("fleet ")
            hosts = hosts_of(state, tmp_path)
            async with running(*hosts):
                for mark in (3, 11, 12, 30):  # the loop here sees it a random moment later
                    await until(lambda mark=mark: hosts[mark % 3].version >= mark)  # type: ignore[misc]
                    role.end()
                    await role.start("fleet ")
                await until(lambda: all(host.version == rounds for host in hosts))
                for host in hosts:
                    assert host.trainer.began == list(range(1, rounds + 1))
                    np.testing.assert_array_equal(host.weights, wanted)
            role.end()

    asyncio.run(body())
    np.testing.assert_array_equal(kept_weights(state, rounds), wanted)
