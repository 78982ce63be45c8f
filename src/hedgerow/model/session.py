"""Opening ONNX Runtime sessions the one way devices want them: few threads, no spinning."""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.providers import CPU, Provider, devices


def open_session(
    graph: bytes,
    *,
    threads: int = 1,
    tensors: Mapping[str, NDArray[np.generic]] | None = None,
    provider: Provider = CPU,
) -> ort.InferenceSession:
    """A session on `graph`, with `tensors` as its external initialisers by name.

    What `provider` cannot run, the processor does.

    External initialisers enter before the graph is optimised. (`SessionOptions.add_initializer`
    enters after, so an optimiser that has already reordered a kernel goes on using the old one.)

    Raises:
        UsageError: ONNX Runtime refuses the graph, or the provider does not start.
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
    names: list[object] = ["CPUExecutionProvider"]
    found = devices(provider) if provider is not CPU else []
    if found:
        options.add_provider_for_devices(found, provider.options)
        names = []
    elif provider is not CPU:
        names.insert(0, (provider.kind, provider.options))
    try:
        # Its own fallback prints to standard output, and goes on without saying so.
        session = ort.InferenceSession(graph, options, providers=names or None, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise UsageError(f"ONNX Runtime cannot run this graph: {error}") from error
    started = session.get_providers()
    if provider.kind not in started:
        raise UsageError(f"{provider.kind} did not start; ONNX Runtime fell back to {started}")
    return session
