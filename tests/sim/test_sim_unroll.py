"""Several steps in one graph: the same bits as step by step."""

from functools import partial
from importlib import resources

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import TRAIN, Bundle
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass, Trained
from hedgerow.sim import unroll
from hedgerow.sim.unroll import STEPS, learner_of, unrolled

BUNDLES = {
    "mlp": ("hedgerow.bench.models", "mlp.hedgerow"),
    "cnn2d": ("hedgerow.bench.models", "cnn2d.hedgerow"),
    "watch": ("hedgerow.apps.watch", "watch.hedgerow"),
}
COUNTS = (70, 3, 33, 64, 20, 64)
PLAN = LocalPlan(epochs=2.0, batch=8, rate=0.05)


def loaded(name: str) -> Bundle:
    package, file = BUNDLES[name]
    return Bundle.from_bytes(resources.files(package).joinpath(file).read_bytes())


def fleet(bundle: Bundle) -> list[Samples]:
    rng = np.random.default_rng(3)
    shape, classes = bundle.manifest.input.shape, bundle.manifest.output.size
    return [
        Samples(rng.standard_normal((n, *shape), np.float32), rng.integers(0, classes, n))
        for n in COUNTS
    ]


def in_pairs(bundle: Bundle) -> Learner:
    """Takes the steps of two clients at a time, several steps at once."""
    return Learner(bundle, together=2, stride=STEPS, unrolled=partial(unrolled, steps=STEPS))


def trained(learner: Learner, plan: LocalPlan, *, common: bool = False) -> Trained:
    weights = np.broadcast_to(learner.bundle.weights, (len(COUNTS), learner.bundle.weights.size))
    if not common:
        weights = weights + np.arange(len(COUNTS), dtype=np.float32)[:, None] * np.float32(0.001)
    keys = keys_of(1, ("c",), np.arange(len(COUNTS)))
    return learner.run(Pass(weights, plan), fleet(learner.bundle), keys)


@pytest.mark.parametrize("name", ["mlp", "watch"])
@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9},
        {"average_last": 0.3},
        {"gradient_norm_max": 0.1},
        {"pull": 0.1},
        {"calibrate": 1.0, "epochs": 0.2},
    ],
    ids=str,
)
def test_it_has_the_same_bits_as_step_by_step(
    name: str, common: bool, changes: dict[str, float]
) -> None:
    """Clients end after 1 to 18 steps, with ragged last batches, some in the midst of a leap."""
    bundle, plan = loaded(name), replace(PLAN, **changes)
    one = trained(Learner(bundle), plan, common=common)
    for learner in (learner_of(bundle), in_pairs(bundle), Learner(bundle, together=4)):
        other = trained(learner, plan, common=common)
        assert np.array_equal(one.weights, other.weights)
        assert np.array_equal(one.loss, other.loss, equal_nan=True)
        assert np.array_equal(one.steps, other.steps)
        assert np.array_equal(one.samples, other.samples)


def test_flat_weights_are_taken_apart_and_joined_once() -> None:
    graphs = unrolled(loaded("mlp").file(TRAIN), STEPS)
    later, first = (onnx.load_model_from_string(graph).graph for graph in graphs)
    assert first.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert list(first.node) == list(later.node)
    written = later
    kinds = [node.op_type for node in written.node]
    joins = [n for n in written.node if n.op_type == "Concat" and n.attribute[0].i == 1]
    assert kinds.count("Split") == len(joins) == 1
    assert kinds.count("LogSoftmax") == STEPS
    each = [f"{name}.{step}" for step in range(STEPS) for name in ("x", "y", "sample_weight")]
    assert [value.name for value in written.input] == ["weights", "rate", *each]
    losses = [f"loss.{step}" for step in range(STEPS)]
    assert [value.name for value in written.output] == ["weights_next", *losses]


def test_a_single_column_is_not_multiplied_for_all_at_once() -> None:
    graph = loaded("mlp").file(TRAIN)
    assert len(unrolled(graph, STEPS)) == 2
    assert len(unrolled(graph, STEPS, common=False)) == 1
    assert not unroll._wide(loaded("cnn2d")) and unroll._wide(loaded("mlp"))


def test_a_graph_that_needs_what_is_left_out_goes_step_by_step() -> None:
    model = onnx.load_model_from_string(loaded("mlp").file(TRAIN))
    last = model.graph.node[-1]
    assert list(last.output) == ["loss"]
    lifted = onnx.helper.make_node("Exp", ["pull"], ["lift"])
    model.graph.node.insert(0, lifted)
    model.graph.node[-1].CopyFrom(
        onnx.helper.make_node("Mul", [last.input[0], "lift"], ["loss"]),
    )
    assert unrolled(model.SerializeToString(), STEPS) == []


def test_without_onnx_it_goes_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = loaded("mlp")
    wanted = trained(learner_of(bundle), PLAN)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(unroll, "unrolled", None)
    assert np.array_equal(trained(learner_of(bundle), PLAN).weights, wanted.weights)


@pytest.mark.parametrize("counts", [(8, 8, 8), (12,) * 5])
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("name", ["mlp", "watch"])
def test_clients_of_one_start_have_the_bits_of_each_alone(
    name: str, batch: int, counts: tuple[int, ...]
) -> None:
    """Their first products are one product; passes end with a leap, or with single steps."""
    bundle = loaded(name)
    rng = np.random.default_rng(4)
    shape, classes = bundle.manifest.input.shape, bundle.manifest.output.size
    clients = [
        Samples(rng.standard_normal((n, *shape), np.float32), rng.integers(0, classes, n))
        for n in counts
    ]
    keys = keys_of(2, ("c",), np.arange(len(counts)))
    plan = replace(PLAN, batch=batch, epochs=1.0)
    start = np.broadcast_to(bundle.weights, (len(counts), bundle.weights.size))
    got = in_pairs(bundle).run(Pass(start, plan), clients, keys)
    alone = Learner(bundle)
    for k, client in enumerate(clients):
        wanted = alone.run(Pass(bundle.weights[None], plan), [client], keys[k : k + 1])
        assert np.array_equal(got.weights[k], wanted.weights[0])
        assert got.loss[k] == wanted.loss[0]
        assert (got.steps[k], got.samples[k]) == (wanted.steps[0], wanted.samples[0])
