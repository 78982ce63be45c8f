"""The learning engine: the same bits however the work is dealt out, and what clients keep."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm
from hedgerow.algorithms.ditto import Ditto
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass
from hedgerow.protocol.learning import Shape, Sums, next_server
from hedgerow.sim.data import ArrayData
from hedgerow.sim.engine import Engine, Round
from hedgerow.sim.partition import Partition
from hedgerow.sim.states import ClientStates

COUNTS = (20, 3, 20, 9, 1, 33, 20)
EVERYBODY = np.arange(len(COUNTS))
PLAN = LocalPlan(epochs=1.0, batch=8, rate=0.05, momentum=0.5)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.from_bytes((Path(str(models())) / "mlp.hedgerow").read_bytes())


def models() -> Path:
    from importlib import resources

    return Path(str(resources.files("hedgerow.bench.models")))


@pytest.fixture(scope="module")
def data(bundle: Bundle) -> ArrayData:
    rng = np.random.default_rng(0)
    total = sum(COUNTS)
    x = rng.standard_normal((total, *bundle.manifest.input.shape), np.float32)
    y = rng.integers(0, bundle.manifest.output.size, total)
    rows = np.split(rng.permutation(total), np.cumsum(COUNTS)[:-1])
    held = Samples(x[:8], y[:8])
    mine = [np.array([k], np.int64) if k % 2 else np.zeros(0, np.int64) for k in EVERYBODY]
    return ArrayData(x, y, Partition.of(rows), held_out=(held, Partition.of(mine)))


def rounds(engine: Engine, algorithm: Algorithm, count: int = 2) -> tuple[list[str], Round]:
    """Digests of some rounds' sums, each from the model the last one left, and the last round."""
    layout = engine.bundle.manifest.layout
    shape = Shape(algorithm, layout)
    server = algorithm.begin(engine.bundle.weights[: layout.shared_size])
    digests = []
    for number in range(count):
        got = engine.sums(algorithm, server.model, PLAN, EVERYBODY, number)
        digests.append(got.sums.digest())
        server = next_server(shape, server, got.sums, len(COUNTS))
    return digests, got


@pytest.mark.parametrize(
    "algorithm", [FedAvg(), Scaffold(), Ditto()], ids=lambda a: type(a).__name__
)
def test_any_number_of_workers_and_any_batches_give_the_same_bits(
    bundle: Bundle, data: ArrayData, algorithm: Algorithm
) -> None:
    found = set()
    for workers, together in ((1, 1), (2, 3), (3, 64)):
        with Engine(bundle, data, workers=workers, together=together, seed=5) as engine:
            digests, last = rounds(engine, algorithm)
        found.add((*digests, last.loss_total, last.samples, last.steps))
    assert len(found) == 1
    with Engine(bundle, data, seed=6) as other:
        assert rounds(other, algorithm)[0] != list(found.pop()[:2])


