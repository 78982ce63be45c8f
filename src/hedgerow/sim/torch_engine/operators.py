"""The operators of training graphs as PyTorch functions.

Each is built once from a node's attributes. Shapes, axes and the like come as plain numbers, so
that none of them is ever fetched from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from hedgerow.core.errors import UsageError

_DEVICE = "device"
"""Under this name operators are told where they run, beside their own attributes."""

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]

_PLAIN: dict[str, Operator] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Cos": torch.cos,
    "Div": torch.div, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Max": torch.maximum,
    "Min": torch.minimum, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not,
    "Or": torch.logical_or, "Pow": torch.pow, "Reciprocal": torch.reciprocal,
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh, "Where": torch.where,
}  # fmt: skip
_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


def _cast(attributes: Attributes) -> Operator:
    wanted = _TYPES.get(attributes["to"])
    if wanted is None:
        raise UsageError(f"the graph casts to ONNX type {attributes['to']}; wanted {list(_TYPES)}")
    return lambda x: x.to(wanted)


def _reduction(function: Operator) -> Callable[[Attributes], Operator]:
    def build(attributes: Attributes) -> Operator:
        keep = bool(attributes.get("keepdims", 1))
        return lambda x, axes: function(x, dim=tuple(axes), keepdim=keep)

    return build


def _reshape(attributes: Attributes) -> Operator:
    def apply(x: Tensor, shape: list[int]) -> Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    return apply


def _slice(attributes: Attributes) -> Operator:
    def apply(
        x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: Sequence[int] = ()
    ) -> Tensor:
        where = [slice(None)] * x.dim()
        for start, end, axis, step in zip(
            starts, ends, axes, steps or [1] * len(axes), strict=True
        ):
            where[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(where)]

    return apply


def _pad(attributes: Attributes) -> Operator:
    def apply(x: Tensor, pads: list[int], fill: float, axes: list[int]) -> Tensor:
        sides = [0] * (2 * x.dim())
        for i, axis in enumerate(axes):
            at = 2 * (x.dim() - 1 - axis)
            sides[at], sides[at + 1] = pads[i], pads[i + len(axes)]
        return F.pad(x, sides, value=fill)

    return apply


def _gather(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 0)

    def apply(x: Tensor, index: int) -> Tensor:
        if not isinstance(index, int):
            raise UsageError("the graph gathers several places at once; only one is emitted")
        return x.select(axis, index)

    return apply


def _softmax(function: Operator) -> Callable[[Attributes], Operator]:
    return lambda attributes: lambda x: function(x, dim=attributes.get("axis", -1))


def _filled(attributes: Attributes) -> Operator:
    fill = numpy_helper.to_array(attributes["value"]).item()
    return lambda shape: torch.full(shape, fill, device=attributes[_DEVICE])


_BUILT: dict[str, Callable[[Attributes], Operator]] = {
    "Cast": _cast,
    "Concat": lambda attributes: lambda *xs: torch.cat(xs, attributes["axis"]),
    "ConstantOfShape": _filled,
    "Expand": lambda attributes: lambda x, shape: x.expand(np.broadcast_shapes(x.shape, shape)),
    "Gather": _gather,
    "Identity": lambda attributes: lambda x: x,
    "LogSoftmax": _softmax(torch.log_softmax),
    "Pad": _pad,
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Split": lambda attributes: lambda x, sizes: x.split(sizes, attributes.get("axis", 0)),
    "Transpose": lambda attributes: lambda x: x.permute(attributes["perm"]),
}
NUMBERS: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,), "Expand": (1,), "Gather": (1,), "Pad": (1, 2, 3),
    "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceSum": (1,),
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,),
}  # fmt: skip
"""Which inputs are shapes, axes and the like: plain numbers that stay off the device."""
OF_NUMBERS: dict[str, Callable[[Attributes], Operator]] = {
    "Concat": lambda attributes: lambda *parts: [number for part in parts for number in part],
    "Shape": lambda attributes: (
        lambda x: list(x.shape[attributes.get("start", 0) : attributes.get("end")])
    ),
}
"""Operators that make such numbers."""


def operator_of(node: onnx.NodeProto, aside: bool, device: torch.device) -> Operator:
    """The function of a node; `aside`: its result is wanted as plain numbers.

    Raises:
        UsageError: the operator is not known here.
    """
    build = (OF_NUMBERS if aside else _BUILT).get(node.op_type)
    if build is not None:
        own = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        return build({**own, _DEVICE: device})
    if aside or node.op_type not in _PLAIN:
        use = " for a shape" if aside else ""
        raise UsageError(
            f"the training graph uses {node.op_type}{use}, which PyTorch is not told how to run "
            "here; simulate on the CPU, or add the operator in hedgerow.sim.torch_engine"
        )
    return _PLAIN[node.op_type]
