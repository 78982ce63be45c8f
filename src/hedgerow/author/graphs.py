"""The two graphs of a bundle, from a module to ONNX bytes."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from hedgerow.author import emit, layers
from hedgerow.author.rules import RULES
from hedgerow.author.spec import Spec
from hedgerow.core.errors import UsageError
from hedgerow.model.learner import INPUTS, OUTPUTS

_BATCH = 23
"""Example B: unlike most sizes in a model."""
Loss = Callable[[Tensor, Tensor], Tensor]


def train_graph(spec: Spec, module: nn.Module) -> bytes:
    """One training step of `module` for K clients, as ONNX; K and B are free."""
    layout = spec.layout()
    examples = _examples(spec, layout.size)
    with _quiet(), layers.Rewritten(layers.TRAINING):
        traced = make_fx(
            _client_step(spec, module),
            decomposition_table=_decompositions(),
            tracing_mode="symbolic",
        )(*_fake(examples))
    target: tuple[str | int, ...] = tuple(examples[4].shape[1:])
    shapes: list[tuple[str | int, ...]] = [
        ("K", layout.size),
        (layout.size,),
        (emit.ONE_FOR_ALL, layout.size),
        ("K", "B", *spec.input.shape),
        ("K", "B", *target),
        ("K", "B"),
        (),
        (),
    ]
    kinds = [
        TensorProto.INT64 if tensor.dtype == torch.int64 else TensorProto.FLOAT
        for tensor in examples
    ]
    inputs = list(zip(INPUTS, kinds, shapes, strict=True))
    outputs = list(zip(OUTPUTS, (("K", layout.size), ("K",)), strict=True))
    return emit.emit(traced, RULES, inputs, outputs)


def infer_graph(spec: Spec, module: nn.Module) -> bytes:
    """The forward pass as ONNX, inputs `x` and then every parameter by its name; B is free."""
    names = [name for name, _ in module.named_parameters()]

    class Forward(nn.Module):
        def forward(self, x: Tensor, *tensors: Tensor) -> Tensor:
            with layers.Rewritten(layers.INFERENCE):
                given = dict(zip(names, tensors, strict=True))
                out: Tensor = functional_call(module, given, (x,))
            return out.flatten(1)

    x = torch.zeros(_BATCH, *spec.input.shape)
    values = [tensor.detach() for _, tensor in module.named_parameters()]
    dynamic: Any = ({0: torch.export.Dim.DYNAMIC}, tuple({} for _ in values))
    with _quiet(), torch.no_grad():
        program = torch.export.export(Forward(), (x, *values), dynamic_shapes=dynamic, strict=False)
        return _write(program, ["x", *names], ["output"])


def _client_step(spec: Spec, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    layout = spec.layout()
    names = [tensor.name for tensor in layout.tensors]
    shapes = [tensor.shape for tensor in layout.tensors]
    sizes = [tensor.size for tensor in layout.tensors]
    loss_of = losses(spec)

    def loss(
        tensors: list[Tensor], x: Tensor, y: Tensor, sample_weight: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = functional_call(module, dict(zip(names, tensors, strict=True)), (x,))
        total = sample_weight.sum()
        mean = (sample_weight * loss_of(out, y)).sum() / total.clamp_min(1e-12)
        return rate * mean, mean

    def step(
        weights: Tensor,
        anchor: Tensor,
        shift: Tensor,
        x: Tensor,
        y: Tensor,
        sample_weight: Tensor,
        rate: Tensor,
        pull: Tensor,
    ) -> tuple[Tensor, Tensor]:
        parts = torch.split(weights, sizes)
        tensors = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        gradients, (_, value) = grad_and_value(loss, has_aux=True)(
            tensors, x, y, sample_weight, rate
        )
        # w − rate·(∇ℓ + pull·(w − anchor) + shift), written so that as little as possible is done
        # to whole vectors of every client: the rate enters where the gradient is still small.
        move = torch.cat([part.reshape(-1) for part in gradients])
        given = rate * (shift - pull * anchor)
        return weights * (1 - rate * pull) - (move + given), value

    return step


def losses(spec: Spec) -> Loss:
    """The loss of each sample `[B]`, of outputs `[B, …]` and targets of one client."""

    def cross_entropy(out: Tensor, y: Tensor) -> Tensor:
        # One-hot by comparison: its derivative needs no scatter.
        hot = (y.unsqueeze(-1) == torch.arange(spec.output.size)).to(out.dtype)
        loss: Tensor = _CrossEntropy.apply(out, hot)  # type: ignore[no-untyped-call]
        return loss

    def squared_error(out: Tensor, y: Tensor) -> Tensor:
        difference = out.flatten(1) - y.flatten(1)
        return (difference * difference).mean(-1)

    return cross_entropy if spec.output.task == "classification" else squared_error


class _CrossEntropy(torch.autograd.Function):
    """−Σ hot · log softmax(out) `[B]` of `out` and `hot` `[B, classes]`, `hot` adding up to 1.

    Its derivative is softmax(out) − hot; what follows from the formula step by step is the same
    with more passes over the data.
    """

    @staticmethod
    def forward(out: Tensor, hot: Tensor) -> Tensor:
        """`[B]`."""
        return -(hot * torch.log_softmax(out, -1)).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Of `out`."""
        out, hot = ctx.saved_tensors
        return gradient.unsqueeze(-1) * (torch.log_softmax(out, -1).exp() - hot), None


