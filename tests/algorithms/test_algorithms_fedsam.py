"""FedSAM and MoFedSAM: against plain twins, and a step by hand."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.fedsam import FedSam, MoFedSam
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like
from tests.algorithms.test_algorithms_fedcm import twin


def test_one_step_by_hand() -> None:
    """The gradient is taken 0.1 uphill of the weights."""
    fleet = Fleet(FedSam(ascent=0.1), plan=msgspec.structs.replace(PLAN, batch=16, epochs=1))
    (x, y), w = fleet.clients[0], plain.weights().astype(np.float64)
    g = plain.gradient(w, x, y)
    uphill = w + 0.1 * g / np.sqrt((g**2).sum())
    assert_like(fleet.round([0]).weights, w - 0.1 * plain.gradient(uphill, x, y))


@pytest.mark.parametrize("batch", [1, 3])
def test_fedsam_rounds_are_those_of_the_twin(batch: int) -> None:
    fleet = Fleet(FedSam(ascent=0.2, momentum=0.5), batch=batch).rounds()
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            x, y = clients[k]
            at = w
            for rows in plain.batches(len(x), PLAN, "train", k, turn):
                g = plain.gradient(at, x[rows], y[rows])
                at = at - 0.1 * plain.gradient(at + 0.2 * g / np.linalg.norm(g), x[rows], y[rows])
            deltas.append(at - w)
        v = 0.5 * v + plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + v
    assert_like(fleet.server.weights, w)


@pytest.mark.parametrize("batch", [1, 4])
def test_mofedsam_rounds_are_those_of_the_twin(batch: int) -> None:
    fleet = Fleet(MoFedSam(share=0.3, ascent=0.1), batch=batch).rounds()
    w, fleet_wide = twin(0.3, 0.0, 0.1)
    assert_like(fleet.server.weights, w, 1e-5)
    assert_like(fleet.server.model["momentum"], fleet_wide, 1e-4)


def test_without_ascent_it_is_plain() -> None:
    a, b = Fleet(FedSam(ascent=0.0)).rounds(), Fleet(FedSam(ascent=1e-9)).rounds()
    np.testing.assert_allclose(a.server.weights, b.server.weights, atol=1e-6)
