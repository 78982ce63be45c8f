"""SCAFFOLD: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import LocalTask, Mean, Server
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Losses, Pass, Trained
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def no_losses(ask: Losses) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    raise AssertionError(ask)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_control_is_the_mean_gradient_by_hand(momentum: float, strength: float) -> None:
    """Three steps on a loss whose gradient is [3, −1] everywhere."""
    plan = LocalPlan(rate=0.1, momentum=momentum)
    far = 0.1 * (1 + 1.5 + 1.75 if momentum else 3)

    def train(ask: Pass) -> Trained:
        assert ask.shift is not None
        moved = ask.weights - np.float32(far) * (vector(3, -1) + ask.shift)
        return Trained(moved, np.array([3, 3]), np.array([3, 3]), np.array([1.0, 1.0]))

    task = LocalTask(
        np.tile(vector(1, 1), (2, 1)),
        {"control": vector(2, 2)},
        {"control": np.stack([vector(0, 0), vector(1, 3)])},
        np.array([True, False]),
        np.array([5, 5]),
        plan,
        Layout((TensorSpec("w", (2,)),)),
    )
    done = drive(Scaffold(strength=strength).local(task), train, no_losses)
    # The first is new: no shift. The second's is strength · ([2, 2] − [1, 3]).
    shift = strength * np.array([1, -1])
    np.testing.assert_allclose(done.sends["delta"][0], -far * np.array([3, -1]), rtol=1e-5)
    np.testing.assert_allclose(
        done.sends["delta"][1], -far * (np.array([3, -1]) + shift), rtol=1e-5
    )
    np.testing.assert_allclose(done.kept["control"], [[3, -1], [3, -1]], rtol=1e-5)
    np.testing.assert_allclose(done.sends["control"], [[3, -1], [2, -4]], rtol=1e-5)


def test_the_servers_control_moves_by_the_share_of_the_fleet_that_took_part() -> None:
    server = Server({"weights": vector(1, 1), "control": vector(4, 0)}, {"velocity": vector(0, 0)})
    mean = Mean({"delta": vector(1, 2), "control": vector(8, -8)}, {}, 3.0, 2)
    after = Scaffold(rate=0.5).server(server, {0: mean}, 8)
    assert after.weights.tolist() == [1.5, 2]
    assert after.model["control"].tolist() == [6, -2]  # + 2/8 · [8, −8]


@pytest.mark.parametrize(("momentum", "batch"), [(0.0, 1), (0.0, 4), (0.6, 2)])
def test_rounds_are_those_of_the_twin(momentum: float, batch: int) -> None:
    plan = msgspec.structs.replace(PLAN, momentum=momentum)
    fleet = Fleet(Scaffold(), plan=plan, batch=batch).rounds()
    clients, w, c = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    own: dict[int, plain.Wide] = {}
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas, changes = [], []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), plan, "train", k, turn)
            shift = c - own[k] if k in own else np.zeros(17)
            after, steps = plain.descend(w, clients[k], rows, plan, shift=shift)
            path, speed = 0.0, 0.0
            for _ in range(steps):
                speed = momentum * speed + 1
                path += speed
            new = -shift + (w - after) / (plan.rate * path)
            deltas.append(after - w)
            changes.append(new - own.get(k, np.zeros(17)))
            own[k] = new
        sizes = [plain.SIZES[k] for k in chosen]
        w = w + plain.mean(deltas, sizes)
        c = c + len(chosen) / 4 * plain.mean(changes, sizes)
    assert_like(fleet.server.weights, w, 1e-5)
    assert_like(fleet.server.model["control"], c, 1e-5)
    for k, control in own.items():
        assert_like(fleet.kept[k]["control"], control, 1e-5)


def test_without_a_step_the_control_stays() -> None:
    fleet = Fleet(Scaffold()).rounds([[0, 1]])
    before = fleet.kept[0]["control"]
    fleet.plan = msgspec.structs.replace(PLAN, rate=0.0)
    fleet.round([0])
    assert np.array_equal(fleet.kept[0]["control"], before)
    assert not fleet.contributions[-1].sends["control"].any()
