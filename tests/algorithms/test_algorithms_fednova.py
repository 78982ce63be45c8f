"""FedNova: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import Mean
from hedgerow.algorithms.fednova import FedNova
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_the_servers_half_by_hand() -> None:
    server = FedNova().begin(vector(1, 1))
    mean = Mean({"delta": vector(0.5, -0.25)}, {"steps": 4.0}, 1.0, 2)
    assert FedNova(rate=0.5).server(server, {0: mean}, 9).weights.tolist() == [2, 0.5]


def test_equal_steps_give_fedavg() -> None:
    clients = plain.data((8, 8))
    fleet = Fleet(FedNova(), clients=clients).rounds([[0, 1]])
    w0 = plain.weights().astype(np.float64)
    ends = [
        plain.descend(w0, clients[k], plain.batches(8, PLAN, "train", k, 0), PLAN)[0]
        for k in (0, 1)
    ]
    assert_like(fleet.server.weights, (ends[0] + ends[1]) / 2)


@pytest.mark.parametrize(("momentum", "pull", "batch"), [(0, 0, 1), (0.9, 0, 4), (0.5, 2.0, 2)])
def test_rounds_are_those_of_the_twin(momentum: float, pull: float, batch: int) -> None:
    plan = msgspec.structs.replace(PLAN, momentum=momentum, pull=pull)
    fleet = Fleet(FedNova(rate=0.9), plan=plan, batch=batch).rounds()
    clients, w = plain.data(), plain.weights().astype(np.float64)
    for turn, chosen in enumerate(plain.ROUNDS):
        directions, paths = [], []
        for k in chosen:
            rows = plain.batches(len(clients[k][0]), plan, "train", k, turn)
            after, steps = plain.descend(w, clients[k], rows, plan)
            path, speed = 0.0, 0.0
            for _ in range(steps):
                speed = momentum * speed + 1 - pull * plan.rate * path
                path += speed
            directions.append((after - w) / path)
            paths.append(np.array(path))
        sizes = [plain.SIZES[k] for k in chosen]
        w = w + 0.9 * plain.mean(paths, sizes) * plain.mean(directions, sizes)
    assert_like(fleet.server.weights, w, 1e-5)
