"""FedDyn: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import Mean, Server
from hedgerow.algorithms.feddyn import FedDyn
from hedgerow.model.passes import Pass
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_the_servers_half_by_hand() -> None:
    server = Server({"weights": vector(1, 1)}, {"h": vector(0.5, 0)})
    mean = Mean({"delta": vector(1, -2)}, {}, 3.0, 2)
    after = FedDyn(alpha=0.5).server(server, {0: mean}, 4)
    # h = [0.5, 0] − 0.5 · 2/4 · [1, −2] = [0.25, 0.5];  w = [1, 1] + [1, −2] − 2·h
    assert after.kept["h"].tolist() == [0.25, 0.5]
    assert after.weights.tolist() == [1.5, -2]


def test_the_devices_half_by_hand() -> None:
    fleet = Fleet(FedDyn(alpha=0.5, ascent=0.2), plan=msgspec.structs.replace(PLAN, pull=0.25))
    start = fleet.server.weights
    fleet.round([0])
    (ask,) = fleet.asked
    assert isinstance(ask, Pass) and ask.shift is not None and ask.anchor is not None
    assert (ask.plan.pull, ask.ascent) == (0.75, 0.2)
    assert not ask.shift.any() and np.array_equal(ask.anchor, start)
    moved = fleet.contributions[0].sends["delta"][0]
    np.testing.assert_allclose(fleet.kept[0]["gradient"], -0.5 * moved)
    fleet.round([0])
    again = fleet.asked[-1]
    assert isinstance(again, Pass) and again.shift is not None
    np.testing.assert_allclose(again.shift[0], 0.5 * moved)


@pytest.mark.parametrize("batch", [1, 3])
def test_rounds_are_those_of_the_twin(batch: int) -> None:
    alpha = 0.4
    fleet = Fleet(FedDyn(alpha=alpha), batch=batch).rounds()
    plan = msgspec.structs.replace(PLAN, pull=alpha)
    clients, w, h = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    own = [np.zeros(17) for _ in clients]
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), plan, "train", k, turn)
            after, _ = plain.descend(w, clients[k], rows, plan, anchor=w, shift=-own[k])
            own[k] = own[k] - alpha * (after - w)
            deltas.append(after - w)
        moved = plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        h = h - alpha * len(chosen) / 4 * moved
        w = w + moved - h / alpha
    assert_like(fleet.server.weights, w, 1e-5)
    assert_like(fleet.server.kept["h"], h, 1e-5)
    for k, row in enumerate(own):
        assert_like(fleet.kept[k]["gradient"], row, 1e-5)


def test_where_all_agree_it_comes_to_rest_at_the_minimum_of_the_sum() -> None:
    """Quadratics with minima 0 and 4, by hand: FedAvg with exact local minima would rest at 2 too,
    but with curvatures 1 and 3 it does not: the minimum of the sum is 3.
    """
    minima, curvatures, alpha = np.array([0.0, 4.0]), np.array([1.0, 3.0]), 1.0
    algorithm, server, own = FedDyn(alpha=alpha), FedDyn(alpha=alpha).begin(vector(0)), np.zeros(2)
    for _ in range(200):
        start = float(server.weights[0])
        # 0 = c·(w − m) − own + α·(w − start)
        ends = (curvatures * minima + own + alpha * start) / (curvatures + alpha)
        own -= alpha * (ends - start)
        mean = Mean({"delta": vector(float((ends - start).mean()))}, {}, 2.0, 2)
        server = algorithm.server(server, {0: mean}, 2)
    assert server.weights[0] == pytest.approx(3.0, abs=1e-3)
