"""FedAvg with server momentum: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import Mean, Server
from hedgerow.algorithms.fedavg import FedAvg
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def stepped(algorithm: FedAvg, server: Server, *mean: float) -> Server:
    return algorithm.server(server, {0: Mean({"delta": vector(*mean)}, {}, 1.0, 1)}, 1)


def test_without_momentum_the_mean_is_added() -> None:
    server = stepped(FedAvg(), FedAvg().begin(vector(1, 2)), 0.5, -0.25)
    assert server.weights.tolist() == [1.5, 1.75]


def test_two_steps_with_momentum() -> None:
    algorithm = FedAvg(rate=0.5, momentum=0.5)
    server = stepped(algorithm, algorithm.begin(vector(0, 1)), 4, -2)
    # v = 0·0.5 + [4, −2];  w = [0, 1] + 0.5·v
    assert (server.kept["velocity"].tolist(), server.weights.tolist()) == ([4, -2], [2, 0])
    server = stepped(algorithm, server, 2, 2)
    # v = 0.5·[4, −2] + [2, 2] = [4, 1];  w = [2, 0] + 0.5·[4, 1]
    assert (server.kept["velocity"].tolist(), server.weights.tolist()) == ([4, 1], [4, 0.5])
    assert server.weights.dtype == server.kept["velocity"].dtype == np.float32


def test_a_constant_mean_moves_by_one_over_one_less_momentum() -> None:
    algorithm = FedAvg(momentum=0.9)
    server = algorithm.begin(vector(0))
    for _ in range(300):
        before = server.weights
        server = stepped(algorithm, server, 1)
    assert (server.weights - before).item() == pytest.approx(10.0, rel=1e-3)


def test_the_arguments_are_left_alone() -> None:
    server = Server({"weights": vector(1)}, {"velocity": vector(1)})
    stepped(FedAvg(momentum=0.5), server, 1)
    assert (server.weights.tolist(), server.kept["velocity"].tolist()) == ([1], [1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rounds_are_those_of_the_twin(momentum: float) -> None:
    plan = msgspec.structs.replace(PLAN, momentum=0.5, epochs=1.5)
    fleet = Fleet(FedAvg(rate=0.8, momentum=momentum), plan=plan, batch=2).rounds()
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), plan, "train", k, turn)
            deltas.append(plain.descend(w, clients[k], rows, plan)[0] - w)
        v = momentum * v + plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + 0.8 * v
    assert_like(fleet.server.weights, w)
