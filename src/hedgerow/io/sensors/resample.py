"""From one sample rate to another, in a stream."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

_CROSSINGS: Final = 16
"""Zero crossings of the filter to each side: more are steeper and cost more."""
_KAISER_BETA: Final = 8.0
"""Side lobes of the filter about 80 dB down."""
_PHASES_MAX: Final = 4096
_NUMBERS_AT_ONCE: Final = 1 << 20


class Resampler:
    """Band-limited change of rate by a ratio of whole numbers, by a polyphase filter.

    A Kaiser-windowed sinc (Oppenheim and Schafer, *Discrete-Time Signal Processing*, 7.5 and
    12.4): what lies above half of the lower rate is taken out, not folded in. Outputs carry no
    delay: the first is at the time of the first sample; they come when the samples after them are
    there, `delay_seconds` later. Before the first sample its value is taken to have held.
    """

    def __init__(self, from_hz: float, to_hz: float, channels: int) -> None:
        """Raises UsageError where no ratio of whole numbers to 4096 comes within 1 in 10⁶."""
        ratio = Fraction(to_hz / from_hz).limit_denominator(_PHASES_MAX * 16)
        if ratio.numerator > _PHASES_MAX or abs(float(ratio) * from_hz / to_hz - 1) > 1e-6:
            raise UsageError(
                f"cannot go from {from_hz} Hz to {to_hz} Hz; wanted rates in a ratio of whole "
                f"numbers, such as 44100 to 16000; record at the model's rate"
            )
        self._up, self._down = ratio.numerator, ratio.denominator
        cutoff = min(1.0, self._up / self._down)
        half = math.ceil(_CROSSINGS / cutoff)
        self._half = half
        self._taps = 2 * half
        # Tap k of phase p lies so far from the output's place, in input samples.
        at = (np.arange(self._taps) - (half - 1))[None, :] - (np.arange(self._up) / self._up)[
            :, None
        ]
        kaiser = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (at / half) ** 2)))
        taps = np.sinc(at * cutoff) * kaiser
        self._filter = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self._kept = np.empty((0, channels), np.float32)
        self._first = 0  # number of the input sample that `_kept` begins with
        self._made = 0  # outputs so far
        self.delay_seconds = half / from_hz

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples `[n, channels]` in, those out that they decide, `[m, channels]`."""
        if not len(samples):
            return self._kept[:0]
        if not len(self._kept) and self._made == 0:
            samples = np.concatenate([np.repeat(samples[:1], self._half - 1, axis=0), samples])
            self._first = 1 - self._half
        kept = self._kept = np.concatenate([self._kept, samples])
        end = self._first + len(kept)
        # Output m needs inputs to floor(m·down/up) + half.
        ready = max(self._made, math.ceil((end - self._half) * self._up / self._down))
        places = np.arange(self._made, ready, dtype=np.int64) * self._down
        made = self._filtered(kept, places)
        self._made = ready
        drop = ready * self._down // self._up - self._half + 1 - self._first
        self._kept = kept[max(0, drop) :].copy()
        self._first += max(0, drop)
        return made

    def _filtered(
        self, kept: NDArray[np.float32], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        made = np.empty((len(places), kept.shape[1]), np.float32)
        if not len(places):
            return made
        begins = places // self._up - self._half + 1 - self._first
        phases = places % self._up
        views = sliding_window_view(kept, self._taps, axis=0)
        step = max(1, _NUMBERS_AT_ONCE // (self._taps * kept.shape[1]))
        for first in range(0, len(places), step):
            part = slice(first, first + step)
            np.einsum("nct,nt->nc", views[begins[part]], self._filter[phases[part]], out=made[part])
        return made
