"""Fixed point: the ring in which updates are summed.

A weighted element `w·Δ` is rounded to the nearest multiple of 2⁻³² (ties to even) and held as a
64-bit integer. With `|w·Δ| ≤ 2¹²` a sum of 2¹⁸ updates still fits, so a sum never overflows and
never depends on the order of its terms.
"""

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
MAGNITUDE_MAX = 1 << 12
"""Largest |weight · element| a single term may have."""
TERMS_MAX = 1 << 18
"""Most terms one sum may have."""

Fixed = NDArray[np.int64]


def to_fixed(values: Vector, weight: float) -> Fixed:
    """`weight · values` as fixed point, shape `[P]`.

    Raises:
        PeerError: a value is not finite (`not_finite`) or beyond `MAGNITUDE_MAX` (`out_of_range`).
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn; it is refused below
        scaled = values.astype(np.float64)
    scaled *= weight
    top = float(np.max(np.abs(scaled), initial=0.0))  # NaN and infinity survive max()
    if not np.isfinite(top):
        raise PeerError("not_finite", "the update holds NaN or infinity; wanted finite numbers")
    if top > MAGNITUDE_MAX:
        raise PeerError(
            "out_of_range",
            f"the weighted update reaches {top:.3g}; wanted at most {MAGNITUDE_MAX}",
        )
    scaled *= ONE
    return np.rint(scaled, out=scaled).astype(np.int64)


def weight_to_fixed(weight: float) -> int:
    """A weight as fixed point."""
    return round(weight * ONE)


def mean_of(total: Fixed, weight_total: int) -> Vector:
    """`total / weight_total` as float32; both are fixed point."""
    return (total.astype(np.float64) / weight_total).astype(np.float32)
