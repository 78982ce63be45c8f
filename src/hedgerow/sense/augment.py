"""Named transforms that vary training windows, so that a model learns what does not matter.

A plan names them, each with an optional strength: `("rotate:15", "stretch", "jitter:0.05")`. They
act in that order on model inputs, standardised as `features` leaves them. Transforms of direction
(`rotate`, `mirror`) act in physical units: the schema's mean and scale are undone and applied
again, so that a turned window is what a turned sensor would have given. (With `per_window` the
scale of a window is gone, and they act on the standardised axes.)

After Um et al., "Data augmentation of wearable sensor data", ICMI 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema

Batch = NDArray[np.float32]
"""Windows, shape `[B, C, T]`."""
Augment = Callable[[Batch, "np.random.Generator"], Batch]
"""Takes windows and a generator, returns new windows of the same shape; never writes its input."""

_AXIAL_UNITS = ("rad/s", "deg/s", "°/s", "dps")


def augmenter(names: tuple[str, ...], schema: InputSchema) -> Augment | None:
    """One transform that applies all of `names` in order; None for no names.

    It takes f32 `[..., *schema.shape]` and returns the same shape; every window draws its own
    variation.

    Raises:
        UsageError: a name is unknown, its strength is out of range, or the schema lacks what the
            transform needs (a time axis, channels in xyz triples).
    """
    if not names:
        return None
    parts = [_parse(name, schema) for name in names]
    channels = len(schema.channels)
    steps = math.prod(schema.shape) // channels

    def augment(x: Batch, rng: np.random.Generator) -> Batch:
        out = x.reshape(-1, channels, steps)
        for part in parts:
            out = part(out, rng)
        return out.reshape(x.shape)

    return augment


def _parse(text: str, schema: InputSchema) -> Augment:
    """The transform that `name` or `name:strength` stands for."""
    name, colon, number = text.partition(":")
    known = TRANSFORMS.get(name)
    if known is None:
        raise UsageError(f"no augmentation is called {name!r}; known are {', '.join(TRANSFORMS)}")
    try:
        strength = float(number) if colon else known.strength
    except ValueError:
        strength = math.nan
    if not 0 < strength <= known.strength_max:
        raise UsageError(
            f"augmentation {text!r} has strength {number!r}; wanted a number above 0 and at most "
            f"{known.strength_max:g} ({known.meaning})"
        )
    if known.needs_time and schema.features != "raw":
        raise UsageError(
            f"augmentation {name!r} varies the samples of a window, but the model takes "
            f"{schema.features!r} features; leave it out"
        )
    return known.make(strength, schema)


# Values


def _jitter(strength: float, schema: InputSchema) -> Augment:
    step = np.float32(strength * math.sqrt(12) / 65536)

    def jitter(x: Batch, rng: np.random.Generator) -> Batch:
        # Even noise teaches what Gaussian noise does, and is drawn in a quarter of the time.
        noise = rng.integers(-32768, 32768, x.shape, dtype=np.int16) * step
        noise += x
        return noise

    return jitter


def _scale(strength: float, schema: InputSchema) -> Augment:
    def scale(x: Batch, rng: np.random.Generator) -> Batch:
        factor = rng.standard_normal((len(x), x.shape[1], 1), dtype=np.float32)
        np.exp(np.float32(strength) * factor, out=factor)
        return np.multiply(x, factor)

    return scale


def _channel_drop(strength: float, schema: InputSchema) -> Augment:
    def channel_drop(x: Batch, rng: np.random.Generator) -> Batch:
        keep = rng.random((len(x), x.shape[1], 1), dtype=np.float32) >= strength
        keep |= ~keep.any(axis=1, keepdims=True)  # a window with nothing left teaches nothing
        return np.multiply(x, keep)

    return channel_drop


# Direction


def _rotate(strength: float, schema: InputSchema) -> Augment:
    starts = _triples(schema, "rotate")
    mean, scale = _physical(schema)
    blocks = [slice(start, start + 3) for start in starts]
    ratios = [scale[block][None, :] / scale[block][:, None] for block in blocks]
    offsets = [(mean[block], scale[block]) for block in blocks]
    degrees_max = np.float32(strength)

    def rotate(x: Batch, rng: np.random.Generator) -> Batch:
        turn = rotations(len(x), degrees_max, rng)
        out = x.copy()
        for block, ratio, (middle, unit) in zip(blocks, ratios, offsets, strict=True):
            # Standardised: y = S⁻¹(R(S·x + m) − m) = (S⁻¹RS)·x + S⁻¹(R·m − m).
            np.matmul(turn * ratio, x[:, block], out=out[:, block])
            if middle.any():
                out[:, block] += ((turn @ middle - middle) / unit)[:, :, None]
        return out

    return rotate


def rotations(
    count: int, degrees_max: float | np.float32, rng: np.random.Generator
) -> NDArray[np.float32]:
    """`count` random rotation matrices, f32 `[count, 3, 3]`.

    Each turns about an axis drawn evenly from the sphere, by an angle drawn evenly from
    ±`degrees_max`.
    """
    half = rng.random((count, 1), dtype=np.float32) - np.float32(0.5)
    half *= np.float32(np.deg2rad(degrees_max))
    axis = rng.standard_normal((count, 3), dtype=np.float32)
    axis *= np.sin(half) / np.sqrt(np.einsum("bi,bi->b", axis, axis))[:, None]
    quaternion = np.concatenate([np.cos(half), axis], axis=1)
    products = quaternion[:, :, None] * quaternion[:, None, :]
    turn: NDArray[np.float32] = products.reshape(count, 16) @ _FROM_QUATERNION
    return turn.reshape(count, 3, 3)


def _from_quaternion() -> NDArray[np.float32]:
    """The linear map from the 16 products of a quaternion's parts to a rotation, `[16, 9]`."""
    signs = np.zeros((4, 4, 3, 3), np.float32)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        signs[0, 0, i, i] = signs[i + 1, i + 1, i, i] = 1
        signs[j + 1, j + 1, i, i] = signs[k + 1, k + 1, i, i] = -1
        signs[i + 1, j + 1, i, j] = signs[i + 1, j + 1, j, i] = 2
        signs[0, k + 1, i, j], signs[0, k + 1, j, i] = -2, 2
    return signs.reshape(16, 9)


