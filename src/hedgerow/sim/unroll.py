"""Several training steps in one graph, derived from a bundle's one-step graph.

A simulated round runs a graph of a few microseconds' work for each client millions of times.
Written out one behind the other, steps need no call between them, and the flat weights stay apart
as tensors from the first step to the last. The pull and the shift, which are zero in plain
training, are left out with all that is only made of them. What remains is the same operations on
the same numbers, so weights and losses have the same bits as step by step (but for the sign of a
weight that is zero).

Needs onnx (extra `sim`); without it, training goes step by step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hedgerow.model.bundle import Bundle
from hedgerow.model.descent import OF_EACH, OUTPUTS, numbered
from hedgerow.model.learner import Learner

if TYPE_CHECKING:
    import onnx

STEPS = 4
"""As measured: more save little more, and few passes have as many."""
_ZERO = ("anchor", "shift", "pull")
_NUMBERS = 154_000
_NUMBERS_SLIDING = 80_000
_UNKNOWN = 99  # a rank


def learner_of(bundle: Bundle) -> Learner:
    """A learner that takes several plain steps at once, where onnx is installed."""
    if importlib.util.find_spec("onnx") is None:
        return Learner(bundle, together=abreast(bundle))
    return Learner(
        bundle,
        together=abreast(bundle),
        stride=STEPS,
        unrolled=partial(unrolled, steps=STEPS, common=_wide(bundle)),
    )


def abreast(bundle: Bundle) -> int:
    """How many clients take their steps at a time, as measured: small models share what each call
    costs, until their numbers no longer fit a processor's cache; kernels that slide make many more
    of those.
    """
    layout = bundle.manifest.layout
    slides = any(len(tensor.shape) > 2 for tensor in layout.tensors)
    return max(1, min(64, (_NUMBERS_SLIDING if slides else _NUMBERS) // layout.size))


def _wide(bundle: Bundle) -> bool:
    """Whether products by weights all have several columns. ONNX Runtime multiplies many clients'
    rows by common weights at once; with one column it adds up in another order then.
    """
    return all(1 not in tensor.shape[:2] for tensor in bundle.manifest.layout.tensors)


def unrolled(graph: bytes, steps: int, *, common: bool = True) -> list[bytes]:
    """`steps` plain steps of a training graph, from each client's own weights, and, if wanted, from
    weights `[1, P]` that are `common` to all; none if it is not built as this needs it.

    Inputs: `weights`, `rate`, and for each step `x`, `y` and `sample_weight`, which are called
    `numbered(name, step)`; outputs: `weights_next`, and `loss` for each step.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    unroller = _Unroller(model.graph)
    try:
        for step in range(steps):
            unroller.step(step)
        unroller.finish(steps)
    except _Unfit:
        return []
    graphs = [model.SerializeToString()]
    if common:
        # A size known to be 1 keeps ONNX Runtime from writing all clients' next weights over it.
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        graphs.append(model.SerializeToString())
    return graphs


class _Unfit(Exception):
    """Something is made of a zero that is not known to stay one."""


