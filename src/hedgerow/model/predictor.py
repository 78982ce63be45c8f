"""Inference: a bundle's forward pass on ONNX Runtime."""

from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.bundle import INFER, INFER_INT8, Bundle, QuantisedTensor
from hedgerow.model.session import open_session

Array = NDArray[np.float32]
Precision = Literal["float32", "int8"]


class Predictor:
    """Runs one set of weights. Not safe to share between threads: `one` reuses its buffers.

    `weights` (shape `[P]`, copied) replaces the bundle's starting point; with `precision="int8"`
    they are quantised here, per channel, so no second file is needed when the model changes.

    Raises:
        UsageError: the weights do not fit, or the bundle has no int8 graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        weights: Vector | None = None,
        precision: Precision = "float32",
        threads: int = 1,
    ) -> None:
        self.bundle = bundle
        self.precision = precision
        self.threads = threads
        chosen = bundle.weights if weights is None else weights
        # ONNX Runtime keeps pointers to these arrays for as long as the session lives.
        self._vector = np.array(chosen, np.float32)
        self._tensors: dict[str, NDArray[np.generic]] = dict(
            bundle.manifest.layout.unflatten(self._vector)
        )
        if precision == "int8":
            self._tensors = quantise(self._tensors, bundle.manifest.quantised)
        graph = bundle.file(INFER_INT8 if precision == "int8" else INFER)
        self._session = open_session(graph, threads=threads, tensors=self._tensors)
        self._core = self._session._sess  # the bound call without the Python layer above it
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._input = np.zeros((1, *bundle.manifest.input.shape), np.float32)
        self._output = np.zeros((1, bundle.manifest.output.size), np.float32)
        self._binding = self._session.io_binding()
        self._keep = [ort.OrtValue.ortvalue_from_numpy(a) for a in (self._input, self._output)]
        self._binding.bind_ortvalue_input("x", self._keep[0])
        self._binding.bind_ortvalue_output("output", self._keep[1])
        self._bound = self._binding._iobinding

    def __call__(self, x: Array) -> Array:
        """Outputs `[B, size]` of inputs `x [B, *shape]`; logits for classification."""
        result = self._core.run(self._outputs, {"x": np.ascontiguousarray(x, np.float32)}, None)
        output: Array = result[0]
        return output

    def one(self, x: Array) -> Array:
        """Output `[size]` of one input `x [*shape]`, with nothing allocated.

        The returned array is overwritten by the next call; copy it to keep it.
        """
        self._input[0] = x
        self._core.run_with_iobinding(self._bound, None)
        first: Array = self._output[0]
        return first

    def with_weights(self, weights: Vector) -> "Predictor":
        """The same bundle, precision and threads with other weights `[P]`."""
        return Predictor(
            self.bundle, weights=weights, precision=self.precision, threads=self.threads
        )


def quantise(
    tensors: dict[str, NDArray[np.generic]], recipe: tuple[QuantisedTensor, ...]
) -> dict[str, NDArray[np.generic]]:
    """Tensors by layout name as `infer.int8.onnx` wants them; those not in `recipe` as they are.

    Raises:
        UsageError: the recipe names a kernel that was not quantised before its bias.
    """
    taken = {step.tensor for step in recipe}
    result = {name: array for name, array in tensors.items() if name not in taken}
    scales: dict[str, Array] = {}
    for step in recipe:
        values = np.asarray(tensors[step.tensor], np.float32)
        if step.kernel:
            if step.kernel not in scales:
                raise UsageError(f"int8 bias {step.tensor!r} comes before kernel {step.kernel!r}")
            scale = scales[step.kernel] * np.float32(step.input_scale)
            whole = np.clip(np.rint(values / scale.astype(np.float64)), -(2**31), 2**31 - 1)
            result[step.quantised] = whole.astype(np.int32)
        else:
            others = tuple(axis for axis in range(values.ndim) if axis != step.axis)
            top = np.abs(values).max(axis=others)
            scale = np.where(top > 0, top / np.float32(127), np.float32(1)).astype(np.float32)
            shape = [1] * values.ndim
            shape[step.axis] = -1
            result[step.quantised] = np.rint(values / scale.reshape(shape)).astype(np.int8)
            scales[step.tensor] = scale
        result[step.scale] = scale
    return result