def _examples(spec: Spec, size: int) -> list[Tensor]:
    """Inputs of one client's step."""
    targets = {
        "classification": torch.zeros(_BATCH, dtype=torch.int64),
        "regression": torch.zeros(_BATCH, spec.output.size),
        "reconstruction": torch.zeros(_BATCH, *spec.input.shape),
    }
    return [
        torch.zeros(size),
        torch.zeros(size),
        torch.zeros(size),
        torch.zeros(_BATCH, *spec.input.shape),
        targets[spec.output.task],
        torch.ones(_BATCH),
        torch.tensor(0.1),
        torch.tensor(0.0),
    ]


def _fake(examples: list[Tensor]) -> list[Tensor]:
    """Stand-ins whose B is a symbol and whose other sizes are numbers."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    stand_ins: list[Tensor] = []
    for place, tensor in enumerate(examples):
        kinds = [DimDynamic.STATIC] * tensor.dim()
        if INPUTS[place] in ("x", "y", "sample_weight"):
            kinds[0] = DimDynamic.DUCK
        context: Any = StatelessSymbolicContext(dynamic_sizes=kinds)
        stand_ins.append(mode.from_tensor(tensor, symbolic_context=context))
    return stand_ins


def _decompositions() -> dict[Any, Callable[..., Any]]:
    return {
        **core_aten_decompositions(),
        torch.ops.aten.slice_backward.default: _slice_backward,
        torch.ops.aten.threshold_backward.default: _threshold_backward,
    }


def _threshold_backward(gradient: Tensor, result: Tensor, threshold: float) -> Tensor:
    """ReLU's derivative by a product: ONNX Runtime chooses between two tensors far slower."""
    if threshold != 0:
        return torch.where(result <= threshold, 0.0, gradient)
    return gradient * (result > 0).to(gradient.dtype)


def _slice_backward(
    gradient: Tensor, sizes: list[Any], dim: int, start: int, end: int, step: int
) -> Tensor:
    """Padding with zeros instead of writing into zeros."""
    if step != 1:
        raise UsageError("the model takes slices with a step; reshape and select instead")
    dim %= len(sizes)
    after = sizes[dim] - start - gradient.shape[dim]
    return F.pad(gradient, [0, 0] * (len(sizes) - dim - 1) + [start, after])


def _write(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]) -> bytes:
    result = torch.onnx.export(
        program,
        dynamo=True,
        input_names=inputs,
        output_names=outputs,
        opset_version=emit.OPSET,
        verbose=False,
    )
    if result is None:  # pragma: no cover - torch always answers with dynamo=True
        raise RuntimeError("torch.onnx.export answered nothing")
    model = result.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        part.ClearField("metadata_props")  # where in the Python source each node came from
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter warns about matters of its own; what counts is checked by `check`."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