_FROM_QUATERNION = _from_quaternion()


def _mirror(strength: float, schema: InputSchema) -> Augment:
    mean, scale = _physical(schema)
    sign = np.ones(len(schema.channels), np.float32)
    for start in _triples(schema, "mirror"):
        # On the other wrist x points to the elbow, not to the hand. Acceleration is a vector: its
        # x turns round. A turning rate is a pseudovector: all of it turns round, then x again.
        sign[start : start + 3] = (1, -1, -1) if _is_axial(schema, start) else (-1, 1, 1)
    factor = sign[:, None]
    offset = ((sign - 1) * mean / scale)[:, None]

    def mirror(x: Batch, rng: np.random.Generator) -> Batch:
        chosen = rng.random((len(x), 1, 1), dtype=np.float32) < strength
        return np.where(chosen, x * factor + offset, x)

    return mirror


def _triples(schema: InputSchema, name: str) -> list[int]:
    """Where three neighbouring channels are the x, y and z of one sensor."""
    names = [channel.lower() for channel in schema.channels]
    starts = [
        i
        for i in range(len(names) - 2)
        if names[i : i + 3] == [names[i][:-1] + axis for axis in "xyz"]
    ]
    if not starts:
        raise UsageError(
            f"augmentation {name!r} needs neighbouring channels whose names end in x, y and z, "
            f"such as 'accelerometer_x'; the schema has {', '.join(schema.channels)}"
        )
    return starts


def _is_axial(schema: InputSchema, start: int) -> bool:
    """Whether a triple turns round like an axis (turning rate, magnetic field)."""
    return schema.units[start] in _AXIAL_UNITS or schema.channels[start].lower().startswith(
        ("gyr", "mag")
    )


