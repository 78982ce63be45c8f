"""FedBuff: what it says to the coordinator, the weights by hand, and a plain asynchronous twin."""

import numpy as np
import pytest

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.terms import mean_in_group
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_it_alone_takes_updates_as_they_come() -> None:
    assert FedBuff().asynchronous and not FedAvg().asynchronous
    assert (FedBuff().buffer, FedBuff().staleness_max) == (10, 20)


def test_the_mean_of_a_fresh_and_an_old_update_by_hand() -> None:
    algorithm, layout = FedBuff(buffer=2), plain.layout()
    total = ExactSum(17)
    for values, staleness in ((1.0, 0), (4.0, 3)):
        weight = algorithm.weighting.of(1024, staleness, 1.0)
        total.add(to_fixed(np.full(17, values, np.float32), weight), weight_to_fixed(weight))
    server = algorithm.begin(np.zeros(17, np.float32))
    after = algorithm.server(server, {0: mean_in_group(algorithm, layout, total)}, 50)
    # weights 1 and (1 + 3)^−½ = ½:  (1 · 1 + ½ · 4) / 1½ = 2
    assert after.weights.tolist() == [2.0] * 17


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_arrivals_out_of_order_are_those_of_the_twin(momentum: float) -> None:
    """Two arrivals make a version; each device trains from whatever version it had."""
    algorithm = FedBuff(buffer=2, rate=0.8, momentum=momentum)
    fleet = Fleet(algorithm)
    arrivals = [(0, 0), (2, 0), (1, 0), (0, 1), (3, 0), (2, 2), (1, 2), (3, 1)]
    clients, versions = fleet.clients, [fleet.server]
    w, v = [plain.weights().astype(np.float64)], np.zeros(17)
    for place in range(0, len(arrivals), 2):
        total, top, bottom = ExactSum(17), np.zeros(17), 0.0
        for k, version in arrivals[place : place + 2]:
            rows = plain.batches(len(clients[k][0]), PLAN, "train", k, version)
            old = versions[version].weights.astype(np.float64)
            delta = plain.descend(old, clients[k], rows, PLAN)[0] - old
            stale = len(versions) - 1 - version
            weight = algorithm.weighting.of(plain.SIZES[k], stale, 1.0)
            total.add(to_fixed(delta.astype(np.float32), weight), weight_to_fixed(weight))
            delta = plain.descend(w[version], clients[k], rows, PLAN)[0] - w[version]
            top += plain.SIZES[k] / (1 + stale) ** 0.5 * delta
            bottom += plain.SIZES[k] / (1 + stale) ** 0.5
        mean = mean_in_group(algorithm, fleet.layout, total)
        versions.append(algorithm.server(versions[-1], {0: mean}, 4))
        v = momentum * v + top / bottom
        w.append(w[-1] + 0.8 * v)
    assert_like(versions[-1].weights, w[-1])
    assert vector().dtype == versions[-1].weights.dtype
