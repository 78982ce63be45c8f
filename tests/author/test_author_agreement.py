"""What is compiled computes what PyTorch computes, for any number of clients and any batch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hedgerow.author import check
from hedgerow.author.check import draw
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass
from hedgerow.model.predictor import Precision, Predictor
from tests.author.modules import MAKERS, Compiled

KINDS = tuple(MAKERS)


@pytest.mark.parametrize("name", KINDS)
def test_forward_and_steps_agree_for_any_clients_and_batch(compiled: Compiled, name: str) -> None:
    spec, bundle = compiled(name)
    for clients in (1, 3):
        for batch in (1, 7, 16):
            rng = np.random.default_rng(100 * clients + batch)
            agreement = check(bundle, spec, rng, clients=clients, batch=batch)
            assert agreement.agrees, (clients, batch, agreement)


def test_clients_do_not_touch_one_another(compiled: Compiled) -> None:
    _, bundle = compiled("conv1d")
    rng = np.random.default_rng(0)
    learner = Learner(bundle)
    size = bundle.manifest.layout.size
    weights = np.tile(bundle.weights, (2, 1))
    x = rng.standard_normal((2, 4, 3, 20), np.float32)
    y = rng.integers(0, 4, (2, 4))
    zero = np.zeros((2, size), np.float32)
    ones = np.ones((2, 4), np.float32)
    first, loss = learner.step(weights, zero[0], zero, x, y, ones, 0.1, 0.0)
    x[1] += 5
    second, loss_other = learner.step(weights, zero[0], zero, x, y, ones, 0.1, 0.0)
    assert np.array_equal(first[0], second[0]) and loss[0] == loss_other[0]
    assert not np.array_equal(first[1], second[1])


def test_a_batch_without_weight_moves_nothing(compiled: Compiled) -> None:
    _, bundle = compiled("dense")
    size = bundle.manifest.layout.size
    zero = np.zeros((1, size), np.float32)
    new, loss = Learner(bundle).step(
        bundle.weights[None], zero[0], zero, np.ones((1, 3, 6), np.float32),
        np.zeros((1, 3), np.int64), np.zeros((1, 3), np.float32), 0.1, 0.0,
    )  # fmt: skip
    assert np.array_equal(new[0], bundle.weights) and loss[0] == 0


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_momentum_decay_and_clipping_are_those_of_torch(compiled: Compiled, clip: float) -> None:
    """Ten full batches against torch.optim.SGD, which also puts decay after clipping."""
    spec, bundle = compiled("dense")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 6), np.float32)
    y = rng.integers(0, 4, 12)
    plan = LocalPlan(
        epochs=10, batch=12, rate=0.1, momentum=0.9, weight_decay=0.01, gradient_norm_max=clip
    )
    ask = Pass(bundle.weights[None], plan)
    trained = Learner(bundle).run(ask, [Samples(x, y)], keys_of(1, (), np.arange(1)))

    module = spec.prepared()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(y))
        loss.backward()  # type: ignore[no-untyped-call]
        if clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()
    eager = {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
    assert trained.steps.tolist() == [10] and trained.samples.tolist() == [120]
    assert np.abs(trained.weights[0] - spec.layout().flatten(eager)).max() < 1e-5


@pytest.mark.parametrize("name", ["dense", "conv1d", "conv2d"])
def test_int8_mostly_chooses_what_float_chooses(compiled: Compiled, name: str) -> None:
    spec, bundle = compiled(name)
    x = np.random.default_rng(2).standard_normal((300, *spec.input.shape), np.float32)
    exact = Predictor(bundle)(x)
    small = Predictor(bundle, precision="int8")(x)
    assert np.mean(exact.argmax(1) == small.argmax(1)) > 0.9
    assert bundle.manifest.calibration == "noise"


@pytest.mark.parametrize("name", KINDS)
def test_int8_follows_weights_far_from_where_they_began(compiled: Compiled, name: str) -> None:
    """Every kind of layer, biases that are quantised on their own among them."""
    spec, bundle = compiled(name)
    rng = np.random.default_rng(6)
    x, _ = draw(spec, rng, 1, 200)
    noise = rng.standard_normal(bundle.weights.shape, np.float32)
    other = np.float32(2) * bundle.weights + np.float32(0.2) * noise
    exact = Predictor(bundle, weights=other)(x[0])
    small = Predictor(bundle, weights=other, precision="int8", calibration=x[0])(x[0])
    assert np.sqrt(np.mean((small - exact) ** 2)) < 0.15 * exact.std()


def test_integers_do_the_work_in_int8(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales come from outside the graph, and are constants to ONNX Runtime all the same."""
    _, bundle = compiled("conv1d")
    path = tmp_path / "optimised.onnx"

    class Writing(ort.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(path)

    monkeypatch.setattr(ort, "SessionOptions", Writing)
    Predictor(bundle, precision="int8")
    graph = onnx.load(path, load_external_data=False).graph
    kinds = {node.op_type for node in graph.node}
    assert "QLinearConv" in kinds and "Conv" not in kinds


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
def test_swapped_weights_are_really_used(
    compiled: Compiled, name: str, precision: Precision
) -> None:
    """ONNX Runtime reorders convolution kernels; the reordered copy must be of the new ones."""
    spec, bundle = compiled(name)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((40, *spec.input.shape), np.float32)
    other = bundle.weights * np.float32(0.7)
    swapped = Predictor(bundle, precision=precision, calibration=x).with_weights(other)(x)
    named = {k: torch.tensor(v) for k, v in spec.layout().unflatten(other).items()}
    wanted = torch.func.functional_call(spec.prepared(), named, (torch.tensor(x),))
    limit = 1e-5 if precision == "float32" else 0.1 * float(wanted.detach().abs().max())
    assert np.abs(swapped - wanted.detach().numpy()).max() < limit


def test_one_window_equals_a_batch_of_one(compiled: Compiled) -> None:
    spec, bundle = compiled("conv1d")
    predictor = Predictor(bundle)
    x = np.random.default_rng(5).standard_normal((2, *spec.input.shape), np.float32)
    first = predictor.one(x[0]).copy()
    assert np.allclose(first, predictor(x)[0], atol=1e-6)
    assert not np.allclose(predictor.one(x[1]), first)
