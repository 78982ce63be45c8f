"""The int8 inference graph (QDQ, kernels per channel), the one that measures its ranges, and what
int8 costs.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout
from hedgerow.model.bundle import Bundle, QuantisedActivation, QuantisedTensor
from hedgerow.model.precision import Int8Evidence, compare
from hedgerow.model.predictor import Predictor

_SHAPES = {"ranges_all": -1, "ranges_axis": 0}
_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Add", "MaxPool"]


def quantised_graph(
    graph: bytes, layout: Layout, samples: NDArray[np.float32]
) -> tuple[bytes, tuple[QuantisedTensor, ...], tuple[QuantisedActivation, ...]]:
    """The int8 form of `graph` (input `x`), how each parameter enters it, and its activations.

    `samples [n, *shape]` only let the quantiser run: the ranges it finds are not kept.
    """
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the quantiser advises a preprocessing that needs more tools
    try:
        with tempfile.TemporaryDirectory() as directory:
            source, target = Path(directory) / "infer.onnx", Path(directory) / "int8.onnx"
            source.write_bytes(graph)
            quantize_static(
                source,
                target,
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                # Signed activations are not fused into integer convolutions on x86.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            model = onnx.load(target)
    finally:
        logger.setLevel(level)
    return model.SerializeToString(), _recipe(model, layout), _activations(model)


def int8_evidence(
    bundle: Bundle, x: NDArray[np.float32], labels: NDArray[np.int64] | None = None
) -> Int8Evidence:
    """What int8 costs this bundle with the weights it carries, on inputs `x [n, *shape]`.

    `labels [n]`, where a classifier's right answers are known.

    Raises:
        UsageError: the inputs or labels do not fit.
    """
    shape = bundle.manifest.input.shape
    if x.shape[1:] != shape or (labels is not None and labels.shape != (len(x),)):
        given = "none" if labels is None else labels.shape
        raise UsageError(
            f"evaluation has inputs {x.shape} and labels {given}; wanted (n, *{shape}) and (n,)"
        )
    exact, small = (Predictor(bundle, precision=kind)(x) for kind in ("float32", "int8"))
    return compare(exact, small, bundle.manifest.output.task, labels)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives the samples one by one, as the quantiser asks for them."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self._rows: Iterator[NDArray[np.float32]] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        """The next sample as a batch of one, or None."""
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


def _activations(model: onnx.ModelProto) -> tuple[QuantisedActivation, ...]:
    """One for each scale. Tensors that share one, as around pooling, lie in the first's range."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] not in found:
            scale, zero_point = node.input[1:]
            tensor = scale.removesuffix("_scale")
            found[scale] = QuantisedActivation(tensor=tensor, scale=scale, zero_point=zero_point)
    return tuple(found.values())


def _recipe(model: onnx.ModelProto, layout: Layout) -> tuple[QuantisedTensor, ...]:
    """Read from the graph which parameters became integers, biases last."""
    names = {tensor.name for tensor in layout.tensors}
    constants = {proto.name: proto for proto in model.graph.initializer}
    sources = {
        node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    biases: dict[str, tuple[str, str]] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in sources:
            quantised, kernel, data = (sources[node.input[place]].input for place in (2, 1, 0))
            biases[quantised[0]] = (kernel[1], data[1])
    steps: list[QuantisedTensor] = []
    for node in sources.values():
        quantised, scale = node.input[:2]
        name = quantised.removesuffix("_quantized")
        if quantised not in constants or name not in names:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        kernel_scale, input_scale = biases.get(quantised, ("", ""))
        whole = not constants[scale].dims and quantised not in biases
        steps.append(
            QuantisedTensor(
                tensor=name,
                quantised=quantised,
                scale=scale,
                axis=axis,
                zero_point=node.input[2] if whole else "",
                kernel_scale=kernel_scale,
                input_scale=input_scale,
            )
        )
    return tuple(sorted(steps, key=lambda step: step.kernel_scale != ""))


def ranges_graph(graph: bytes, activations: Sequence[QuantisedActivation]) -> bytes:
    """`graph` with outputs `low` and `high [n]`: the least and largest value of each activation."""
    model = onnx.load_from_string(graph)
    nodes, sides = model.graph.node, {"ReduceMin": "low", "ReduceMax": "high"}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([value]), name) for name, value in _SHAPES.items()
    )
    for place, activation in enumerate(activations):
        flat = f"ranges_flat_{place}"
        nodes.append(helper.make_node("Reshape", [activation.tensor, "ranges_all"], [flat]))
        nodes.extend(
            helper.make_node(kind, [flat, "ranges_axis"], [f"ranges_{side}_{place}"])
            for kind, side in sides.items()
        )
    del model.graph.output[:]
    for side in sides.values():
        parts = [f"ranges_{side}_{place}" for place in range(len(activations))]
        nodes.append(helper.make_node("Concat", parts, [side], axis=0))
        shape = [len(activations)]
        model.graph.output.append(helper.make_tensor_value_info(side, TensorProto.FLOAT, shape))
    data: bytes = model.SerializeToString()
    return data