def test_the_sum_is_that_of_each_client_alone(bundle: Bundle, data: ArrayData) -> None:
    """Trained one at a time by a learner, and added up as the coordinator does."""
    algorithm, slow = FedAvg(), Sums()
    shape, learner = Shape(algorithm, bundle.manifest.layout), Learner(bundle)
    for client in range(len(COUNTS)):
        keys = keys_of(5, ("round", 0), np.array([client]))
        trained = learner.run(Pass(bundle.weights[None], PLAN), [data.samples(client)], keys)
        delta = trained.weights[0] - bundle.weights
        loss = float(trained.loss[0])
        term, weight = shape.term_of([delta], (), COUNTS[client], 2, loss)
        slow.add(term, weight)
    with Engine(bundle, data, seed=5) as engine:
        got = engine.sums(algorithm, {"weights": bundle.weights}, PLAN, EVERYBODY, 0, staleness=2)
    assert got.sums.digest() == slow.digest()
    assert got.clients == len(COUNTS) and got.samples == sum(COUNTS)
    assert got.steps == sum(-(-count // 8) for count in COUNTS)
    assert got.loss > 0


def test_contributions_are_each_clients_own(bundle: Bundle, data: ArrayData) -> None:
    model = {"weights": bundle.weights}

    def deltas(clients: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
        with Engine(bundle, data, together=3) as engine:
            parts = engine.contributions(FedAvg(), model, PLAN, clients, 4)
            return {
                client: contribution.sends["delta"][row]
                for ids, contribution in parts
                for row, client in enumerate(ids.tolist())
            }

    everybody, some = deltas(EVERYBODY), deltas(np.array([6, 1]))
    assert sorted(everybody) == list(EVERYBODY)
    assert sorted(some) == [1, 6]
    for client, delta in some.items():
        assert np.array_equal(delta, everybody[client])


def test_what_clients_keep_comes_back(bundle: Bundle, data: ArrayData, tmp_path: Path) -> None:
    """A run that was interrupted goes on with the same states: the same bits as in one go."""
    algorithm = Ditto()
    model = {"weights": bundle.weights}

    def round_of(engine: Engine, number: int) -> list[NDArray[np.float32]]:
        parts = engine.contributions(algorithm, model, PLAN, EVERYBODY, number)
        return [rows.copy() for _, part in parts for rows in part.kept.values()]

    with Engine(bundle, data) as engine:
        round_of(engine, 0)
        at_once = round_of(engine, 1)
    for number in range(2):
        with ClientStates(len(data), tmp_path) as states, Engine(bundle, data, states=states) as e:
            later = round_of(e, number)
    for one, other in zip(at_once, later, strict=True):
        assert np.array_equal(one, other)


def test_one_who_diverges_is_left_out_and_named(bundle: Bundle, data: ArrayData) -> None:
    x = data.samples(2).x.copy()
    x[0] = np.nan

    class Spoiled:
        counts, test, names, classes = data.counts, None, None, data.classes

        def __len__(self) -> int:
            return len(data)

        def samples(self, client: int, round: int = 0) -> Samples:
            samples = data.samples(client, round)
            return Samples(x, samples.y) if client == 2 else samples

        def held_out(self, client: int) -> Samples | None:
            return None

    model = {"weights": bundle.weights}
    others = np.array([0, 1, 3, 4, 5, 6])
    with Engine(bundle, data) as engine:
        well = engine.sums(FedAvg(), model, PLAN, others, 0)
    with Engine(bundle, Spoiled()) as engine:
        got = engine.sums(FedAvg(), model, PLAN, EVERYBODY, 0)
    assert got.diverged == [2] and got.refused == []
    assert got.sums.digest() == well.sums.digest()
    assert got.loss == well.loss


def test_a_delta_no_fleet_would_take_is_refused(bundle: Bundle, data: ArrayData) -> None:
    model = {"weights": bundle.weights}
    wild = replace(PLAN, rate=100.0, momentum=0.0, weight_decay=100.0, epochs=2.0)
    with Engine(bundle, data) as engine:
        got = engine.sums(FedAvg(), model, wild, np.array([0, 1]), 0)
    assert sorted(got.refused + got.diverged) == [0, 1]
    assert got.samples == 0 and np.isnan(got.loss)


def test_parts_merge_in_any_order(bundle: Bundle, data: ArrayData) -> None:
    model = {"weights": bundle.weights}
    with Engine(bundle, data) as engine:
        whole = engine.sums(FedAvg(), model, PLAN, EVERYBODY, 0)
        parts = [engine.sums(FedAvg(), model, PLAN, EVERYBODY[k::3], 0) for k in range(3)]
    for order in ((0, 1, 2), (2, 0, 1)):
        total = Round()
        for k in order:
            total.merge(parts[k])
        assert total.sums.digest() == whole.sums.digest()
        assert (total.loss, total.samples, total.steps) == (whole.loss, whole.samples, whole.steps)


def test_measuring_is_counting(bundle: Bundle, data: ArrayData) -> None:
    whole = data.samples(0)
    weights = bundle.weights.reshape(1, -1)
    first = weights[0][: 64 * 64].reshape(64, 64)
    bias, second, last = np.split(weights[0][64 * 64 :], [64, 64 + 640])
    hidden = np.maximum(whole.x @ first.T + bias, 0)
    logits = hidden @ second.reshape(10, 64).T + last
    with Engine(bundle, data) as engine:
        wanted = float(np.mean(logits.argmax(1) == whole.y))
        assert engine.evaluate(bundle.weights, whole.x, whole.y) == wanted
        each = engine.evaluate_many(bundle.weights, EVERYBODY)
        assert np.isnan(each[::2]).all() and np.isin(each[1::2], (0, 1)).all()
        rows = np.repeat(weights, len(COUNTS), 0)
        assert np.array_equal(engine.evaluate_many(rows, EVERYBODY), each, equal_nan=True)


def test_states_start_at_zero_and_remember(tmp_path: Path) -> None:
    with ClientStates(5, tmp_path) as states:
        states.open("v", 3)
        rows, known = states.read("v", np.array([1, 4]))
        assert not known.any() and not rows.any()
        states.write("v", np.array([4]), np.ones((1, 3), np.float32))
        with pytest.raises(UsageError, match="not 2"):
            states.open("v", 2)
    with ClientStates(5, tmp_path) as states:
        states.open("v", 3)
        rows, known = states.read("v", np.array([4, 0]))
        assert known.tolist() == [True, False] and rows.tolist() == [[1, 1, 1], [0, 0, 0]]
        states.forget()
        assert not states.read("v", np.array([4]))[1].any()
    with ClientStates(6, tmp_path) as states, pytest.raises(UsageError, match="folder of its own"):
        states.open("v", 3)
