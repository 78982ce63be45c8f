"""From a window `[C, T]` to the array a model takes.

`raw` standardises each channel. `spectrum` then takes the logarithm of the power in frequency
bands, for vibration. `features` does whole arrays of windows; a `Featuriser` does one window at a
time without allocating, and gives the same numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema

Array = NDArray[np.float32]

_DEVIATION_MIN = np.float32(1e-6)
"""Keeps a constant channel at 0 rather than dividing by nothing."""


def features(window: Array, schema: InputSchema) -> Array:
    """Model inputs f32 `[..., *schema.shape]` of windows f32 `[..., C, T]`, in a new array.

    Raises:
        UsageError: the windows or `schema.shape` do not fit the schema's channels and window.
    """
    wanted = (len(schema.channels), schema.window)
    if window.shape[-2:] != wanted:
        raise UsageError(
            f"windows have shape {window.shape}; wanted [..., {wanted[0]}, {wanted[1]}]: channels, "
            "then samples"
        )
    prepare = Featuriser(schema)
    lead = window.shape[:-2]
    out = np.empty((*lead, wanted[0], prepare.columns), np.float32)
    prepare.into(window, out)
    return out.reshape(*lead, *schema.shape)


_SCRATCH_SAMPLES = 32_768
"""Samples of the windows that are made features of in one go: what a processor's cache holds."""


class Featuriser:
    """Features of one schema, prepared once. Not safe to share between threads.

    Calling it with a window `[C, T]` gives a batch of one, f32 `[1, *schema.shape]`. That array is
    the featuriser's own: the next call writes over it, so copy it to keep it.
    """

    def __init__(self, schema: InputSchema) -> None:
        """Raises UsageError when `schema.shape` cannot hold the features."""
        channels = len(schema.channels)
        # As wide as a window: NumPy is quicker where nothing needs to be spread.
        self._mean = _spread(schema.mean, schema.window) if schema.mean else None
        self._factor = 1 / _spread(schema.scale, schema.window) if schema.scale else None
        self._per_window = schema.per_window
        plain = schema.features == "raw" and not schema.per_window and self._mean is None
        self._only_scaled = self._factor if plain else None  # the shortest way, often taken
        self._rows = max(1, _SCRATCH_SAMPLES // (channels * schema.window))
        self._level = np.empty((self._rows, channels, schema.window), np.float32)
        spectral = schema.features == "spectrum"
        self._spectrum = _Spectrum(schema, self._rows) if spectral else None
        self.columns = schema.window if self._spectrum is None else self._spectrum.bands
        """Numbers for each channel."""
        if math.prod(schema.shape) != channels * self.columns:
            raise UsageError(
                f"input schema has shape {schema.shape}; {channels} channels of {self.columns} "
                f"features make {channels * self.columns} numbers"
            )
        self._row = np.empty((channels, self.columns), np.float32)
        self._batch = self._row.reshape(1, *schema.shape)

    def __call__(self, window: Array) -> Array:
        """Features of one window `[C, T]` as `[1, *schema.shape]`, valid until the next call."""
        self.into(window, self._row)
        return self._batch

    def into(self, window: Array, out: Array) -> None:
        """Writes the features of windows `[..., C, T]` to `out` `[..., C, columns]`."""
        if self._only_scaled is not None:
            np.multiply(window, self._only_scaled, out)
        elif self._spectrum is None:
            self._standardise(window, out)
        else:
            level = np.empty(window.shape, np.float32)
            self._standardise(window, level)
            self._spectrum.into(level, out)

    def rows(self, windows: Sequence[Array], out: Array) -> None:
        """Writes the features of B windows `[C, T]` each to `out` `[B, C, columns]`.

        Without new arrays: for windows of a few kilobytes the memory costs more than the sums.
        """
        for first in range(0, len(windows), self._rows):
            some = windows[first : first + self._rows]
            level, target = self._level[: len(some)], out[first : first + len(some)]
            for place, window in zip(level, some, strict=True):
                place[...] = window
            if self._spectrum is None:
                self.into(level, target)
            else:
                self._standardise(level, level)
                self._spectrum.into(level, target)

    def _standardise(self, window: Array, out: Array) -> None:
        if self._per_window:
            count = np.float32(window.shape[-1])
            np.subtract(window, np.add.reduce(window, -1, keepdims=True) / count, out=out)
            deviation = np.sqrt(np.add.reduce(out * out, -1, keepdims=True) / count)
            np.divide(out, np.maximum(deviation, _DEVIATION_MIN), out=out)
        elif self._mean is not None:
            np.subtract(window, self._mean, out=out)
            if self._factor is not None:
                np.multiply(out, self._factor, out=out)
        elif self._factor is not None:
            np.multiply(window, self._factor, out=out)
        elif out is not window:
            np.copyto(out, window)


def _spread(values: Sequence[float], width: int) -> Array:
    """One row for each value, `[C, width]`."""
    return np.repeat(np.array(values, np.float32)[:, None], width, axis=1)


class _Spectrum:
    """log(1 + power) in equal bands, of each channel less its mean over the window.

    The power of bin k is `|rfft(hann · x)[k]|² / Σ hann²`, so that noise of deviation 1 has power 1
    in every bin whatever the window's length. A band is the mean of its bins; with as many bands
    as bins (T // 2 + 1) every bin is its own.
    """

    def __init__(self, schema: InputSchema, rows: int) -> None:
        channels = len(schema.channels)
        bins = schema.window // 2 + 1
        self.bands = math.prod(schema.shape) // channels
        if not 1 <= self.bands <= bins:
            raise UsageError(
                f"input schema has shape {schema.shape}, {self.bands} bands for each of {channels} "
                f"channels; a window of {schema.window} has 1 to {bins}"
            )
        step = np.arange(schema.window)
        # The periodic form (as if the window went on), which a transform wants.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * step / schema.window)
        self._hann = (hann / math.sqrt(float(hann @ hann) or 1.0)).astype(np.float32)
        edges = np.arange(self.bands + 1) * bins // self.bands
        self._starts = edges[:-1]
        self._widths = np.diff(edges).astype(np.float32)
        self._whole = self.bands == bins
        self._transform: NDArray[Any] = np.empty((rows, channels, bins), np.complex64)
        self._power = np.empty((2, rows, channels, bins), np.float32)

    def into(self, level: Array, out: Array) -> None:
        """Writes the bands of `level` `[..., C, T]` to `out`; `level` is used up."""
        # An accelerometer's rest value drifts with its temperature and says nothing of vibration.
        level -= np.add.reduce(level, -1, keepdims=True) / np.float32(level.shape[-1])
        level *= self._hann
        power = self._power_of(level)
        if self._whole:
            np.log1p(power, out=out)
        else:
            np.add.reduceat(power, self._starts, axis=-1, out=out)
            out /= self._widths
            np.log1p(out, out=out)

    def _power_of(self, level: Array) -> Array:
        """In scratch memory where there is enough of it."""
        if level.ndim != 3 or len(level) > len(self._transform):
            fresh: NDArray[np.complex64] = np.fft.rfft(level)  # type: ignore[assignment]
            return fresh.real**2 + fresh.imag**2
        count = len(level)
        transform = self._transform[:count]
        power, other = self._power[0, :count], self._power[1, :count]
        np.fft.rfft(level, out=transform)
        np.square(transform.real, out=power)
        np.square(transform.imag, out=other)
        power += other
        return power
