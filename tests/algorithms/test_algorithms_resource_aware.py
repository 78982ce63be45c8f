"""Training at several widths: means by hand, and a plain twin in which some devices train half."""

import numpy as np
import pytest

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import LocalTask, Mean
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.resource_aware import ResourceAware, merged, narrowed
from hedgerow.algorithms.terms import joined, mean_in_group, term_size
from hedgerow.core.errors import UsageError
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from hedgerow.core.layout import Layout, TensorSpec, Vector
from hedgerow.model.widths import Submodel, leading_blocks
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Learner, assert_like, vector

WHOLE = plain.layout()
HALF = Layout(
    tuple(
        TensorSpec(name, shape)
        for name, shape in (
            ("body.weight", (1, 3)),
            ("norm.weight", (1,)),
            ("head.weight", (3, 1)),
            ("head.bias", (3,)),
        )
    )
)
PARTS = (Submodel(WHOLE, np.arange(17)), leading_blocks(WHOLE, HALF))
WIDTHS = (0, 1, 0, 1)
"""Clients 1 and 3 can afford half."""


def test_half_of_the_hidden_numbers_lie_where_they_should() -> None:
    # row 0 of the body, scale 0, column 0 of the head, every bias
    assert PARTS[1].index.tolist() == [0, 1, 2, 6, 8, 10, 12, 14, 15, 16]


def test_each_element_is_averaged_over_those_who_trained_it() -> None:
    covers = np.array([True, False, True, False])
    means = {
        1: Mean({"delta": vector(6, 0, 3, 0)}, {}, 1.0, 1, covers),
        2: Mean({"delta": vector(0, 8, 0, 0)}, {}, 2.0, 1, np.array([False, True, False, False])),
        0: Mean({"delta": vector(3, 3, 0, 0)}, {}, 2.0, 1, np.array([True, True, True, False])),
    }
    mean, trained = merged(means, 4)
    # (1·6 + 2·3) / 3, (2·8 + 2·3) / 4, (1·3 + 2·0) / 3, nobody
    assert mean.tolist() == [4, 5.5, 1, 0]
    assert trained.tolist() == [True, True, True, False]


def test_what_nobody_trained_stays_though_it_has_velocity() -> None:
    algorithm = ResourceAware(momentum=0.5, rate=2)
    server = algorithm.begin(vector(1, 1))
    server = algorithm.server(server, {0: Mean({"delta": vector(1, 4)}, {}, 1.0, 1)}, 3)
    assert server.weights.tolist() == [3, 9]
    narrow = Mean({"delta": vector(1, 0)}, {}, 1.0, 1, np.array([True, False]))
    server = algorithm.server(server, {1: narrow}, 3)
    assert server.weights.tolist() == [6, 9]  # v = ½·1 + 1 and 4 still
    assert server.kept["velocity"].tolist() == [1.5, 4]


def test_a_width_beyond_the_settings_is_refused() -> None:
    with pytest.raises(UsageError, match="width 1"):
        contribution(ResourceAware(widths=1), plain.weights(), [1], 0)


def contribution(
    algorithm: ResourceAware, weights: Vector, ids: list[int], turn: int
) -> tuple[int, list[tuple[Vector, int]]]:
    """Group and deltas of clients of one width."""
    number = WIDTHS[ids[0]]
    rows = np.tile(weights, (len(ids), 1))
    samples = np.array([plain.SIZES[k] for k in ids])
    fresh = np.ones(len(ids), np.bool_)
    task = LocalTask(rows, {}, {}, fresh, samples, PLAN, WHOLE)
    part = PARTS[number]
    learner = Learner([plain.data()[k] for k in ids], ids, turn, part.layout)
    half = algorithm.local(narrowed(task, part, number))
    done = drive(half, learner.run, learner.losses)
    assert done.group is not None and set(done.group.tolist()) == {number}
    deltas = list(done.sends["delta"])
    assert all(len(delta) == term_size(algorithm, part.layout) for delta in deltas)
    return number, list(zip(deltas, samples.tolist(), strict=True))


@pytest.mark.parametrize("together", [True, False])
def test_rounds_are_those_of_the_twin(together: bool) -> None:
    algorithm = ResourceAware(widths=2, momentum=0.5)
    server = algorithm.begin(plain.weights())
    for turn, chosen in enumerate(plain.ROUNDS):
        sums: dict[int, ExactSum] = {}
        alike = [[k for k in chosen if WIDTHS[k] == number] for number in (0, 1)]
        for ids in alike if together else [[k] for k in chosen]:
            if not ids:
                continue
            group, deltas = contribution(algorithm, server.weights, ids, turn)
            total = sums.setdefault(group, ExactSum(len(PARTS[group].index)))
            for delta, size in deltas:
                weight = algorithm.weighting.of(size, 0, 1.0)
                total.add(to_fixed(joined([delta], []), weight), weight_to_fixed(weight))
        means = {
            group: mean_in_group(algorithm, WHOLE, total, PARTS[group])
            for group, total in sums.items()
        }
        server = algorithm.server(server, means, 4)
    assert_like(server.weights, twin())


def twin() -> plain.Wide:
    """Coordinate by coordinate."""
    clients, w, v = plain.data(), plain.weights().astype(np.float64), np.zeros(17)
    for turn, chosen in enumerate(plain.ROUNDS):
        top, bottom = np.zeros(17), np.zeros(17)
        for k in chosen:
            places = [0, 1, 2, 6, 8, 10, 12, 14, 15, 16] if WIDTHS[k] else list(range(17))
            start = np.array([w[j] for j in places])
            rows = plain.batches(len(clients[k][0]), PLAN, "train", k, turn)
            end, _ = plain.descend(start, clients[k], rows, PLAN)
            for j, before, after in zip(places, start, end, strict=True):
                top[j] += plain.SIZES[k] * (after - before)
                bottom[j] += plain.SIZES[k]
        for j in range(17):
            if bottom[j] > 0:
                v[j] = 0.5 * v[j] + top[j] / bottom[j]
                w[j] += v[j]
    return w
