"""FedCM: by hand, and against a plain twin."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.base import Mean, Server
from hedgerow.algorithms.fedcm import FedCM
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_the_servers_half_by_hand() -> None:
    server = Server({"weights": vector(1, 1), "momentum": vector(9, 9)})
    mean = Mean({"delta": vector(-1, 0.5)}, {"reach": 0.25}, 1.0, 2)
    after = FedCM(rate=2).server(server, {0: mean}, 5)
    assert after.weights.tolist() == [-1, 2]
    assert after.model["momentum"].tolist() == [4, -2]  # the gradient that moves by −Δ at reach ¼


def test_where_nobody_took_a_step_the_momentum_stays() -> None:
    server = Server({"weights": vector(1), "momentum": vector(9)})
    mean = Mean({"delta": vector(0)}, {"reach": 0.0}, 1.0, 2)
    assert FedCM().server(server, {0: mean}, 5).model["momentum"].tolist() == [9]


def twin(share: float, momentum: float, ascent: float = 0.0) -> tuple[plain.Wide, plain.Wide]:
    """The paper's steps, one by one; weights and Δ after all rounds."""
    clients, w, fleet_wide = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas, reaches = [], []
        alpha = share if turn else 1.0
        for k in chosen:
            x, y = clients[k]
            at, v, far, speed = w, np.zeros(17), 0.0, 0.0
            for batch in plain.batches(len(x), PLAN, "train", k, turn):
                g = plain.gradient(at, x[batch], y[batch])
                if ascent:
                    g = plain.gradient(at + ascent * g / np.linalg.norm(g), x[batch], y[batch])
                v = momentum * v + alpha * g + (1 - alpha) * fleet_wide
                at = at - 0.1 * v
                speed = momentum * speed + 1
                far += 0.1 * speed
            deltas.append(at - w)
            reaches.append(np.array(far))
        sizes = [plain.SIZES[k] for k in chosen]
        moved = plain.mean(deltas, sizes)
        w = w + moved
        fleet_wide = -moved / plain.mean(reaches, sizes)
    return w, fleet_wide


@pytest.mark.parametrize(("momentum", "batch"), [(0.0, 1), (0.0, 4), (0.7, 3)])
def test_rounds_are_those_of_the_twin(momentum: float, batch: int) -> None:
    plan = msgspec.structs.replace(PLAN, momentum=momentum)
    fleet = Fleet(FedCM(share=0.2), plan=plan, batch=batch).rounds()
    w, fleet_wide = twin(0.2, momentum)
    assert_like(fleet.server.weights, w, 1e-5)
    assert_like(fleet.server.model["momentum"], fleet_wide, 1e-4)


def test_with_the_whole_of_its_own_gradient_it_is_fedavg() -> None:
    fleet = Fleet(FedCM(share=1.0)).rounds()
    w, _ = twin(1.0, 0.0)
    assert_like(fleet.server.weights, w)