def _physical(schema: InputSchema) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale that lead from model inputs back to physical units, each `[C]`."""
    mean = np.zeros(len(schema.channels), np.float32)
    scale = np.ones(len(schema.channels), np.float32)
    if not schema.per_window:
        if schema.mean:
            mean[:] = schema.mean
        if schema.scale:
            scale[:] = schema.scale
    return mean, scale


# Time


def _stretch(strength: float, schema: InputSchema) -> Augment:
    def stretch(x: Batch, rng: np.random.Generator) -> Batch:
        last = x.shape[2] - 1
        speed = 1 + np.float32(strength) * (2 * rng.random((len(x), 1), dtype=np.float32) - 1)
        anchor = rng.random((len(x), 1), dtype=np.float32) * last
        at = np.abs(anchor + (np.arange(last + 1, dtype=np.float32) - anchor) * speed)
        return _sample(x, last - np.abs(last - at))  # beyond an end, go back the way one came

    return stretch


def _time_warp(strength: float, schema: InputSchema) -> Augment:
    knots = 4

    def time_warp(x: Batch, rng: np.random.Generator) -> Batch:
        last = x.shape[2] - 1
        # The speed runs through random knots in straight lines; its sum is where to read.
        place = np.linspace(0, knots - 1, last + 1, dtype=np.float32)
        weight = np.maximum(0, 1 - np.abs(place - np.arange(knots, dtype=np.float32)[:, None]))
        drawn = 2 * rng.random((len(x), knots), dtype=np.float32) - 1
        at = np.cumsum((1 + np.float32(strength) * drawn) @ weight, axis=1)
        at -= at[:, :1]
        at *= last / np.maximum(at[:, -1:], np.float32(1e-12))
        return _sample(x, at)

    return time_warp


def _sample(x: Batch, at: NDArray[np.float32]) -> Batch:
    """Reads windows `[B, C, T]` at fractional steps `at` `[B, T]` in 0..T-1, in straight lines."""
    count, channels, steps = x.shape
    if steps == 1:
        return x.copy()
    lower = np.minimum(at.astype(np.intp), steps - 2)
    share = (at - lower).astype(np.float32)[:, None, :]
    rows = np.arange(count * channels, dtype=np.intp).reshape(count, channels, 1) * steps
    index = rows + lower[:, None, :]
    flat = x.reshape(-1)  # "clip" is the fastest mode; every index is in range
    left = flat.take(index, mode="clip")
    index += 1
    out: Batch = flat.take(index, mode="clip")
    out -= left
    out *= share
    out += left
    return out


def _shift(strength: float, schema: InputSchema) -> Augment:
    def shift(x: Batch, rng: np.random.Generator) -> Batch:
        count, channels, steps = x.shape
        most = int(strength * steps)
        by = rng.integers(-most, most + 1, size=(count, 1, 1))
        rows = np.arange(count * channels, dtype=np.intp).reshape(count, channels, 1) * steps
        out: Batch = x.reshape(-1).take(rows + (np.arange(steps) - by) % steps, mode="clip")
        return out

    return shift


def _time_mask(strength: float, schema: InputSchema) -> Augment:
    def time_mask(x: Batch, rng: np.random.Generator) -> Batch:
        count, _, steps = x.shape
        length = rng.integers(0, int(strength * steps) + 1, size=(count, 1, 1))
        start = rng.integers(0, steps - length + 1)
        step = np.arange(steps)
        kept: NDArray[np.bool_] = (step < start) | (step >= start + length)
        out: Batch = np.multiply(x, kept)
        return out

    return time_mask


class Transform(NamedTuple):
    """A transform by name: how it is made, its usual and largest strength, what strength means."""

    make: Callable[[float, InputSchema], Augment]
    strength: float
    strength_max: float
    meaning: str
    needs_time: bool = True


TRANSFORMS: dict[str, Transform] = {
    "jitter": Transform(_jitter, 0.05, 10, "deviation of the added noise", needs_time=False),
    "scale": Transform(_scale, 0.1, 2, "deviation of the logarithm of each channel's factor"),
    "rotate": Transform(_rotate, 180, 180, "largest angle in degrees"),
    "rotate_small": Transform(_rotate, 15, 180, "largest angle in degrees"),
    "mirror": Transform(_mirror, 0.5, 1, "share of windows moved to the other wrist"),
    "stretch": Transform(_stretch, 0.2, 0.9, "largest change of speed"),
    "time_warp": Transform(_time_warp, 0.3, 0.9, "largest change of speed, varying in a window"),
    "shift": Transform(_shift, 1, 1, "largest circular shift as a share of the window"),
    "channel_drop": Transform(
        _channel_drop, 0.1, 0.9, "chance that a channel is set to 0", needs_time=False
    ),
    "time_mask": Transform(_time_mask, 0.2, 0.9, "longest span set to 0, share of the window"),
}
"""Every augmentation there is, by name."""
