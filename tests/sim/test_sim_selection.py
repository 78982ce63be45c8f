"""Policies in a simulated fleet: what they hear, and that they act on it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.selection import (
    AnyPolicy,
    FedACS,
    FedLECC,
    Oort,
    last_layer,
    skew_rewards,
)
from hedgerow.model.bundle import Bundle
from hedgerow.model.samples import Samples
from hedgerow.sim.data import ArrayData
from hedgerow.sim.devices import DeviceSettings, Tier
from hedgerow.sim.postage import client_of
from tests.sim.small_world import experiment, moving, run_out, watch_bundle

MODES = ("rounds", "fleet")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return watch_bundle()


def picks(world: Any) -> Counter[int]:
    """How often each client was picked so far, by what the policy remembers."""
    memory = world.memory if hasattr(world, "memory") else world.state.memory
    number = int if hasattr(world, "memory") else client_of
    return Counter({number(name): past.picked for name, past in memory.past.items()})


def later_picks(bundle: Bundle, mode: str, policy: AnyPolicy, **settings: Any) -> Counter[int]:
    """Picks of the second half of 40 rounds of 6 out of 28."""
    rules = {"cohort": 6, "quorum": 6, "rounds": 40, "deadline_seconds": 1e5}
    chosen = experiment(mode=mode, selection=policy, rounds=rules, **settings)
    world, _ = moving(bundle, chosen, 28)
    for _ in range(20):
        world.step()
    before = picks(world)
    return picks(run_out(world)) - before


def test_policies_hear_in_rounds_what_they_go_by(bundle: Bundle) -> None:
    rules = {"cohort": 5, "quorum": 5, "rounds": 3}
    world, engine = moving(bundle, experiment(selection=FedACS(), rounds=rules))
    world.step()
    (duel,) = world.memory.duels
    chosen = [int(name) for name, _ in duel]
    layout = bundle.manifest.layout
    first = world.bundle.weights[: layout.shared_size]
    deltas = np.stack([engine.goal(client)[: len(first)] - first for client in chosen]) * 0.3
    wanted = skew_rewards(engine.data.counts[chosen], [deltas[:, last_layer(layout)]])
    assert [reward for _, reward in duel] == pytest.approx(wanted.tolist(), abs=1e-5)
    seconds = [world.memory.past[name].seconds for name, _ in duel]
    assert len(duel) == 5 and seconds == pytest.approx(world._work(np.array(chosen)).tolist())

    world, _ = moving(bundle, experiment(selection=FedLECC(), rounds=rules))
    assert {candidate.labels for candidate in world._candidates(0)} == {(8.0,)}
    world, _ = moving(bundle, experiment(selection=Oort(), rounds=rules))
    assert {candidate.labels for candidate in world._candidates(0)} == {None}


def test_fedlecc_takes_from_every_cluster_of_labels(bundle: Bundle) -> None:
    # 24 clients in four groups of labels; a quarter of each round comes from each.
    rows = [np.arange(k * 8, (k + 1) * 8) for k in range(24)]
    y = np.repeat(np.arange(24) // 6, 8)
    x = np.zeros((len(y), 1), np.float32)
    data = ArrayData(x, y, rows, test=Samples(x[:1], y[:1]))
    policy = FedLECC(clusters=4, clusters_taken=4, fairness_share=0)
    rules = {"cohort": 8, "quorum": 8, "rounds": 4}
    world, engine = moving(bundle, experiment(selection=policy, rounds=rules), data=data)
    run_out(world)
    assert [Counter(k // 6 for k in call) for call in engine.calls] == [
        Counter(dict.fromkeys(range(4), 2))
    ] * 4


@pytest.mark.parametrize("mode", MODES)
def test_fedacs_comes_to_prefer_whose_change_is_like_the_mean(bundle: Bundle, mode: str) -> None:
    # Client k's goal lies (k mod 7 − 3) tenths off the middle: 3 is most like all, 0 and 6 least.
    found = later_picks(bundle, mode, FedACS(extension=1, rounds=20, fairness_share=0))
    by_goal = Counter[int]()
    for client, count in found.items():
        by_goal[abs(client % 7 - 3)] += count
    # Of the 28, four have distance 0 and eight each of the others.
    assert by_goal[0] / 4 > 2 * by_goal[3] / 8
    assert (by_goal[0] + by_goal[1]) / 12 > 1.4 * (by_goal[2] + by_goal[3]) / 16


@pytest.mark.parametrize("mode", MODES)
def test_oort_comes_to_avoid_the_slow(bundle: Bundle, mode: str) -> None:
    devices = DeviceSettings(tiers=(Tier(weight=3), Tier(slower=50)))
    policy = Oort(explore=0.3, explore_min=0, fairness_share=0, quantile=0.5)
    slow = np.flatnonzero(moving(bundle, experiment(devices=devices), 28)[0].devices.tier == 1)
    found = later_picks(bundle, mode, policy, devices=devices)
    taken = sum(found[client] for client in slow.tolist())
    share = taken / found.total()
    assert len(slow) >= 4 and share < 0.5 * len(slow) / 28
