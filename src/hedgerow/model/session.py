"""Opening ONNX Runtime sessions the one way devices want them: few threads, no spinning."""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError


def open_session(
    graph: bytes, *, threads: int = 1, tensors: Mapping[str, NDArray[np.generic]] | None = None
) -> ort.InferenceSession:
    """A CPU session on `graph`, with `tensors` as its external initialisers by name.

    External initialisers enter before the graph is optimised. (`SessionOptions.add_initializer`
    enters after, so an optimiser that has already reordered a kernel goes on using the old one.)

    Raises:
        UsageError: ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without this, x86 processors before VNNI add up products of int8 in saturating 16 bit numbers.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if tensors:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in tensors.values()]
        options.add_external_initializers(list(tensors), values)
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise UsageError(f"ONNX Runtime cannot run this graph: {error}") from error
