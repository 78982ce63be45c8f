"""One rule for each core ATen operation that a training trace can hold.

A rule gets the emitter, the traced node, its arguments with tensors as `Value`, and the shape of
the result for one client.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from hedgerow.author.emit import Dims, Emitter, Rule, Value
from hedgerow.core.errors import UsageError

aten = torch.ops.aten
_TYPES: dict[torch.dtype, tuple[int, np.dtype[Any]]] = {
    torch.float32: (TensorProto.FLOAT, np.dtype(np.float32)),
    torch.int64: (TensorProto.INT64, np.dtype(np.int64)),
    torch.int32: (TensorProto.INT32, np.dtype(np.int32)),
    torch.bool: (TensorProto.BOOL, np.dtype(np.bool_)),
}
Node = torch.fx.Node
RULES: dict[Any, Rule] = {}
"""The rule of each operation."""


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers the rule of `targets`."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[target] = function
        return function

    return register


def _type(dtype: torch.dtype) -> tuple[int, np.dtype[Any]]:
    if dtype not in _TYPES:
        raise UsageError(f"tensors of {dtype} are not compiled; wanted one of {list(_TYPES)}")
    return _TYPES[dtype]


def _operand(emitter: Emitter, value: Any, dtype: torch.dtype) -> Value:
    """A tensor as it is, a plain number as a constant of `dtype`."""
    if isinstance(value, Value):
        return value
    return emitter.literal(np.asarray(value, _type(dtype)[1]))


def _axis(dim: int, rank: int, value: Value) -> int:
    return dim % max(rank, 1) + value.clients


def _dtype(node: Node, index: int = 0) -> torch.dtype:
    """Type of the tensors among a node's operands."""
    tensors = [arg for arg in node.args if isinstance(arg, Node)]
    dtype: torch.dtype = tensors[min(index, len(tensors) - 1)].meta["val"].dtype
    return dtype


# --- one element at a time ---------------------------------------------------------------------

_UNARY = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "neg": "Neg", "relu": "Relu", "abs": "Abs",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "erf": "Erf", "sin": "Sin", "cos": "Cos",
    "reciprocal": "Reciprocal", "logical_not": "Not", "bitwise_not": "Not", "floor": "Floor",
    "sign": "Sign",
}  # fmt: skip
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "gt": "Greater", "lt": "Less",
    "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal", "maximum": "Max",
    "minimum": "Min", "pow": "Pow", "logical_and": "And", "logical_or": "Or",
    "bitwise_and": "And", "bitwise_or": "Or",
}  # fmt: skip


