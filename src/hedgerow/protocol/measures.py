"""Figures as monitoring reads them: families of samples, and a histogram that is cheap to feed.

Names and units follow the OpenMetrics conventions (https://prometheus.io/docs/practices/naming/):
base units last, counters end in `_total`, reasons and classes are labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

Labels = Mapping[str, str]

LATENCY_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0)
"""Bounds for the time from a sample to its decision."""


class Sample(msgspec.Struct, frozen=True):
    """One value. `suffix` is "" or, in a histogram, `_bucket`, `_sum` or `_count`."""

    value: float
    labels: Labels = {}
    suffix: Literal["", "_bucket", "_sum", "_count"] = ""


class Family(msgspec.Struct, frozen=True):
    """All samples of one name, with what they mean."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[Sample]


def gauge(name: str, help: str, value: float | None) -> Family:
    """A family of one value, or of none where the value is not known."""
    return Family(name, "gauge", help, [] if value is None else [Sample(value)])


def counter(name: str, help: str, value: float) -> Family:
    """A family of one count that only grows."""
    return Family(name, "counter", help, [Sample(value)])


def by_label(
    name: str, kind: Literal["counter", "gauge"], help: str, label: str, values: Mapping[str, float]
) -> Family:
    """A family with one sample for each value of `label`."""
    return Family(name, kind, help, [Sample(value, {label: key}) for key, value in values.items()])


class Histogram:
    """Counts of observations by upper bound. Takes whole batches: O(log bounds) for each value."""

    def __init__(self, name: str, help: str, bounds: Sequence[float] = LATENCY_SECONDS) -> None:
        self.name, self.help = name, help
        self._bounds = np.asarray(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def observe(self, values: ArrayLike) -> None:
        """Count `values`, one number or any number of them, in the unit of the bounds."""
        taken = np.asarray(values, np.float64).ravel()
        places = np.searchsorted(self._bounds, taken)  # a value at a bound counts below it
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(taken.sum())

    def family(self) -> Family:
        """Buckets as they are exposed: each counts everything up to its bound."""
        below = np.cumsum(self._counts)
        bounds = [*(f"{bound:.12g}" for bound in self._bounds), "+Inf"]
        samples = [
            Sample(float(count), {"le": bound}, "_bucket")
            for bound, count in zip(bounds, below, strict=True)
        ]
        total = float(below[-1])
        samples += [Sample(self._sum, suffix="_sum"), Sample(total, suffix="_count")]
        return Family(self.name, "histogram", self.help, samples)
