"""The int8 inference graph: QDQ, kernels per channel, activations from calibration samples."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from hedgerow.core.layout import Layout
from hedgerow.model.bundle import QuantisedTensor

_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Add", "MaxPool"]


def quantised_graph(
    graph: bytes, layout: Layout, samples: NDArray[np.float32]
) -> tuple[bytes, tuple[QuantisedTensor, ...]]:
    """The int8 form of `graph` (input `x`) and how each parameter enters it.

    Activations are unsigned-or-signed 8 bit over the range seen on `samples [n, *shape]`.
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
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            model = onnx.load(target)
    finally:
        logger.setLevel(level)
    return model.SerializeToString(), _recipe(model, layout)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives the samples one by one, as the quantiser asks for them."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self._rows: Iterator[NDArray[np.float32]] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        """The next sample as a batch of one, or None."""
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


def _recipe(model: onnx.ModelProto, layout: Layout) -> tuple[QuantisedTensor, ...]:
    """Read from the graph which parameters became integers, kernels before biases."""
    names = {tensor.name for tensor in layout.tensors}
    constants = {proto.name: proto for proto in model.graph.initializer}
    dequantised = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    sources = {
        node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    kernels: list[QuantisedTensor] = []
    biases: list[QuantisedTensor] = []
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in dequantised:
            continue
        kernel = dequantised[node.input[1]]
        name = kernel.input[0].removesuffix("_quantized")
        if name not in names:
            continue
        axis = next((a.i for a in kernel.attribute if a.name == "axis"), 0)
        kernels.append(
            QuantisedTensor(
                tensor=name, quantised=kernel.input[0], scale=kernel.input[1], axis=axis
            )
        )
        if len(node.input) > 2 and node.input[2] in dequantised:
            bias = dequantised[node.input[2]]
            scale = numpy_helper.to_array(constants[sources[node.input[0]].input[1]])
            biases.append(
                QuantisedTensor(
                    tensor=bias.input[0].removesuffix("_quantized"),
                    quantised=bias.input[0],
                    scale=bias.input[1],
                    kernel=name,
                    input_scale=float(scale),
                )
            )
    return tuple(kernels + biases)
