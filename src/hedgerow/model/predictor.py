"""Inference: a bundle's forward pass on ONNX Runtime."""

from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.model.bundle import INFER, INFER_INT8, Bundle
from hedgerow.model.quantise import measure, quantise, shipped_ranges
from hedgerow.model.session import open_session

Array = NDArray[np.float32]
Precision = Literal["float32", "int8"]


class Predictor:
    """Runs one set of weights. Not safe to share between threads: `one` reuses its buffers.

    `weights` (shape `[P]`, copied) replaces the bundle's starting point. With `precision="int8"`
    they are quantised here, per channel, and the ranges of the activations are measured on
    `calibration`, some typical windows `[n, *shape]`. Without it the ranges in the bundle are
    taken, which hold for the weights they were measured with and for no others.

    Raises:
        UsageError: the weights or windows do not fit, the bundle has no int8 graph, or its ranges
            are those of other weights.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        weights: Vector | None = None,
        precision: Precision = "float32",
        calibration: Array | None = None,
        threads: int = 1,
    ) -> None:
        self.bundle = bundle
        self.precision = precision
        self.calibration = calibration
        self.threads = threads
        chosen = bundle.weights if weights is None else weights
        # ONNX Runtime keeps pointers to these arrays for as long as the session lives.
        self._vector = np.array(chosen, np.float32)
        self._tensors: dict[str, NDArray[np.generic]] = dict(
            bundle.manifest.layout.unflatten(self._vector)
        )
        if precision == "int8":
            if calibration is None:
                ranges = shipped_ranges(bundle, self._vector)
            else:
                ranges = measure(bundle, self._tensors, calibration, threads=threads)
            manifest = bundle.manifest
            self._tensors = quantise(
                self._tensors, manifest.quantised, manifest.activations, ranges
            )
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
        """The same bundle, precision, calibration and threads with other weights `[P]`."""
        return Predictor(
            self.bundle,
            weights=weights,
            precision=self.precision,
            calibration=self.calibration,
            threads=self.threads,
        )
