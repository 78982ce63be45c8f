"""Fixed point: the ring in which updates are summed.

A weighted element `w·Δ` is rounded to the nearest multiple of 2⁻³² (ties to even) and held as a
64-bit integer. With `|w·Δ| ≤ 2¹⁰` a sum of 2²⁰ updates still fits, so a sum never overflows and
never depends on the order of its terms.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
MAGNITUDE_MAX = 1 << 10
"""Largest |weight · element| a single term may have."""
TERMS_MAX = 1 << 20
"""Most terms one sum may have."""

Fixed = NDArray[np.int64]
_LIFT = 1.5 * float(1 << 52)
"""From 2⁵² to 2⁵³ float64 numbers are one apart: adding this rounds, ties to even, and the bits of
the sum, read as an integer, are those of `_LIFT` and the rounded number added up."""
_LIFT_BITS = int(np.float64(_LIFT).view(np.int64))
_ABOVE = 1.001
"""More than rounding takes: what is added to a square, itself a square, never makes it less."""
_BLOCK = 1 << 16
"""Numbers that are rounded at a time, in whole rows: they stay in a processor's cache."""


def to_fixed(values: Vector, weight: float) -> Fixed:
    """`weight · values` as fixed point, shape `[P]`.

    Raises:
        PeerError: a value is not finite (`not_finite`) or beyond `MAGNITUDE_MAX` (`out_of_range`).
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn; it is refused below
        scaled = values.astype(np.float64)
    scaled *= weight
    top = float(np.maximum.reduce(np.abs(scaled), initial=0.0))  # NaN and infinity survive
    if not np.isfinite(top):
        raise PeerError("not_finite", "the update holds NaN or infinity; wanted finite numbers")
    if top > MAGNITUDE_MAX:
        raise PeerError(
            "out_of_range",
            f"the weighted update reaches {top:.3g}; wanted at most {MAGNITUDE_MAX}",
        )
    scaled *= ONE
    return np.rint(scaled, out=scaled).astype(np.int64)


def fixed_sum(
    values: NDArray[np.float32], weights: Sequence[float]
) -> tuple[Fixed, NDArray[np.bool_]]:
    """Σ `to_fixed(values[k], weights[k])` over the rows of `values [K, P]`, to the very bit.

    Rows that `to_fixed` would refuse are left out; which are in is the second answer, `[K]`.
    """
    weighing = np.array(weights, np.float64)
    tops = _tops(values, weighing)
    good: NDArray[np.bool_] = tops <= MAGNITUDE_MAX  # not so for NaN
    if not good.all():
        values, weighing = values[good], weighing[good]
    factors = (weighing * ONE)[:, None]  # a power of two more changes no digit
    total = np.zeros(values.shape[1], np.int64)
    height = max(1, _BLOCK // max(len(total), 1))
    scaled = np.empty((min(height, len(values)), len(total)))
    bits, part = scaled.view(np.int64), np.empty_like(total)
    for low in range(0, len(values), height):
        rows = values[low : low + height]
        count = len(rows)
        lifted = scaled[:count]
        lifted[...] = rows
        lifted *= factors[low : low + height]
        lifted += _LIFT
        total += np.add.reduce(bits[:count], axis=0, out=part)
    lifts = (_LIFT_BITS * len(values) + (1 << 63)) % (1 << 64) - (1 << 63)
    total -= np.int64(lifts)  # modulo 2⁶⁴, as the additions were
    return total, good


def _tops(rows: NDArray[np.float32], weighing: NDArray[np.float64]) -> NDArray[np.float64]:
    """How large the weighted elements of each row are at most, or more where that fits too."""
    strength = np.abs(weighing)
    with np.errstate(invalid="ignore", over="ignore"):
        # No element is larger than its row is long, which takes one look at each.
        squares: NDArray[np.float32] = np.vecdot(rows, rows)
        tops = np.sqrt(squares.astype(np.float64)) * (strength * _ABOVE)
        if not (tops <= MAGNITUDE_MAX).all():
            top = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
            tops = top.astype(np.float64) * strength
    return tops


def weight_to_fixed(weight: float) -> int:
    """A weight as fixed point."""
    return round(weight * ONE)


def mean_of(total: Fixed, weight_total: int) -> Vector:
    """`total / weight_total` as float32; both are fixed point."""
    return (total.astype(np.float64) / weight_total).astype(np.float32)
