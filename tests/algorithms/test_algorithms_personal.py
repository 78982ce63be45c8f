"""Ditto and fine-tuning: against plain twins, and what a device infers with."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.ditto import Ditto
from hedgerow.algorithms.fedrep import FedRep
from hedgerow.algorithms.finetune import FineTune
from hedgerow.model.passes import Pass
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like


@pytest.mark.parametrize(("batch", "pull"), [(1, 0.8), (3, 0.8), (2, 0.0)])
def test_dittos_rounds_are_those_of_the_twin(batch: int, pull: float) -> None:
    fleet = Fleet(Ditto(pull=pull, epochs=3, momentum=0.5), batch=batch).rounds()
    held = msgspec.structs.replace(PLAN, pull=pull, epochs=3)
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    own: dict[int, plain.Wide] = {}
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            size = len(clients[k][0])
            rows = plain.batches(size, PLAN, "train", k, turn)
            deltas.append(plain.descend(w, clients[k], rows, PLAN)[0] - w)
            rows = plain.batches(size, held, "personal", k, turn)
            own[k], _ = plain.descend(own.get(k, w), clients[k], rows, held, anchor=w)
        v = 0.5 * v + plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + v
    assert_like(fleet.server.weights, w)
    for k, row in own.items():
        assert_like(fleet.serving(k), row)


def test_dittos_personal_step_by_hand() -> None:
    """One full-batch step from the model that came, then one from the own weights."""
    plan = msgspec.structs.replace(PLAN, batch=16, epochs=1)
    fleet = Fleet(Ditto(pull=2.0), plan=plan)
    (x, y), w0 = fleet.clients[0], plain.weights().astype(np.float64)
    w1 = w0 - 0.1 * plain.gradient(w0, x, y)
    assert_like(fleet.round([0]).weights, w1)
    assert_like(fleet.serving(0), w1)  # both began at the same place, and the pull was 0 there
    fleet.round([0])
    # The own weights stand at w1, and so does the fleet's model: the pull is 0 again.
    assert_like(fleet.serving(0), w1 - 0.1 * plain.gradient(w1, x, y))
    fleet.round([1])
    w3, own = fleet.server.weights.astype(np.float64), fleet.serving(0).astype(np.float64)
    fleet.round([0])
    assert_like(fleet.serving(0), own - 0.1 * (plain.gradient(own, x, y) + 2.0 * (own - w3)))


def test_personal_weights_are_held_to_the_model_that_came_and_never_sent() -> None:
    fleet = Fleet(Ditto(pull=0.5)).rounds([[0], [1], [0]])
    first, second = fleet.asked[-2:]
    assert isinstance(first, Pass) and isinstance(second, Pass)
    assert (first.name, second.name, second.plan.pull) == ("train", "personal", 0.5)
    assert second.anchor is not None and np.array_equal(second.anchor, first.weights[0])
    assert not np.array_equal(second.weights[0], first.weights[0])
    assert second.shift is None  # w − anchor is all it takes
    assert list(fleet.contributions[-1].sends) == ["delta"]


def test_what_answers_for_one_device_may_lean_to_its_labels() -> None:
    """What is sent is calibrated as the plan says; personal weights and heads are not."""
    plan = msgspec.structs.replace(PLAN, calibrate=1.0)
    for algorithm, wanted in (
        (Ditto(), {"train": 1.0, "personal": 0.0}),
        (FedRep(), {"head": 0.0, "train": 0.0}),
        (FedRep(head_epochs=0), {"train": 0.0}),
    ):
        fleet = Fleet(algorithm, plan=plan).rounds([[0]])
        asked = {ask.name: ask.plan.calibrate for ask in fleet.asked if isinstance(ask, Pass)}
        assert asked == wanted


@pytest.mark.parametrize("kind", [Ditto, FineTune])
def test_a_new_device_infers_with_the_fleets_model(kind: type[Ditto] | type[FineTune]) -> None:
    fleet = Fleet(kind()).rounds([[0, 1]])
    assert np.array_equal(fleet.serving(3), fleet.server.weights)
    assert not np.array_equal(fleet.serving(0), fleet.server.weights)


def test_a_fine_tuned_device_infers_with_what_it_trained_last() -> None:
    fleet = Fleet(FineTune()).rounds([[0, 1], [0]])
    clients, w0 = fleet.clients, plain.weights().astype(np.float64)
    ends = [
        plain.descend(w0, clients[k], plain.batches(size, PLAN, "train", k, 0), PLAN)[0]
        for k, size in ((0, 5), (1, 9))
    ]
    w1 = (5 * ends[0] + 9 * ends[1]) / 14
    last, _ = plain.descend(w1, clients[0], plain.batches(5, PLAN, "train", 0, 1), PLAN)
    assert_like(fleet.serving(0), last)
    assert_like(fleet.serving(1), ends[1])
    assert_like(fleet.server.weights, last)
