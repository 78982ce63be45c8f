"""FedAdam and FedYogi: by hand, and against a plain twin."""

import math

import numpy as np
import pytest

from hedgerow.algorithms.base import Mean, Server
from hedgerow.algorithms.fedopt import Adaptive, FedAdam, FedYogi
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def stepped(algorithm: Adaptive, server: Server, *mean: float) -> Server:
    return algorithm.server(server, {0: Mean({"delta": vector(*mean)}, {}, 1.0, 1)}, 1)


def test_adam_by_hand() -> None:
    algorithm = FedAdam(rate=0.5, beta1=0.5, beta2=0.75, tau=1.0)
    server = stepped(algorithm, algorithm.begin(vector(1, 0)), 2, 0)
    # m = 0.5·2 = 1;  v = 0.75·1 + 0.25·4 = 1.75, and 0.75 where nothing moved
    assert server.kept["m"].tolist() == [1, 0]
    assert server.kept["v"].tolist() == [1.75, 0.75]
    assert server.weights.tolist() == pytest.approx([1 + 0.5 / (math.sqrt(1.75) + 1), 0])


def test_yogi_by_hand() -> None:
    algorithm = FedYogi(rate=0.5, beta1=0.5, beta2=0.75, tau=1.0)
    server = stepped(algorithm, algorithm.begin(vector(1, 0, 0)), 2, 0.5, 0)
    # v = 1 − 0.25·4·sign(1 − 4) = 2;  1 − 0.25·0.25·1 = 0.9375;  1
    assert server.kept["v"].tolist() == [2, 0.9375, 1]
    assert server.kept["m"].tolist() == [1, 0.25, 0]
    assert server.weights[0] == pytest.approx(1 + 0.5 / (math.sqrt(2) + 1))


def test_below_tau_a_step_is_in_proportion_and_above_it_is_the_rate() -> None:
    algorithm = FedAdam(rate=0.1, beta1=0, beta2=0, tau=1e-3)
    server = stepped(algorithm, algorithm.begin(vector(0, 0)), 1e-6, 100)
    assert server.weights.tolist() == pytest.approx([0.1 * 1e-6 / 1.001e-3, 0.1], rel=1e-3)


@pytest.mark.parametrize("algorithm", [FedAdam(rate=0.1, tau=0.01), FedYogi(rate=0.1, tau=0.01)])
def test_rounds_are_those_of_the_twin(algorithm: Adaptive) -> None:
    fleet = Fleet(algorithm, batch=3).rounds()
    clients, w = plain.data(), plain.weights().astype(np.float64)
    m, v = np.zeros(17), np.full(17, 1e-4)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), PLAN, "train", k, turn)
            deltas.append(plain.descend(w, clients[k], rows, PLAN)[0] - w)
        delta = plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        for j in range(17):
            square = delta[j] ** 2
            m[j] = 0.9 * m[j] + 0.1 * delta[j]
            if isinstance(algorithm, FedAdam):
                v[j] = 0.99 * v[j] + 0.01 * square
            elif v[j] > square:
                v[j] -= 0.01 * square
            else:
                v[j] += 0.01 * square
            w[j] += 0.1 * m[j] / (math.sqrt(v[j]) + 0.01)
    assert_like(fleet.server.weights, w, 1e-5)
