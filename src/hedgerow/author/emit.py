"""From a traced function of one client to an ONNX graph for K clients.

The trace is plain forward arithmetic with a symbolic batch B. Here each value gets the clients as
a leading dimension, which is what `vmap` would do, but shapes stay readable to ONNX Runtime: a
reshape copies K and infers B (`0` and `-1`) where a general exporter computes shapes at run time,
and an expansion is kept in mind, not carried out, until something needs it.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedgerow.core.errors import UsageError

OPSET = 18
IR_VERSION = 9
ONE_FOR_ALL = "K or 1"
"""The leading size of an input that may be one row for all clients."""
_aten = torch.ops.aten
Dims = tuple[Any, ...]
"""Sizes of one client's tensor: numbers, or the expression in B as text."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph. `clients`: it has the leading K. `dims` leaves K out and says what is
    really there; where that is 1 and `shape` is more, the tensor only stands for a larger one.
    `order` says which of `dims` lies where in memory, so that a permutation moves nothing.
    """

    name: str
    dims: Dims
    shape: Dims
    clients: bool
    array: NDArray[Any] | None = None
    """The value itself, where it is constant."""
    order: tuple[int, ...] | None = None
    """The dimension stored at each place; None is as they are counted."""


class Emitter:
    """Collects nodes and initialisers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[str, Dims, bytes], str] = {}
        self.initializers: list[onnx.TensorProto] = []
        self.sizes: dict[str, str] = {}
        self._count = 0
        self._views: dict[str, tuple[str, Dims]] = {}
        self._made: dict[tuple[str, tuple[str, ...], str], list[str]] = {}

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node, unless there is the same already; the names of its outputs."""
        key = (kind, inputs, repr(sorted(attributes.items())))
        if key in self._made:
            return self._made[key]
        names = [
            f"{kind}_{self._count}_{i}" if outputs > 1 else f"{kind}_{self._count}"
            for i in range(outputs)
        ]
        self._count += 1
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        self._made[key] = names
        return names

    def constant(self, array: NDArray[Any] | Sequence[int] | int) -> str:
        """The name of an initialiser holding `array`, int64 if plain numbers."""
        values = np.asarray(array) if isinstance(array, np.ndarray) else np.asarray(array, np.int64)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[key] = name
            self.initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return self.constants[key]

    def literal(self, array: NDArray[Any]) -> Value:
        """A constant value without K."""
        return Value(self.constant(array), array.shape, array.shape, False, array)

    def whole(self, value: Value) -> Value:
        """The value with its permutation and expansion carried out."""
        value = self.ordered(value, None)
        if value.dims == value.shape:
            return value
        parts = [self._size(dim) for dim in value.shape]
        if value.clients:
            parts.insert(0, self.constant([1]))  # broadcasting leaves K as it is
        (target,) = self.op("Concat", *parts, axis=0)
        (name,) = self.op("Expand", value.name, target)
        return replace(value, name=name, dims=value.shape, array=None)

    def ordered(self, value: Value, order: tuple[int, ...] | None) -> Value:
        """The value with its dimensions stored in `order`."""
        if value.order == order:
            return value
        counted = tuple(range(len(value.dims)))
        source, target = value.order or counted, order or counted
        now, sizes = (tuple(value.dims[dim] for dim in dims) for dims in (source, target))
        if _moving(value.dims, source) == _moving(value.dims, target):
            name = self.view(value.name, value.clients, sizes, now)
        else:
            lead = [0] if value.clients else []
            perm = lead + [source.index(dim) + value.clients for dim in target]
            (name,) = self.op("Transpose", value.name, perm=perm)
        return replace(value, name=name, order=order)

    def _size(self, dim: Any) -> str:
        if isinstance(dim, int):
            return self.constant([dim])
        if dim not in self.sizes:
            raise UsageError(f"the size {dim} is not that of an input; it cannot be compiled")
        return self.sizes[dim]

    def reshape(self, value: Value, shape: Dims) -> Value:
        """The value in another shape of as many elements."""
        return self._shaped(self.whole(value), shape, shape)

    def unsqueeze(self, value: Value, axes: Sequence[int], shape: Dims) -> Value:
        """Dimensions of size 1 put in at `axes` of the result, K not counted."""
        value = self.ordered(value, None)
        dims = list(value.dims)
        for axis in sorted(axes):
            dims.insert(axis, 1)
        return self._shaped(value, tuple(dims), shape)

    def _shaped(self, value: Value, dims: Dims, shape: Dims) -> Value:
        name = self.view(value.name, value.clients, dims, value.dims)
        return Value(name, dims, shape, value.clients)

    def view(self, name: str, clients: bool, sizes: Dims, now: Dims) -> str:
        """What lies at `name` in sizes `now`, seen in other sizes. A view of a view is one view."""
        name, now = self._views.get(name, (name, now))
        if now == sizes:
            return name
        numbers = [dim if isinstance(dim, int) else -1 for dim in sizes]
        if numbers.count(-1) > 1:
            raise UsageError(f"reshaping {now} to {sizes} leaves two sizes open")
        lead = [0] if clients else []
        (seen,) = self.op("Reshape", name, self.constant(lead + numbers))
        self._views[seen] = name, now
        return seen

    def knows(self, dim: Any) -> bool:
        """Whether a size is a number or that of an input."""
        return isinstance(dim, int) or dim in self.sizes

    def row(self, count: Any, fill: float) -> str:
        """A matrix `[1, count]` of one number; `count` may be a size in B."""
        if isinstance(count, int):
            return self.constant(np.full((1, count), fill, np.float32))
        (shape,) = self.op("Concat", self.constant([1]), self._size(count), axis=0)
        (name,) = self.op("ConstantOfShape", shape, value=_filling(fill))
        return name

    def ranked(self, value: Value, rank: int) -> Value:
        """With K kept in front, enough sizes of 1 behind it to reach `rank`."""
        missing = rank - len(value.dims)
        if missing <= 0 or not value.clients:
            return value
        shape = (1,) * missing + value.shape
        return self.unsqueeze(value, range(missing), shape)

    def pointwise(self, kind: str, values: list[Value], shape: Dims, **attributes: Any) -> Value:
        """An elementwise node with broadcasting."""
        rank = max(len(value.dims) for value in values)
        ranked = [self.ranked(value, rank) for value in values]
        dims: list[Any] = [1] * rank
        for value in ranked:
            for back in range(1, len(value.dims) + 1):
                if value.dims[-back] != 1:
                    dims[-back] = value.dims[-back]
        order = self._common(ranked, dims)
        ranked = [self._beside(value, order) for value in ranked]
        (name,) = self.op(kind, *(value.name for value in ranked), **attributes)
        clients = any(value.clients for value in values)
        return Value(name, tuple(dims), shape, clients, order=order)

    def _common(self, values: list[Value], dims: list[Any]) -> tuple[int, ...] | None:
        """The order in memory that an elementwise node over `values` does best in."""
        counted = tuple(range(len(dims)))
        known = [(value, value.order) for value in values if value.order is not None]
        moved = {o for v, o in known if _moving(v.dims, o) != _moving(v.dims, counted)}
        if len(moved) > 1:
            return None
        for order in (*moved, *(o for _, o in known if dims[o[-1]] != 1)):
            return order
        large = [dim for dim in counted if dims[dim] != 1]
        if len(large) < 2 or dims[-1] != 1:
            return None
        # ONNX Runtime takes elements one by one where the last dimension has size 1.
        return (*(dim for dim in counted if dim != large[-1]), large[-1])

    def _beside(self, value: Value, order: tuple[int, ...] | None) -> Value:
        """Stored in `order`, as an operand of lower rank may be only once it has that rank."""
        if order is not None and 0 < len(value.dims) < len(order):
            missing = len(order) - len(value.dims)
            value = self.unsqueeze(value, range(missing), (1,) * missing + value.shape)
        return self.ordered(value, order) if value.dims else value


def _filling(number: float) -> onnx.TensorProto:
    return helper.make_tensor("fill", TensorProto.FLOAT, [1], [number])


def _moving(dims: Dims, order: Sequence[int]) -> list[int]:
    """The dimensions larger than 1 as they lie in memory: only their order is one."""
    return [dim for dim in order if dims[dim] != 1]


Rule = Callable[[Emitter, torch.fx.Node, list[Any], dict[str, Any], Dims], Any]
Rules = Mapping[Any, Rule]
"""How to emit each operation."""


def emit(
    traced: torch.fx.GraphModule,
    rules: Rules,
    inputs: Sequence[tuple[str, int, tuple[str | int, ...]]],
    outputs: Sequence[tuple[str, tuple[str | int, ...]]],
) -> bytes:
    """The ONNX model of `traced`.

    `inputs` and `outputs` are names and shapes with `"K"` and `"B"` free; an input gives its ONNX
    element type between the two. Results without K are refused.

    Raises:
        UsageError: the trace holds an operation that has no rule here.
    """
    traced.graph.eliminate_dead_code()
    emitter = Emitter()
    known: dict[torch.fx.Node, Any] = {}
    places = iter(inputs)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            name, _, shape = next(places)
            known[node] = _input(emitter, node, name, shape)
        elif node.op == "get_attr":
            known[node] = emitter.literal(_attribute(traced, node.target).detach().cpu().numpy())
        elif node.op == "call_function":
            known[node] = _call(emitter, rules, node, known)
        else:
            answers: Any = node.args[0]
            results: list[Value] = [known[answer] for answer in answers]
    for (name, _), result in zip(outputs, results, strict=True):
        if not result.clients:
            raise UsageError(f"{name} does not depend on the client's weights")
        emitter.nodes.append(helper.make_node("Identity", [emitter.whole(result).name], [name]))
    graph = helper.make_graph(
        _needed(emitter.nodes, {name for name, _ in outputs}),
        "train",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in outputs],
        emitter.initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hedgerow",
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that something is made of, in their order."""
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def shape_of(node: torch.fx.Node) -> Dims:
    """The shape a traced node has, sizes in B as text."""
    return tuple(size if isinstance(size, int) else str(size) for size in node.meta["val"].shape)


