"""The int8 half of a model: parameters and activation ranges as `infer.int8.onnx` takes them.

Nothing in that graph depends on the weights: integers, scales and zero points all come from here,
so a model that has learned on a device is quantised on that device.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.bundle import INFER_INT8, RANGES, Bundle, QuantisedActivation, QuantisedTensor
from hedgerow.model.session import open_session

Array = NDArray[np.float32]
Tensors = Mapping[str, NDArray[np.generic]]
Ranges = Sequence[tuple[float, float]]
_ROWS = 64
"""Windows measured at once; bounds the memory, not the result."""


def measure(bundle: Bundle, tensors: Tensors, x: Array, *, threads: int = 1) -> Ranges:
    """The smallest and largest value of each quantised activation over `x [n, *shape]`.

    `tensors` are the float32 parameters by name.

    Raises:
        UsageError: the windows do not fit, or a range is not finite.
    """
    shape = bundle.manifest.input.shape
    if x.shape[1:] != shape or len(x) == 0:
        raise UsageError(
            f"calibration windows have shape {x.shape}, wanted (n, *{shape}) with n ≥ 1"
        )
    session = open_session(bundle.file(RANGES), threads=threads, tensors=tensors)
    rows = np.ascontiguousarray(x, np.float32)
    parts = [
        session.run(["low", "high"], {"x": rows[start : start + _ROWS]})
        for start in range(0, len(rows), _ROWS)
    ]
    low = np.min([part[0] for part in parts], axis=0)
    high = np.max([part[1] for part in parts], axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UsageError(
            "the calibration windows give activations that are not finite; look for NaN in them"
        )
    return list(zip(low.tolist(), high.tolist(), strict=True))


def shipped_ranges(bundle: Bundle, weights: Vector) -> Ranges:
    """The ranges the bundle carries, if they were measured with these very `weights [P]`.

    Raises:
        UsageError: they were measured with others, so the answers would be wrong.
    """
    if digest(weights) != bundle.manifest.ranges_weights:
        raise UsageError(
            "the int8 activation ranges of the bundle were measured with other weights; give "
            "calibration=, some typical windows [n, *shape], or use precision='float32'"
        )
    return bundle.manifest.ranges


def int8_tensors(
    bundle: Bundle, weights: Vector, tensors: Tensors, x: Array | None, *, threads: int = 1
) -> dict[str, NDArray[np.generic]]:
    """Every tensor of `infer.int8.onnx` for these `weights [P]`, float32 as `tensors` by name.

    The ranges of the activations are measured over the windows `x [n, *shape]`, or without them
    taken from the bundle.

    Raises:
        UsageError: there is no int8 graph, or the ranges are those of other weights.
    """
    bundle.file(INFER_INT8)
    if x is None:
        ranges = shipped_ranges(bundle, weights)
    else:
        ranges = measure(bundle, tensors, x, threads=threads)
    return quantise(tensors, bundle.manifest.quantised, bundle.manifest.activations, ranges)


def digest(weights: Vector) -> str:
    """SHA-256 in hex of a flat vector: which weights ranges were measured with."""
    return hashlib.sha256(np.ascontiguousarray(weights, "<f4").tobytes()).hexdigest()


def quantise(
    tensors: Tensors,
    recipe: Sequence[QuantisedTensor],
    activations: Sequence[QuantisedActivation],
    ranges: Ranges,
) -> dict[str, NDArray[np.generic]]:
    """Every tensor by the name `infer.int8.onnx` wants it under.

    Parameters that are not in `recipe` stay as they are.

    Raises:
        UsageError: the recipe names a scale before what gives it.
    """
    taken = {step.tensor for step in recipe}
    result = {name: array for name, array in tensors.items() if name not in taken}
    for activation, (low, high) in zip(activations, ranges, strict=True):
        result[activation.scale], result[activation.zero_point] = _grid(low, high)
    for step in recipe:
        values = np.asarray(tensors[step.tensor], np.float32)
        if step.kernel_scale:
            if step.kernel_scale not in result or step.input_scale not in result:
                raise UsageError(f"int8 bias {step.tensor!r} comes before its scales")
            factors = result[step.kernel_scale], result[step.input_scale]
            scale = np.asarray(np.multiply(*factors), np.float32)
            whole = np.clip(np.rint(values / scale.astype(np.float64)), -(2**31), 2**31 - 1)
            result[step.quantised] = whole.astype(np.int32)
        elif step.zero_point:
            scale, point = _grid(float(values.min()), float(values.max()))
            whole = np.clip(np.rint(values / scale) + point, 0, 255)
            result[step.quantised] = whole.astype(np.uint8)
            result[step.zero_point] = point
        else:
            others = tuple(axis for axis in range(values.ndim) if axis != step.axis)
            top = np.abs(values).max(axis=others, keepdims=True)
            spread = np.where(top > 0, top / np.float32(127), np.float32(1)).astype(np.float32)
            result[step.quantised] = np.rint(values / spread).astype(np.int8)
            scale = spread.reshape(-1)
        result[step.scale] = scale
    return result


def _grid(low: float, high: float) -> tuple[Array, NDArray[np.uint8]]:
    """Scale and zero point, both of shape `[]`, that spread a range over 0 to 255."""
    # Zero must be exact: padding is zero, and so is what ReLU cuts off.
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.array((high - low) / 255 or 1.0, np.float32)
    return scale, np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