def _unary(kind: str) -> Rule:
    def apply(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
        return e.pointwise(kind, [args[0]], shape)

    return apply


def _binary(kind: str) -> Rule:
    def apply(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
        if kwargs.get("alpha", 1) != 1:
            raise UsageError(f"{node.target} with alpha is not compiled")
        dtype = _dtype(node)
        if kind == "Pow" and args[1] == 2:
            return e.pointwise("Mul", [args[0], args[0]], shape)
        types = [arg.meta["val"].dtype for arg in node.args if isinstance(arg, Node)]
        if len(set(types)) > 1:  # PyTorch promotes by itself, ONNX does not
            dtype = torch.promote_types(types[0], types[1])
            args = [_cast_to(e, value, dtype) for value in args[:2]]
        left, right = _operand(e, args[0], dtype), _operand(e, args[1], dtype)
        return e.pointwise(kind, [left, right], shape)

    return apply


def _cast_to(e: Emitter, value: Value, dtype: torch.dtype) -> Value:
    return e.pointwise("Cast", [value], value.shape, to=_type(dtype)[0])


for _name, _kind in _UNARY.items():
    RULES[getattr(aten, _name).default] = _unary(_kind)
for _name, _kind in _BINARY.items():
    for _overload in ("Tensor", "Scalar", "default", "Tensor_Scalar", "Tensor_Tensor"):
        if hasattr(getattr(aten, _name), _overload):
            RULES[getattr(getattr(aten, _name), _overload)] = _binary(_kind)


# Autograd adds gradients up in place; in the trace the result has taken the place of the old value.
RULES[aten.add_.Tensor] = _binary("Add")


@rule(aten.ne.Scalar, aten.ne.Tensor)
def _not_equal(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    equal = e.pointwise("Equal", [args[0], _operand(e, args[1], _dtype(node))], shape)
    return e.pointwise("Not", [equal], shape)


@rule(aten.rsqrt.default)
def _rsqrt(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    return e.pointwise("Reciprocal", [e.pointwise("Sqrt", [args[0]], shape)], shape)


@rule(aten.gelu.default)
def _gelu(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    def number(value: float) -> Value:
        return e.literal(np.asarray(value, np.float32))

    x = args[0]
    if kwargs.get("approximate", "none") == "tanh":
        cube = e.pointwise("Mul", [e.pointwise("Mul", [x, x], shape), x], shape)
        inner = e.pointwise("Add", [x, e.pointwise("Mul", [cube, number(0.044715)], shape)], shape)
        scaled = e.pointwise("Mul", [inner, number(math.sqrt(2 / math.pi))], shape)
        bend = e.pointwise("Tanh", [scaled], shape)
    else:
        bend = e.pointwise("Erf", [e.pointwise("Mul", [x, number(math.sqrt(0.5))], shape)], shape)
    half = e.pointwise("Mul", [x, number(0.5)], shape)
    return e.pointwise("Mul", [half, e.pointwise("Add", [bend, number(1)], shape)], shape)


@rule(aten.where.self)
def _where(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    return e.pointwise("Where", args, shape)


@rule(aten.clamp.default)
def _clamp(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    low, high = [*args[1:], None, None][:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    value: Value = args[0]
    if low is not None:
        value = e.pointwise("Max", [value, _operand(e, low, _dtype(node))], shape)
    if high is not None:
        value = e.pointwise("Min", [value, _operand(e, high, _dtype(node))], shape)
    return value


@rule(aten._to_copy.default)
def _cast(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value: Value = args[0]
    dtype = node.meta["val"].dtype
    return value if _dtype(node) is dtype else _cast_to(e, value, dtype)


@rule(aten.clone.default, aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
def _same(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value: Value = args[0]
    return value


@rule(aten.full.default, aten.full_like.default)
def _full(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    array = np.full((1,) * len(shape), args[1], _type(node.meta["val"].dtype)[1])
    return Value(e.constant(array), array.shape, shape, False)


# --- products ----------------------------------------------------------------------------------


@rule(aten.mm.default, aten.bmm.default)
def _product(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    left, right = e.whole(args[0]), e.whole(args[1])
    (name,) = e.op("MatMul", left.name, right.name)
    return Value(name, shape, shape, left.clients or right.clients)


@rule(aten.addmm.default)
def _product_plus(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    return e.pointwise("Add", [_product(e, node, args[1:], {}, shape), args[0]], shape)


# --- along dimensions --------------------------------------------------------------------------


def _order(dims: Iterable[int]) -> tuple[int, ...] | None:
    order = tuple(dims)
    return None if order == tuple(range(len(order))) else order


def _by_products(
    e: Emitter, kind: str, value: Value, sizes: list[Any], places: list[int], keep: bool
) -> str | None:
    """A sum or mean that leaves the last dimension, as products with a row of ones.

    ONNX Runtime adds up such a dimension in one order where there are several clients and in
    another where there is one; a product is the same for each client, however many there are, and
    no slower. `sizes` are those in memory, `places` the ones that go. None where sizes in B are in
    the way.
    """
    behind = sizes[places[0] + 1 :]
    if kind not in ("ReduceSum", "ReduceMean") or len(sizes) - 1 in places or not value.clients:
        return None
    if not all(isinstance(size, int) for size in behind):
        return None
    if kind == "ReduceMean" and not all(isinstance(sizes[at], int) for at in places):
        return None
    if not all(e.knows(sizes[at]) for at in places):
        return None
    name, now = value.name, list(sizes)
    for at in reversed(places):
        narrow = [*now[: at + 1], math.prod(now[at + 1 :])]
        name = e.view(name, True, tuple(narrow), tuple(now))
        ones = e.row(now[at], 1.0 if kind == "ReduceSum" else 1.0 / now[at])
        (name,) = e.op("MatMul", ones, name)
        whole = [*now[:at], 1, *now[at + 1 :]]
        name = e.view(name, True, tuple(whole), (*now[:at], 1, narrow[-1]))
        now = whole
    left = [size for at, size in enumerate(now) if keep or at not in places]
    return e.view(name, True, tuple(left), tuple(now))


def _reduction(kind: str) -> Rule:
    def apply(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
        value: Value = args[0] if args[0].dims == args[0].shape else e.whole(args[0])
        counting = _dtype(node) is torch.bool
        if counting:  # in float32, which is exact to 2**24 and far faster than integers
            value = _cast_to(e, value, torch.float32)
        rank = len(value.dims)
        order = value.order or tuple(range(rank))
        dims = [dim % max(rank, 1) for dim in args[1]] if len(args) > 1 and args[1] else order
        keep = args[2] if len(args) > 2 else False
        axes = sorted(order.index(dim) + value.clients for dim in dims)
        sizes = [value.dims[dim] for dim in order]
        places = [axis - value.clients for axis in axes]
        product = _by_products(e, kind, value, sizes, places, keep)
        if product is not None:
            name = product
        else:
            (name,) = e.op(kind, value.name, e.constant(axes), keepdims=int(keep))
        left = [dim for dim in order if keep or dim not in dims]
        place = {dim: index for index, dim in enumerate(sorted(left))}
        result = Value(name, shape, shape, value.clients, order=_order(place[dim] for dim in left))
        return _cast_to(e, result, node.meta["val"].dtype) if counting else result

    return apply


for _target, _kind in (
    (aten.sum.dim_IntList, "ReduceSum"), (aten.sum.default, "ReduceSum"),
    (aten.mean.dim, "ReduceMean"), (aten.mean.default, "ReduceMean"),
    (aten.amax.default, "ReduceMax"), (aten.amin.default, "ReduceMin"),
):  # fmt: skip
    RULES[_target] = _reduction(_kind)


@rule(aten._softmax.default, aten._log_softmax.default)
def _softmax(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    kind = "Softmax" if node.target is aten._softmax.default else "LogSoftmax"
    value = e.whole(args[0])
    (name,) = e.op(kind, value.name, axis=_axis(args[1], len(shape), value))
    return Value(name, shape, shape, value.clients)


# --- shapes ------------------------------------------------------------------------------------


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    return e.reshape(args[0], shape)


@rule(aten.permute.default)
def _permute(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value: Value = args[0]
    moved = [dim % len(shape) for dim in args[1]]
    order = _order(moved.index(dim) for dim in value.order or range(len(shape)))
    dims = tuple(value.dims[dim] for dim in moved)
    return Value(value.name, dims, shape, value.clients, order=order)


@rule(aten.expand.default)
def _expand(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value: Value = args[0]
    if value.shape == shape:
        return value
    missing = len(shape) - len(value.dims)
    if missing:
        return e.unsqueeze(value, range(missing), shape)
    return Value(value.name, value.dims, shape, value.clients, order=value.order)


@rule(aten.unsqueeze.default)
def _unsqueeze(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    return e.unsqueeze(args[0], [args[1] % len(shape)], shape)


@rule(aten.squeeze.dims, aten.squeeze.dim)
def _squeeze(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value = e.whole(args[0])
    rank = len(value.dims)
    dims = [dim % rank for dim in (args[1] if isinstance(args[1], (list, tuple)) else [args[1]])]
    dims = [dim for dim in dims if value.dims[dim] == 1]
    if not dims:
        return value
    return e.reshape(value, shape)


@rule(aten.slice.Tensor)
def _slice(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value = e.whole(args[0])
    if value.dims == shape:
        return value
    defaults: list[Any] = [0, 0, None, 1]
    dim, start, end, step = args[1:] + defaults[len(args) - 1 :]
    stop = 2**62 if end is None else end
    where = [e.constant([number]) for number in (start or 0, stop)]
    axis = e.constant([_axis(dim, len(shape), value)])
    (name,) = e.op("Slice", value.name, *where, axis, e.constant([step]))
    return Value(name, shape, shape, value.clients)


@rule(aten.select.int)
def _select(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value = e.whole(args[0])
    axis = _axis(args[1], len(value.dims), value)
    (name,) = e.op("Gather", value.name, e.constant(args[2]), axis=axis)
    return Value(name, shape, shape, value.clients)


@rule(aten.split_with_sizes.default)
def _split(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> list[Value]:
    value = e.whole(args[0])
    dim = args[2] if len(args) > 2 else 0
    axis = _axis(dim, len(value.dims), value)
    names = e.op("Split", value.name, e.constant(args[1]), outputs=len(args[1]), axis=axis)
    at = axis - value.clients
    shapes = [(*value.dims[:at], size, *value.dims[at + 1 :]) for size in args[1]]
    return [Value(n, s, s, value.clients) for n, s in zip(names, shapes, strict=True)]


@rule(aten.cat.default)
def _cat(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    values = [e.whole(value) for value in args[0]]
    clients = any(value.clients for value in values)
    if clients and not all(value.clients for value in values):
        raise UsageError("the model joins tensors of parameters with constants; add them instead")
    dim = args[1] if len(args) > 1 else 0
    axis = _axis(dim, len(shape), values[0])
    (name,) = e.op("Concat", *(value.name for value in values), axis=axis)
    return Value(name, shape, shape, clients)


@rule(aten.constant_pad_nd.default)
def _pad(e: Emitter, node: Node, args: list[Any], kwargs: Any, shape: Dims) -> Value:
    value = e.whole(args[0])
    fill = args[2] if len(args) > 2 else 0.0
    sides = list(zip(args[1][0::2], args[1][1::2], strict=True))[::-1]
    axes = [place + len(shape) - len(sides) + value.clients for place in range(len(sides))]
    moved = [(axis, side) for axis, side in zip(axes, sides, strict=True) if side != (0, 0)]
    if not moved:
        return value
    at = e.constant([axis for axis, _ in moved])
    before, after = [side[0] for _, side in moved], [side[1] for _, side in moved]
    if max(before + after) <= 0:
        stops = [-amount if amount else 2**62 for amount in after]
        starts = e.constant([-amount for amount in before])
        stops = [amount if amount == 2**62 else -amount for amount in stops]
        (name,) = e.op("Slice", value.name, starts, e.constant(stops), at)
    else:
        filler = e.constant(np.asarray(fill, _type(_dtype(node))[1]))
        (name,) = e.op("Pad", value.name, e.constant(before + after), filler, at)
    return Value(name, shape, shape, value.clients)
