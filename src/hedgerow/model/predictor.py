"""Inference: a bundle's forward pass on ONNX Runtime."""

import sys
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.model.bundle import INFER, INFER_INT8, Bundle
from hedgerow.model.choice import Asked, Tensors, choose
from hedgerow.model.precision import Precision
from hedgerow.model.providers import CPU, KNOWN
from hedgerow.model.quantise import int8_tensors
from hedgerow.model.running import Choice
from hedgerow.model.session import open_session

__all__ = ["Precision", "Predictor"]

Array = NDArray[np.float32]
_ROWS_MAX = 64
"""Rows that the processor computes at once. More are no faster, and ONNX Runtime keeps the memory
that the largest batch ever took."""
_PROVIDERS = {provider.name: provider for provider in KNOWN}


class Predictor:
    """Runs one set of weights. Not safe to share between threads: `one` reuses its buffers.

    `weights` (shape `[P]`, copied) replaces the bundle's starting point. With `precision="int8"`
    they are quantised here, per channel, and the ranges of the activations are measured on
    `calibration`, some typical windows `[n, *shape]`. Without it the ranges in the bundle are
    taken, which hold for the weights they were measured with and for no others.

    With `precision="auto"` int8 is taken where it holds, and `providers` are tried in their order
    (`("auto",)`: all there are); `choice` says what was taken, and why not the others
    (`hedgerow.model.choice`). `clock` tells seconds, so that what is slower here is not taken.

    Raises:
        UsageError: the weights or windows do not fit, the bundle has no int8 graph, or its ranges
            are those of other weights; a provider is asked for by name that cannot be had.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        weights: Vector | None = None,
        precision: str = "float32",
        calibration: Array | None = None,
        threads: int = 1,
        providers: Sequence[str] = ("cpu",),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.bundle = bundle
        self.calibration = calibration
        self._asked = Asked(precision, tuple(providers), threads, clock)
        chosen = bundle.weights if weights is None else weights
        # ONNX Runtime keeps pointers to these arrays for as long as the session lives.
        self._vector = np.array(chosen, np.float32)
        self._tensors: Tensors = dict(bundle.manifest.layout.unflatten(self._vector))
        self.choice: Choice = choose(bundle, self._vector, self._tensors, calibration, self._asked)
        if self.choice.precision == "int8":
            self._tensors = int8_tensors(
                bundle, self._vector, self._tensors, calibration, threads=threads
            )
        graph = bundle.file(INFER_INT8 if self.choice.precision == "int8" else INFER)
        provider = _PROVIDERS[self.choice.provider]
        self._session = open_session(
            graph, threads=threads, tensors=self._tensors, provider=provider
        )
        self._rows_max = _ROWS_MAX if provider is CPU else sys.maxsize
        self._core = self._session._sess  # the bound call without the Python layer above it
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._bind()

    def _bind(self) -> None:
        schema, output = self.bundle.manifest.input, self.bundle.manifest.output
        self._input = np.zeros((1, *schema.shape), np.float32)
        self._output = np.zeros((1, output.size), np.float32)
        self.row: Array = self._input[0]
        """What `answer` answers to, `[*shape]`: write the features of a window here."""
        self._answer: Array = self._output[0]
        self._binding = self._session.io_binding()
        self._keep = [ort.OrtValue.ortvalue_from_numpy(a) for a in (self._input, self._output)]
        self._binding.bind_ortvalue_input("x", self._keep[0])
        self._binding.bind_ortvalue_output("output", self._keep[1])
        self._bound = self._binding._iobinding
        self._options = ort.RunOptions()  # made once: a call that makes its own takes longer

    @property
    def precision(self) -> Precision:
        """In what numbers it computes."""
        return self.choice.precision

    def __call__(self, x: Array) -> Array:
        """Outputs `[B, size]` of inputs `x [B, *shape]`; logits for classification."""
        rows = np.ascontiguousarray(x, np.float32)
        if len(rows) <= self._rows_max:
            output: Array = self._core.run(self._outputs, {"x": rows}, self._options)[0]
            return output
        out = np.empty((len(rows), self.bundle.manifest.output.size), np.float32)
        for first in range(0, len(rows), self._rows_max):
            part = rows[first : first + self._rows_max]
            out[first : first + len(part)] = self._core.run(
                self._outputs, {"x": part}, self._options
            )[0]
        return out

    def one(self, x: Array) -> Array:
        """Output `[size]` of one input `x [*shape]`, with nothing allocated.

        The returned array is overwritten by the next call; copy it to keep it.
        """
        self.row[...] = x
        return self.answer()

    def answer(self) -> Array:
        """Output `[size]` of what lies in `row`, overwritten by the next call."""
        self._core.run_with_iobinding(self._bound, self._options)
        return self._answer

    def with_weights(self, weights: Vector) -> "Predictor":
        """The same with other weights `[P]`: asked for the same precision, calibration, threads.

        The provider is the one this one took; another is not tried.
        """
        return Predictor(
            self.bundle,
            weights=weights,
            precision=self._asked.precision,
            calibration=self.calibration,
            threads=self._asked.threads,
            providers=(self.choice.provider,),
            clock=self._asked.clock,
        )