def _input(emitter: Emitter, node: torch.fx.Node, name: str, shape: Dims) -> Value:
    dims = shape_of(node)
    clients = bool(shape) and shape[0] in ("K", ONE_FOR_ALL)
    for place, dim in enumerate(dims):
        if not isinstance(dim, int) and dim not in emitter.sizes:
            at = place + clients
            (emitter.sizes[dim],) = emitter.op("Shape", name, start=at, end=at + 1)
    return Value(name, dims, dims, clients)


def _attribute(module: Any, path: str) -> torch.Tensor:
    for part in path.split("."):
        module = getattr(module, part)
    tensor: torch.Tensor = module
    return tensor


def _call(
    emitter: Emitter, rules: Rules, node: torch.fx.Node, known: dict[torch.fx.Node, Any]
) -> Any:
    if node.target is _aten.sym_size.int or not isinstance(
        node.meta.get("val"), (torch.Tensor, tuple, list)
    ):
        return None  # sizes are read from the shapes of the trace
    mapped: Any = torch.fx.map_arg(node.args, lambda n: known[n])
    args: list[Any] = list(mapped)
    kwargs = dict(torch.fx.map_arg(node.kwargs, lambda n: known[n]))
    folded = _fold(node, args, kwargs)
    if folded is not None:
        return emitter.literal(folded)
    if node.target is operator.getitem:
        parts, index = args
        return parts[index]
    rule = rules.get(node.target)
    if rule is None:
        raise UsageError(
            f"the model uses {node.target}, which the training graph has no rule for; "
            "use another layer, or add a rule in hedgerow.author.rules"
        )
    shape = shape_of(node) if isinstance(node.meta["val"], torch.Tensor) else ()
    return rule(emitter, node, args, kwargs, shape)


def _fold(node: torch.fx.Node, args: list[Any], kwargs: dict[str, Any]) -> NDArray[Any] | None:
    """The result, if nothing it is made of depends on an input or on B."""
    if not isinstance(node.meta["val"], torch.Tensor):
        return None
    if any(not isinstance(size, int) for size in shape_of(node)):
        return None

    def known(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(known(item) for item in value)
        return (
            value is not None
            and not isinstance(value, torch.SymInt)
            and (not isinstance(value, Value) or value.array is not None)
        )

    def real(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [real(item) for item in value]
        if isinstance(value, Value) and value.array is not None:
            return torch.from_numpy(value.array.copy())
        return value

    if not all(known(arg) for arg in args if arg is not None):
        return None
    if not all(known(arg) for arg in kwargs.values() if arg is not None):
        return None
    target: Any = node.target
    plain = {key: real(item) for key, item in kwargs.items()}
    result: NDArray[Any] = target(*(real(arg) for arg in args), **plain).numpy()
    return result