class _Unroller:
    """Writes steps into a graph in place of its own nodes.

    Some tensors are only known about, and no node makes them: those that are 0 or 1 throughout
    (`_number`), and those that are others joined along the second axis (`_parts`), which are made
    once something else needs them.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._written = list(graph.node)
        del graph.node[:]
        self._number: dict[str, float] = dict.fromkeys(_ZERO, 0.0)
        self._rank = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
        self._ghosts = set(_ZERO)
        self._constants = {tensor.name for tensor in graph.initializer}
        for tensor in graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.size == 1 and values.dtype.kind == "f" and values.item() in (0.0, 1.0):
                self._number[tensor.name] = values.item()
                self._rank[tensor.name] = values.ndim
        self._parts: dict[str, list[str]] = {}
        self._made: dict[tuple[str, tuple[str, ...], bytes], list[str]] = {}
        self._weights = "weights"
        self._whole = {"weights"}

    def step(self, step: int) -> None:
        """Write one more step."""
        names = {name: name for name in (*self._rank, *self._constants, "")}
        names |= {name: numbered(name, step) for name in OF_EACH}
        names["weights"] = self._weights
        for node in self._written:
            inputs = [names[name] for name in node.input]
            names |= zip(node.output, self._node(node, inputs, step), strict=True)
        self._weights = names[OUTPUTS[0]]
        self._write("Identity", [names[OUTPUTS[1]]], [numbered(OUTPUTS[1], step)])

    def finish(self, steps: int) -> None:
        """Name what comes out, and put the new inputs and outputs in place of the old ones."""
        self._write("Identity", [self._weights], [OUTPUTS[0]])
        for values, kept, each in (
            (self._graph.input, ("weights", "rate"), OF_EACH),
            (self._graph.output, OUTPUTS[:1], OUTPUTS[1:]),
        ):
            known = {value.name: value for value in values}
            wanted = [(name, name) for name in kept]
            wanted += [(name, numbered(name, step)) for step in range(steps) for name in each]
            del values[:]
            for name, new in wanted:
                values.add().CopyFrom(known[name])
                values[-1].name = new

    def _node(self, node: onnx.NodeProto, inputs: list[str], step: int) -> list[str]:
        """Write a node unless it can be left out; the names of its results."""
        if node.op_type == "Identity":
            return inputs
        outputs = [f"{name}.{step}" for name in node.output]
        if node.op_type in ("Add", "Sub", "Mul"):
            known = self._known(node.op_type, inputs, outputs[0])
            if known is not None:
                return [known]
        if node.op_type == "Split" and inputs[0] == self._weights:
            if inputs[0] in self._parts:
                return self._parts[inputs[0]]
            self._parts[inputs[0]] = outputs
        axes = [each.i for each in node.attribute if each.name == "axis"]
        if node.op_type == "Concat" and axes == [1]:
            self._parts[outputs[0]] = inputs
            return outputs
        if node.op_type == "Shape" and inputs[0] == numbered("x", step):
            inputs = [numbered("x", 0)]  # every step's samples have one shape
        attributes = b"".join(each.SerializeToString() for each in node.attribute)
        key = node.op_type, tuple(inputs), attributes
        if key not in self._made:
            self._write(node.op_type, inputs, outputs, node.attribute)
            self._made[key] = outputs
        return self._made[key]

    def _known(self, kind: str, inputs: list[str], output: str) -> str | None:
        """What `inputs` come to if no node is needed for that, or only nodes on parts."""
        left, right = inputs
        numbers = [self._number.get(name) for name in inputs]
        parts = [self._parts.get(name, []) for name in inputs]
        if kind == "Mul" and 0.0 in numbers:
            return self._ghost(0.0, inputs, output)
        if kind == "Mul" and 1.0 in numbers:
            one, other = (left, right) if numbers[0] == 1.0 else (right, left)
            return other if self._rank[one] == 0 else None
        if kind in ("Add", "Sub") and numbers[1] == 0.0:
            if numbers[0] is not None:
                return self._ghost(numbers[0], inputs, output)
            return left if parts[0] else None
        if kind == "Add" and numbers[0] == 0.0:
            return right if parts[1] else None
        if parts[0] and parts[1]:
            made = [f"{output}.{place}" for place in range(len(parts[0]))]
            for one, other, name in zip(*parts, made, strict=True):
                self._write(kind, [one, other], [name])
            self._parts[output] = made
            return output
        return None

    def _ghost(self, number: float, inputs: list[str], output: str) -> str:
        self._ghosts.add(output)
        self._number[output] = number
        self._rank[output] = max(self._rank.get(name, _UNKNOWN) for name in inputs)
        return output

    def _write(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Sequence[onnx.AttributeProto] = (),
    ) -> None:
        """Add a node, and before it what makes those of its inputs that are only known about."""
        from onnx import helper

        if not self._ghosts.isdisjoint(inputs):
            raise _Unfit
        for name in inputs:
            if name in self._parts and name not in self._whole:
                self._whole.add(name)
                self._write("Concat", self._parts[name], [name], [helper.make_attribute("axis", 1)])
        node = self._graph.node.add()
        node.op_type = kind
        node.input.extend(inputs)
        node.output.extend(outputs)
        node.attribute.extend(attributes)
