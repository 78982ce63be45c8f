"""FedAvg with server momentum, by hand."""

import numpy as np
import pytest

from hedgerow.algorithms.fedavg import FedAvg, plan_of_round, server_step, weight_of
from hedgerow.core.schema import LocalPlan


def vector(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_without_momentum_the_mean_is_added() -> None:
    weights, velocity = server_step(FedAvg(), vector(1, 2), vector(9, 9), vector(0.5, -0.25))
    assert weights.tolist() == [1.5, 1.75]
    assert velocity.tolist() == [0.5, -0.25]


def test_two_steps_with_momentum() -> None:
    settings = FedAvg(rate=0.5, momentum=0.5)
    weights, velocity = vector(0, 1), vector(0, 0)
    weights, velocity = server_step(settings, weights, velocity, vector(4, -2))
    # v = 0·0.5 + [4, −2];  w = [0, 1] + 0.5·v
    assert (velocity.tolist(), weights.tolist()) == ([4, -2], [2, 0])
    weights, velocity = server_step(settings, weights, velocity, vector(2, 2))
    # v = 0.5·[4, −2] + [2, 2] = [4, 1];  w = [2, 0] + 0.5·[4, 1]
    assert (velocity.tolist(), weights.tolist()) == ([4, 1], [4, 0.5])
    assert weights.dtype == velocity.dtype == np.float32


def test_a_constant_mean_moves_by_one_over_one_less_momentum() -> None:
    settings = FedAvg(momentum=0.9)
    weights, velocity = vector(0), vector(0)
    for _ in range(300):
        before = weights
        weights, velocity = server_step(settings, weights, velocity, vector(1))
    assert (weights - before).item() == pytest.approx(10.0, rel=1e-3)


def test_the_arguments_are_left_alone() -> None:
    weights, velocity = vector(1), vector(1)
    server_step(FedAvg(momentum=0.5), weights, velocity, vector(1))
    assert (weights.tolist(), velocity.tolist()) == ([1], [1])


@pytest.mark.parametrize(
    ("index", "rate"),
    [(0, 0.1), (1, 0.01 + 0.09 * 0.853553), (2, 0.055), (4, 0.01), (9, 0.01)],
)
def test_the_local_rate_falls_along_half_a_cosine(index: int, rate: float) -> None:
    settings = FedAvg(local_rate="cosine", local_rate_end=0.1)
    plan = plan_of_round(settings, LocalPlan(rate=0.1, epochs=2), index, 5)
    assert plan.rate == pytest.approx(rate, rel=1e-5)
    assert plan.epochs == 2


def test_the_plan_stays_where_there_is_no_end_to_fall_to() -> None:
    plan = LocalPlan(rate=0.1)
    assert plan_of_round(FedAvg(), plan, 3, 5) == plan
    for rounds in (0, 1):
        assert plan_of_round(FedAvg(local_rate="cosine"), plan, 3, rounds) == plan


@pytest.mark.parametrize(
    ("samples", "weight"),
    [(1, 1 / 1024), (512, 0.5), (1024, 1.0), (65536, 64.0), (65537, 64.0), (2**53, 64.0)],
)
def test_a_thousand_samples_weigh_one_and_claims_are_capped(samples: int, weight: float) -> None:
    assert weight_of(FedAvg(), samples) == weight
    assert weight_of(FedAvg(weighting="equal"), samples) == 1.0
