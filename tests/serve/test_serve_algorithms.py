"""Every algorithm runs on a real fleet by one line of TOML; what a device keeps never leaves it."""

import asyncio
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.core.errors import UsageError
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.keeping import FACT_SERVER
from hedgerow.wire.vectors import unpack
from tests.serve.hosting import START, Host, free_port, kept, running, until
from tests.serve.learners import LearningHost, coordinator_settings

KINDS = {str(kind.__struct_config__.tag): kind for kind in typing.get_args(AnyAlgorithm)}
STC = 'stages = [{name = "topk", share = 0.02}, {name = "ternary"}]\nfeedback = true\n'
FOUR_BITS = 'stages = [{name = "quantise", bits = 4}]\nfeedback = true\n'


def run(
    home: Path, text: str, rounds: int = 2, **flags: Any
) -> tuple[list[LearningHost], np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """A fleet of two devices with these settings until its rounds are done; its model."""

    async def body() -> tuple[list[LearningHost], Any]:
        chosen = coordinator_settings(home, text, rounds__rounds=rounds, **flags)
        async with running_fleet(chosen) as fleet:
            join = JoinFile.load(fleet.join_path)
            hosts = [
                LearningHost("ash", join, home, 1),
                LearningHost("birch", join, home, 2),
            ]
            async with running(*hosts):
                await until(lambda: fleet.shell.state.phase == "done")
                last = fleet.shell.state.model.version
                await until(lambda: all(host.version == last for host in hosts))
                for host in hosts:
                    host.shell._keep_soft()
            counted = {"counted", "late", "duplicate"}
            assert set(fleet.shell.state.outcomes) <= counted, fleet.shell.state.outcomes
            return hosts, fleet.shell.weights

    return asyncio.run(body())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_one_line_changes_the_algorithm(name: str, tmp_path: Path) -> None:
    hosts, weights = run(tmp_path, f'[algorithm]\nname = "{name}"\n')
    assert np.isfinite(weights).all()
    assert not np.array_equal(weights, START)
    for host in hosts:
        memory = host.learner.memory
        assert memory.algorithm is not None
        assert str(memory.algorithm.__struct_config__.tag) == name
        assert set(memory.kept) == set(KINDS[name].keeps)
        blob = host.shell._blob(host.shell.state.model.hash)
        served = host.learner.serving(blob)
        assert served.shape == START.shape
        assert np.isfinite(served).all()


def test_an_algorithm_nobody_knows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fedsomething"):
        coordinator_settings(tmp_path, '[algorithm]\nname = "fedsomething"\n')


def test_a_codec_and_patches_by_toml(tmp_path: Path) -> None:
    text = (
        f'[codec]\n{STC}[codec.down]\nstages = [{{name = "quantise", bits = 4}}]\nfeedback = true\n'
    )
    hosts, weights = run(tmp_path, text, rounds=4)
    assert np.isfinite(weights).all()
    for host in hosts:
        assert set(host.learner.memory.residuals) == {"delta"}
        np.testing.assert_array_equal(host.weights[: len(START)], weights)
        # Four models came, the first of them whole at most: the others as patches of an eighth.
        assert host.meter.bytes_down["blob"] < 2 * 4 * len(START)
        assert host.meter.bytes_up["update"] < 4 * 4 * len(START) / 10


def test_what_was_kept_for_another_algorithm_is_dropped(tmp_path: Path) -> None:
    """The same fleet goes on with another algorithm, and then with the first one again."""
    state, port = tmp_path / "coordinator", free_port()
    run(tmp_path, '[algorithm]\nname = "scaffold"\n', rounds=1, nats__port=port)
    with kept(state) as store:
        assert "model/control" in unpack(store.fact(FACT_SERVER) or b"", "scaffold")
    text = '[algorithm]\nname = "fedavg"\nmomentum = 0.5\n'
    hosts, weights = run(tmp_path, text, rounds=2, nats__port=port)
    with kept(state) as store:
        assert unpack(store.fact(FACT_SERVER) or b"", "scaffold") == {}
        server = unpack(store.fact(FACT_SERVER) or b"", "fedavg")
    assert set(server) == {"model/weights", "kept/velocity"}
    np.testing.assert_array_equal(server["model/weights"], weights)
    assert all(host.learner.memory.kept == {} for host in hosts)
    hosts, _ = run(tmp_path, '[algorithm]\nname = "ditto"\n', rounds=3, nats__port=port)
    assert all(set(host.learner.memory.kept) == {"personal"} for host in hosts)


def test_without_rounds_devices_go_at_their_own_pace(tmp_path: Path) -> None:
    """One device is held at its first offer while the other two make versions without it."""

    async def body() -> None:
        chosen = coordinator_settings(
            tmp_path,
            '[algorithm]\nname = "fedbuff"\nbuffer = 2\n',
            rounds__rounds=4,
            rounds__cohort=3,
            rounds__devices_min=3,
        )
        async with running_fleet(chosen) as fleet:
            join = JoinFile.load(fleet.join_path)
            names = ("ash", "birch", "cedar")
            ash, birch, cedar = hosts = [Host(name, join, tmp_path) for name in names]
            cedar.trainer.go.clear()
            async with running(*hosts):
                await until(lambda: fleet.shell.state.rounds_done == 3)
                assert cedar.trainer.began == [1]
                assert ash.trainer.ended[:3] == birch.trainer.ended[:3] == [1, 2, 3]
                ash.trainer.go.clear()
                cedar.trainer.go_once(1)
                await until(lambda: cedar.outcome(1) is not None)
                assert cedar.outcome(1) == "counted"  # three versions late
                ash.trainer.go.set()
                await until(lambda: fleet.shell.state.phase == "done")
            assert fleet.shell.state.outcomes["late"] <= 2

    asyncio.run(body())
