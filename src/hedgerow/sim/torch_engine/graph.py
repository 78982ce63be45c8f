"""Runs a training graph with PyTorch, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.descent import INPUTS, OUTPUTS
from hedgerow.model.learner import Array
from hedgerow.sim.torch_engine.operators import NUMBERS, Operator, operator_of


@dataclass(frozen=True)
class _Node:
    apply: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    forgets: tuple[str, ...]
    """What nobody needs any more after this node."""


class TorchStep:
    """One training step for K clients at once, by PyTorch on `device`."""

    def __init__(self, graph: bytes, device: str = "cuda") -> None:
        """Raises:
        UsageError: an operator is not known here, or there is no such device.
        """
        self.device = _device(device)
        model = onnx.load_model_from_string(graph)
        numbers = _numbers(model.graph)
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self._constants: dict[str, Any] = {
            name: torch.from_numpy(array.copy()).to(self.device)
            for name, array in constants.items()
        }
        self._constants |= {
            _aside(name): array.tolist() for name, array in constants.items() if name in numbers
        }
        self._nodes = _nodes(model.graph, numbers, set(self._constants), self.device)

    @torch.inference_mode()
    def on_device(self, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The graph on tensors that are there already, in the order of `INPUTS`: new weights
        `[K, P]` and losses `[K]`.
        """
        known: dict[str, Any] = {**self._constants, **dict(zip(INPUTS, values, strict=True))}
        for node in self._nodes:
            results = node.apply(*(known[name] for name in node.inputs))
            if len(node.outputs) == 1:
                known[node.outputs[0]] = results
            else:
                known.update(zip(node.outputs, results, strict=True))
            for name in node.forgets:
                del known[name]
        weights, loss = (known[name] for name in OUTPUTS)
        return weights, loss

    def __call__(
        self,
        weights: Array,
        anchor: Vector,
        shift: Array,
        x: Array,
        y: NDArray[np.generic],
        sample_weight: Array,
        rate: float,
        pull: float,
    ) -> tuple[Array, Array]:
        """The graph as it is, arrays in and out; shapes as in `Learner.step`."""
        scalars = np.asarray(rate, np.float32), np.asarray(pull, np.float32)
        arrays = (weights, anchor, shift, x, y, sample_weight, *scalars)
        new, loss = self.on_device([self.tensor(array) for array in arrays])
        return new.cpu().numpy(), loss.cpu().numpy()

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """An array on the device; on a CPU it may share the array's memory."""
        return torch.from_numpy(np.require(array, requirements=("C", "W"))).to(self.device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # how PyTorch says that there is none
        reason = str(error).splitlines()[0]
        raise UsageError(f"PyTorch has no device {name!r} here: {reason}; use cpu") from error
    return device


def _aside(name: str) -> str:
    """Under what name the plain numbers of a value are kept."""
    return f"{name} as numbers"


def _numbers(graph: onnx.GraphProto) -> set[str]:
    """Values that are wanted as plain numbers, and what those are made of."""
    wanted: set[str] = set()
    for node in reversed(graph.node):
        places = NUMBERS.get(node.op_type, ())
        wanted |= {node.input[place] for place in places if place < len(node.input)}
        if wanted.intersection(node.output) and node.op_type == "Concat":
            wanted |= set(node.input)
    return wanted


def _nodes(
    graph: onnx.GraphProto, numbers: set[str], constants: set[str], device: torch.device
) -> list[_Node]:
    """What to do in turn, without what nothing is made of."""
    kept = {*OUTPUTS, *INPUTS, *constants}
    needed = set(OUTPUTS)
    nodes = []
    for node in reversed(graph.node):
        outputs = [_aside(name) if name in numbers else name for name in node.output]
        if needed.isdisjoint(outputs):
            continue
        aside = outputs[0] != node.output[0]
        places = set(NUMBERS.get(node.op_type, ()))
        if aside and node.op_type == "Concat":
            places = set(range(len(node.input)))
        inputs = [_aside(n) if i in places else n for i, n in enumerate(node.input)]
        last = {*inputs, *outputs} - needed - kept
        needed |= set(inputs)
        nodes.append(
            _Node(operator_of(node, aside, device), tuple(inputs), tuple(outputs), tuple(last))
        )
    return nodes[::-1]
