"""The training graph run by PyTorch computes what ONNX Runtime computes."""

from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import TRAIN, Bundle
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass
from hedgerow.sim.data import ArrayData
from hedgerow.sim.engine import Engine
from hedgerow.sim.torch_engine import TorchLearner, TorchStep
from tests.author.modules import Compiled


def assert_close(got: NDArray[Any], wanted: NDArray[Any]) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    torch.set_num_threads(1)
    return Compiled()


def batch_for(
    bundle: Bundle, clients: int, batch: int, rng: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """x, y and weights that fit the bundle."""
    manifest = bundle.manifest
    shape, output = manifest.input.shape, manifest.output
    x = rng.standard_normal((clients, batch, *shape), np.float32)
    if output.task == "classification":
        y: NDArray[Any] = rng.integers(0, output.size, (clients, batch))
    elif output.task == "regression":
        y = rng.standard_normal((clients, batch, output.size), np.float32)
    else:
        y = x.copy()
    weight = rng.integers(0, 3, (clients, batch)).astype(np.float32)
    return x, y, weight


def agree(bundle: Bundle, clients: int, batch: int) -> None:
    rng = np.random.default_rng(clients * 100 + batch)
    x, y, weight = batch_for(bundle, clients, batch, rng)
    if "tokens" in bundle.manifest.name:
        x = np.abs(x)
    size = bundle.manifest.layout.size
    noise = rng.standard_normal((3, clients, size), np.float32)
    weights = (bundle.weights + 0.01 * noise[0]).astype(np.float32)
    anchor, shift = bundle.weights + 0.01 * noise[1, 0], 0.01 * noise[2]
    values = (weights, anchor.astype(np.float32), shift, x, y, weight, 0.1, 0.5)
    wanted, wanted_loss = Learner(bundle).step(*values)
    got, loss = TorchStep(bundle.file(TRAIN), "cpu")(*values)
    assert_close(got, wanted)
    assert_close(loss, wanted_loss)


@pytest.mark.parametrize("name", ["dense", "pooled", "tokens", "regression"])
@pytest.mark.parametrize(("clients", "batch"), [(1, 7), (3, 16)])
def test_one_step_of_many_kinds_of_model(
    compiled: Compiled, name: str, clients: int, batch: int
) -> None:
    agree(compiled(name)[1], clients, batch)


def test_one_step_of_the_watch() -> None:
    data = resources.files("hedgerow.apps.watch").joinpath("watch.hedgerow")
    bundle = Bundle.from_bytes(data.read_bytes())
    agree(bundle, 1, 16)
    agree(bundle, 5, 16)


PLANS = {
    "plain": LocalPlan(batch=4, rate=0.1),
    "momentum and decay": LocalPlan(batch=4, rate=0.1, momentum=0.9, weight_decay=0.01, epochs=2),
    "pull": LocalPlan(batch=4, rate=0.1, pull=0.5, average_last=0.5),
    "clipped": LocalPlan(batch=4, rate=0.1, pull=0.1, gradient_norm_max=0.2, momentum=0.5),
}


@pytest.mark.parametrize("climbs", ["", "ascent", "along"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_whole_passes(compiled: Compiled, plan: LocalPlan, frozen: bool, climbs: str) -> None:
    """Clients of unequal sizes, with everything a pass can ask for."""
    _, bundle = compiled("dense")
    size, rng = bundle.manifest.layout.size, np.random.default_rng(3)
    clients = [
        Samples(rng.standard_normal((n, 6), np.float32), rng.integers(0, 4, n))
        for n in (9, 3, 16, 9)
    ]
    ask = Pass(
        np.tile(bundle.weights, (4, 1)) + 0.01 * rng.standard_normal((4, size), np.float32),
        plan,
        shift=0.01 * rng.standard_normal((4, size), np.float32),
        trainable=rng.random(size) < 0.7 if frozen else None,
        ascent=0.05 if climbs else 0.0,
        ascent_along=rng.standard_normal(size, np.float32) if climbs == "along" else None,
    )
    keys = keys_of(7, ("test",), np.arange(4, dtype=np.uint64))
    wanted = Learner(bundle).run(ask, clients, keys)
    got = TorchLearner(bundle, device="cpu").run(ask, clients, keys)
    assert_close(got.weights, wanted.weights)
    assert_close(got.loss, wanted.loss)
    assert np.array_equal(got.steps, wanted.steps)
    assert np.array_equal(got.samples, wanted.samples)
    assert not np.array_equal(got.weights, ask.weights)


def test_the_same_again(compiled: Compiled) -> None:
    """A learner that was used before answers as a new one, and changes nothing it was given."""
    _, bundle = compiled("dense")
    rng = np.random.default_rng(4)
    client = Samples(rng.standard_normal((8, 6), np.float32), rng.integers(0, 4, 8))
    ask = Pass(bundle.weights[None].copy(), LocalPlan(batch=4, rate=0.1))
    keys = keys_of(7, ("test",), np.arange(1, dtype=np.uint64))
    learner = TorchLearner(bundle, device="cpu")
    first = learner.run(ask, [client], keys)
    again = learner.run(ask, [client], keys)
    assert np.array_equal(first.weights, again.weights)
    assert np.array_equal(ask.weights[0], bundle.weights)


def test_the_simulator_takes_it_in_place_of_its_learner(compiled: Compiled) -> None:
    _, bundle = compiled("dense")
    rng = np.random.default_rng(5)
    rows = np.split(np.arange(40), [9, 12, 28])
    data = ArrayData(rng.standard_normal((40, 6), np.float32), rng.integers(0, 4, 40), rows)
    size = bundle.manifest.layout.shared_size
    model = {"weights": bundle.weights[:size]}
    plan, clients = LocalPlan(batch=4, rate=0.1, momentum=0.5), np.arange(4)
    found = []
    for learner in (Learner, partial(TorchLearner, device="cpu")):
        with Engine(bundle, data, workers=1, together=4, learner=learner) as engine:
            ((ids, contribution),) = engine.contributions(FedAvg(), model, plan, clients, 1)
            found.append(contribution.sends["delta"][np.argsort(ids)])
    assert_close(found[1], found[0])
    assert np.abs(found[0]).max() > 0.01


def graph_with(*nodes: onnx.NodeProto) -> bytes:
    value = helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["K", 2])
    graph = helper.make_graph(list(nodes), "train", [value], [value])
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def test_an_operator_that_is_not_known_is_refused_by_name() -> None:
    odd = helper.make_node("Einsum", ["weights"], ["weights_next"])
    with pytest.raises(UsageError, match="uses Einsum, which PyTorch is not told"):
        TorchStep(graph_with(odd), "cpu")
    doubled = helper.make_node("Add", ["weights", "weights"], ["a"])
    shaped = helper.make_node("Reshape", ["weights", "a"], ["weights_next"])
    with pytest.raises(UsageError, match="uses Add for a shape"):
        TorchStep(graph_with(doubled, shaped), "cpu")
    cast = helper.make_node("Cast", ["weights"], ["weights_next"], to=TensorProto.DOUBLE)
    with pytest.raises(UsageError, match="casts to ONNX type 11"):
        TorchStep(graph_with(cast), "cpu")


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="PyTorch has no device 'nonsense' here"):
        TorchStep(graph_with(), "nonsense")
