"""FedProx: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.fedprox import FedProx
from hedgerow.model.passes import Pass
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like


def test_the_pull_is_the_algorithms_and_the_anchor_is_the_model_that_came() -> None:
    fleet = Fleet(FedProx(pull=0.25), plan=msgspec.structs.replace(PLAN, pull=9.0))
    start = fleet.server.weights
    fleet.round([0])
    (ask,) = fleet.asked
    assert isinstance(ask, Pass)
    assert ask.plan == msgspec.structs.replace(PLAN, pull=0.25)
    assert ask.anchor is not None and ask.anchor.tolist() == start.tolist()
    assert ask.shift is None


def test_without_noise_a_pull_of_one_over_the_rate_leaves_one_step() -> None:
    """w ← w − r·(g + (w − w₀)/r) = w₀ − r·g(w): each step starts over from w₀, by hand."""
    rate = 0.1
    plan = msgspec.structs.replace(PLAN, batch=16, epochs=3)
    fleet = Fleet(FedProx(pull=1 / rate), plan=plan)
    (x, y), w0 = fleet.clients[1], plain.weights().astype(np.float64)
    w = w0
    for _ in range(3):
        w = w0 - rate * plain.gradient(w, x, y)
    assert_like(fleet.round([1]).weights, w)


@pytest.mark.parametrize("batch", [1, 4])
def test_rounds_are_those_of_the_twin(batch: int) -> None:
    fleet = Fleet(FedProx(pull=0.7, momentum=0.3), batch=batch).rounds()
    plan = msgspec.structs.replace(PLAN, pull=0.7)
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), plan, "train", k, turn)
            deltas.append(plain.descend(w, clients[k], rows, plan, anchor=w)[0] - w)
        v = 0.3 * v + plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + v
    assert_like(fleet.server.weights, w)
