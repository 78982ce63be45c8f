"""IFCA: by hand, against a plain twin, and that it finds clusters that are there."""

import numpy as np
import pytest

from hedgerow.algorithms.base import Mean
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.ifca import Ifca
from hedgerow.core.errors import UsageError
from hedgerow.model.passes import Losses
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, assert_like, vector


def test_clusters_begin_apart_the_same_every_time() -> None:
    weights = np.full(10_000, 2.0, np.float32)
    first, again = (Ifca(count=3, warmup=0, spread=0.5).begin(weights) for _ in range(2))
    clusters = first.model["clusters"]
    assert clusters.tobytes() == again.model["clusters"].tobytes()
    assert (clusters - weights).std(axis=1) == pytest.approx([1, 1, 1], rel=0.05)  # ½ · 2
    other = Ifca(count=3, warmup=0, spread=0.5, seed=1).begin(weights)
    assert clusters.tobytes() != other.model["clusters"].tobytes()
    np.testing.assert_allclose(first.weights, clusters.mean(0), rtol=1e-6)


def test_a_start_of_zeros_is_left_too() -> None:
    assert Ifca(warmup=0).begin(np.zeros(9, np.float32)).model["clusters"].any()


def test_the_servers_half_by_hand() -> None:
    algorithm = Ifca(count=3, warmup=0, rate=0.5)
    server = algorithm.begin(vector(0, 0))
    server.model["clusters"][:] = [[1, 1], [2, 2], [6, 3]]
    means = {
        0: Mean({"delta": vector(2, 0)}, {}, 1.0, 1),
        2: Mean({"delta": vector(0, -2)}, {}, 9.0, 4),
    }
    after = algorithm.server(server, means, 5)
    assert after.model["clusters"].tolist() == [[2, 1], [2, 2], [6, 2]]
    assert after.weights.tolist() == pytest.approx([10 / 3, 5 / 3])
    assert server.model["clusters"][0].tolist() == [1, 1]


@pytest.mark.parametrize("batch", [1, 3])
def test_rounds_are_those_of_the_twin(batch: int) -> None:
    algorithm = Ifca(count=3, warmup=0, spread=0.5, rate=0.9)
    fleet = Fleet(algorithm, batch=batch)
    models = [row.astype(np.float64) for row in fleet.server.model["clusters"]]
    fleet.rounds()
    clients, choices = plain.data(), {}
    for turn, chosen in enumerate(plain.ROUNDS):
        found: dict[int, list[tuple[plain.Wide, int]]] = {}
        for k in chosen:
            x, y = clients[k]
            losses = [plain.loss_of(model, x, y) for model in models]
            best = losses.index(min(losses))
            choices[k] = best
            rows = plain.batches(len(x), PLAN, "train", k, turn)
            delta = plain.descend(models[best], clients[k], rows, PLAN)[0] - models[best]
            found.setdefault(best, []).append((delta, len(x)))
        for best, pairs in found.items():
            moved = plain.mean([delta for delta, _ in pairs], [size for _, size in pairs])
            models[best] = models[best] + 0.9 * moved
    assert len(set(choices.values())) > 1
    for c, model in enumerate(models):
        assert_like(fleet.server.model["clusters"][c], model)
    for k, best in choices.items():
        assert_like(fleet.serving(k), models[best])


def test_a_device_that_never_chose_infers_with_the_mean() -> None:
    fleet = Fleet(Ifca(warmup=0)).rounds([[0]])
    assert np.array_equal(fleet.serving(2), fleet.server.weights)
    np.testing.assert_allclose(fleet.serving(2), fleet.server.model["clusters"].mean(0), rtol=1e-6)


def test_clusters_are_one_until_the_warm_up_is_over() -> None:
    fleet, plainly = Fleet(Ifca(warmup=2)), Fleet(FedAvg())
    for _ in range(2):
        clusters = fleet.server.model["clusters"]
        assert np.array_equal(clusters[0], clusters[1])
        np.testing.assert_allclose(fleet.server.weights, plainly.server.weights, atol=1e-7)
        fleet.round([0, 1, 2])
        plainly.round([0, 1, 2])
    assert not any(isinstance(ask, Losses) for ask in fleet.asked)
    clusters = fleet.server.model["clusters"]
    assert np.array_equal(clusters, Ifca(warmup=0).begin(plainly.server.weights).model["clusters"])
    fleet.round([0])
    assert any(isinstance(ask, Losses) for ask in fleet.asked)


def test_two_kinds_of_devices_find_their_own_clusters() -> None:
    """Half of the devices have their labels swapped: one model cannot serve both."""
    rng = np.random.default_rng(4)
    clients = []
    for k in range(8):
        y = rng.integers(0, 3, 24)
        x = rng.normal(0, 0.3, (24, 3)) + 2 * np.eye(3)[y]
        clients.append((x, y if k % 2 else 2 - y))
    fleet = Fleet(Ifca(), clients=clients, batch=8).rounds([range(8)] * 12)
    chosen = [int(fleet.kept[k]["cluster"][0]) for k in range(8)]
    assert len(set(chosen[::2])) == len(set(chosen[1::2])) == 1
    assert chosen[0] != chosen[1]


def test_a_model_that_gives_no_loss_is_never_chosen() -> None:
    fleet = Fleet(Ifca(warmup=0))
    half = fleet.algorithm.local(fleet._task([0, 1]))
    assert isinstance(next(half), Losses)
    ask = half.send(np.array([[np.nan, 9.0], [np.nan, np.nan]]))
    assert not isinstance(ask, Losses)
    assert np.array_equal(ask.weights, fleet.server.model["clusters"][[1, 0]])


def test_private_tensors_are_refused() -> None:
    with pytest.raises(UsageError, match="fedrep"):
        Fleet(Ifca(), private=("head.bias",)).round([0])
