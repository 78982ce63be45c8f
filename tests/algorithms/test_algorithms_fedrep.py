"""FedRep: what is whose, against plain twins, and that no head leaves a device."""

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.fedrep import FedRep, normalising
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.model.passes import Pass
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like

BODY, NORM, HEAD = slice(0, 6), slice(6, 8), slice(8, 17)


def test_the_head_is_the_last_layer_unless_it_is_named() -> None:
    layout = plain.layout()
    assert np.flatnonzero(FedRep().head(layout)).tolist() == list(range(8, 17))
    assert np.flatnonzero(FedRep(private=("body.",)).head(layout)).tolist() == list(range(6))
    travels = FedRep(local_normalisation=True).travels(layout)
    assert np.flatnonzero(travels).tolist() == list(range(6))


def test_a_layers_scale_has_one_dimension_and_takes_its_offset_along() -> None:
    tensors = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "w": (2,)}
    layout = Layout(tuple(TensorSpec(name, shape) for name, shape in tensors.items()))
    assert normalising(layout) == ["1.weight", "1.bias"]
    assert np.flatnonzero(FedRep().head(layout)).tolist() == [24, 25]  # "w" is in no layer


def test_private_tensors_of_the_bundle_belong_to_the_head() -> None:
    layout = plain.layout(("head.weight", "head.bias"))
    head = FedRep(private=("norm.",)).head(layout)
    assert np.flatnonzero(head).tolist() == list(range(6, 17))
    assert FedRep(private=("norm.",)).travels(layout).tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("private", "message"),
    [(("bodies.",), "fit none"), (("body.", "norm.", "head."), "nothing")],
)
def test_a_head_that_is_nothing_or_all_is_refused(private: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FedRep(private=private).travels(plain.layout())


@pytest.mark.parametrize(
    ("algorithm", "own", "batch"),
    [
        (FedRep(head_epochs=3), [HEAD], 1),
        (FedRep(head_epochs=3), [HEAD], 3),
        (FedRep(private=("body.",), momentum=0.5), [BODY], 2),
        (FedRep(local_normalisation=True), [NORM, HEAD], 2),
        (FedRep(private=("norm.",), head_epochs=0), [NORM], 4),
    ],
)
def test_rounds_are_those_of_the_twin(algorithm: FedRep, own: list[slice], batch: int) -> None:
    fleet = Fleet(algorithm, batch=batch).rounds()
    head, stays = np.zeros(17, bool), np.zeros(17, bool)
    for part in own:
        stays[part] = True
    head[own[-1]] = True
    head_plan = msgspec.structs.replace(PLAN, epochs=max(algorithm.head_epochs, 1))
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    mine: dict[int, plain.Wide] = {}
    for turn, chosen in enumerate(plain.ROUNDS):
        deltas = []
        for k in chosen:
            size = len(clients[k][0])
            start = np.where(stays, mine.get(k, w), w)
            at = start
            if algorithm.head_epochs:
                rows = plain.batches(size, head_plan, "head", k, turn)
                at, _ = plain.descend(at, clients[k], rows, PLAN, trainable=head)
            rows = plain.batches(size, PLAN, "train", k, turn)
            body = ~head if algorithm.head_epochs else None
            mine[k], _ = plain.descend(at, clients[k], rows, PLAN, trainable=body)
            deltas.append(np.where(stays, 0, mine[k] - start))
        v = algorithm.momentum * v + plain.mean(deltas, [plain.SIZES[k] for k in chosen])
        w = w + v
    assert_like(fleet.server.weights, w)
    for k, row in mine.items():
        assert_like(fleet.serving(k), np.where(stays, row, w))


def test_the_head_rests_while_the_body_trains_by_hand() -> None:
    plan = msgspec.structs.replace(PLAN, batch=16, epochs=1)
    fleet = Fleet(FedRep(), plan=plan)
    (x, y), w = fleet.clients[0], plain.weights().astype(np.float64)
    new = w.copy()
    new[HEAD] -= 0.1 * plain.gradient(w, x, y)[HEAD]
    body = new.copy()
    body[:8] -= 0.1 * plain.gradient(new, x, y)[:8]
    server = fleet.round([0])
    assert_like(fleet.serving(0), body)
    assert_like(server.weights, np.concatenate([body[:8], w[HEAD]]))
    first, second = fleet.asked
    assert isinstance(first, Pass) and isinstance(second, Pass)
    assert (first.name, second.name) == ("head", "train")


def test_nothing_of_a_head_is_sent() -> None:
    fleet = Fleet(FedRep(), batch=4).rounds()
    for done in fleet.contributions:
        assert not done.sends["delta"][:, HEAD].any()
        assert done.sends["delta"][:, :8].any()
    assert np.array_equal(fleet.server.weights[HEAD], plain.weights()[HEAD])


def test_private_tensors_of_the_bundle_are_those_that_the_task_brings() -> None:
    """What was kept of them with the head is of the last round; the device may know better."""
    fleet = Fleet(FedRep(private=("head.weight",)), private=("head.bias",)).rounds([[0]])
    fleet.behind[0] = np.array([7, 8, 9], np.float32)
    assert fleet.serving(0)[14:].tolist() == [7, 8, 9]
    assert np.array_equal(fleet.serving(0)[8:14], fleet.kept[0]["head"][8:14])
    fleet.round([0])
    first = fleet.asked[-2]
    assert isinstance(first, Pass) and first.name == "head"
    assert first.weights[0, 14:].tolist() == [7, 8, 9]


def test_a_head_that_grows_begins_where_the_device_was() -> None:
    """Another `private` in a running fleet: what was shared until now does not begin as zeros."""
    fleet = Fleet(FedRep()).rounds([[0, 1]])
    trained = fleet.contributions[0].weights[0]
    fleet.algorithm = FedRep(private=("head.", "norm."))
    assert np.array_equal(fleet.serving(0)[6:8], trained[6:8])
    fleet.round([0])
    first = fleet.asked[-2]
    assert isinstance(first, Pass) and np.array_equal(first.weights[0, 6:], trained[6:])
