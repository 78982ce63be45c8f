"""FedLESAM: by hand, and against a plain twin."""

import numpy as np
import pytest

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.fedlesam import FedLesam
from hedgerow.model.passes import Pass
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_uphill_is_where_the_model_came_from_by_hand() -> None:
    fleet = Fleet(FedLesam(ascent=0.5))
    fleet.round([0])
    (first,) = fleet.asked
    assert isinstance(first, Pass) and (first.ascent, first.ascent_along) == (0.0, None)
    step = np.zeros(17, np.float32)
    step[:2] = vector(3, -4)
    fleet.server = Server({**fleet.server.model, "step": step}, fleet.server.kept)
    fleet.round([0])
    again = fleet.asked[-1]
    assert isinstance(again, Pass) and again.ascent_along is not None
    assert again.ascent == 0.5
    assert again.ascent_along[:3].tolist() == pytest.approx([-0.6, 0.8, 0])


@pytest.mark.parametrize("batch", [1, 3])
def test_rounds_are_those_of_the_twin(batch: int) -> None:
    fleet = Fleet(FedLesam(ascent=0.3, rate=0.9), batch=batch).rounds()
    clients, w, step = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            x, y = clients[k]
            at = w
            for rows in plain.batches(len(x), PLAN, "train", k, turn):
                ahead = at - 0.3 * step / np.linalg.norm(step) if turn else at
                at = at - 0.1 * plain.gradient(ahead, x[rows], y[rows])
            deltas.append(at - w)
        step = 0.9 * plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + step
    assert_like(fleet.server.weights, w)
    assert_like(fleet.server.model["step"], step)
