"""The same updates give the same model, bit for bit, in whatever order they arrive."""

import asyncio
from functools import partial
from pathlib import Path

from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from tests.serve.hosting import FLEET, START, Host, fedavg, running, until

SAMPLES = {"ash": 1024, "birch": 333, "cedar": 2048, "dogwood": 77}


def model_hash(home: Path, orders: list[list[str]]) -> tuple[str, list[float]]:
    """The fleet's last model after a round in each of these orders of arrival."""

    async def body() -> tuple[str, list[float]]:
        rules = RoundRules(cohort=4, quorum=4, rounds=len(orders))
        settings = CoordinatorSettings(
            fleet=FLEET, state=home / "fleet", nats=NatsSettings(port=0), rounds=rules
        )
        async with running_fleet(settings) as fleet:
            join = JoinFile.load(fleet.join_path)
            hosts = {name: Host(name, join, home, samples) for name, samples in SAMPLES.items()}
            for host in hosts.values():
                host.trainer.go.clear()
            async with running(*hosts.values()):
                for number, order in enumerate(orders, start=1):
                    for name in order:
                        host = hosts[name]
                        host.trainer.go_once(number)
                        await until(partial(counted, host, number))
                await until(lambda: fleet.shell.state.phase == "done")
            return fleet.shell.state.model.hash, fleet.shell.weights.tolist()

    return asyncio.run(body())


def counted(host: Host, number: int) -> bool:
    return host.outcome(number) == "counted"


def test_the_order_of_arrival_changes_no_bit(tmp_path: Path) -> None:
    names = list(SAMPLES)
    one, weights = model_hash(tmp_path / "one", [names, names[::-1]])
    two, _ = model_hash(tmp_path / "two", [["dogwood", "ash", "cedar", "birch"], names])
    assert one == two
    expected = fedavg(fedavg(START, SAMPLES, 1), SAMPLES, 2)
    assert weights == expected.tolist()
