"""A fleet of devices that cannot all afford the whole model."""

import asyncio
from importlib import resources
from pathlib import Path

import numpy as np

from hedgerow.algorithms.selection import Memory
from hedgerow.core.layout import Vector
from hedgerow.model.bundle import Bundle
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.windows import WindowSet
from tests.serve.hosting import running, until
from tests.serve.learners import LearningHost, coordinator_settings

PATH = Path(str(resources.files("hedgerow.bench.models") / "digits.hedgerow"))
BUNDLE = Bundle.load(PATH)
SIZES = [part.layout.size for part in BUNDLE.parts]
NARROW = SIZES[-1] / SIZES[0] + 1e-6
"""Room for the narrowest width and for no other."""
INSIDE = np.isin(np.arange(SIZES[0]), BUNDLE.parts[-1].index)


def pictures(seed: int) -> WindowSet:
    """Twenty made-up pictures `[20, 1, 784]`, two of each digit."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (20, 1, 784)).astype(np.float32)
    return WindowSet(x, np.repeat(np.arange(10), 2))


def run(home: Path, *capacities: float, policy: str = "uniform") -> tuple[Vector, Memory]:
    """Two rounds of a fleet of two such devices: how far the model went, and what selection saw."""
    text = (
        f'app = "{PATH}"\n[algorithm]\nname = "resource_aware"\nwidths = {len(SIZES)}\n'
        f'[selection]\npolicy = "{policy}"\n'
    )

    async def body() -> tuple[Vector, Memory]:
        async with running_fleet(coordinator_settings(home, text)) as fleet:
            join = JoinFile.load(fleet.join_path)
            hosts = [
                LearningHost(
                    *(f"device-{place}", join, home, place),
                    bundle=BUNDLE,
                    windows=pictures(place),
                    capacity=capacity,
                )
                for place, capacity in enumerate(capacities)
            ]
            async with running(*hosts):
                await until(lambda: fleet.shell.state.phase == "done")
                await until(lambda: all(host.version == 2 for host in hosts))
            assert fleet.shell.state.outcomes == {"counted": 4}
            for host, capacity in zip(hosts, capacities, strict=True):
                size = SIZES[-1] if capacity < 1 else SIZES[0]
                assert 0 < host.meter.bytes_up["update"] - 2 * 4 * size < 2_000
            memory = fleet.shell.state.memory
            past = {host.name: memory.past.get(host.identity.public) for host in hosts}
            known = {name: one for name, one in past.items() if one is not None}
            return fleet.shell.weights - BUNDLE.weights, Memory(past=known)

    return asyncio.run(body())


def test_a_narrow_device_counts_beside_a_whole_one(tmp_path: Path) -> None:
    moved, _ = run(tmp_path, 1.0, NARROW)
    assert moved[INSIDE].any()
    assert moved[~INSIDE].any()


def test_devices_that_are_all_narrow_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    moved, _ = run(tmp_path, NARROW, NARROW)
    assert moved[INSIDE].any()
    assert not moved[~INSIDE].any()


def test_only_whole_updates_are_compared_with_each_other(tmp_path: Path) -> None:
    _, memory = run(tmp_path, 1.0, NARROW, policy="fedacs")
    assert memory.past["device-0"].reward == 0  # there is no other to differ from
    assert memory.past["device-1"].reward is None
