"""Whether a model may answer in int8: how far its answers lie from those in float32.

What is compared depends on what the model is for. A classifier must be right as often as before, or
where nobody knows what is right, choose the same label; any other model must answer the same
numbers, measured in usual deviations of its answers.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import Task

Array = NDArray[np.float32]
Precision = Literal["float32", "int8"]
Measure = Literal["accuracy", "agreement", "error"]

MARGINS: dict[Measure, float] = {"accuracy": 0.01, "agreement": 0.02, "error": 0.05}
"""What int8 may cost: one point of accuracy, two windows in a hundred that get another label, or
an error of a twentieth of the usual deviation."""
WINDOWS_MIN = 64
"""Fewer windows are no evidence."""


class Int8Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one comparison over `windows` windows found.

    `accuracy`: share of right labels in `float32` and in `int8`. `agreement`: share of windows with
    the same label, 1 in float32. `error`: root of the mean squared difference of the answers over
    their deviation, 0 in float32. int8 holds when it is within `margin` of float32.
    """

    measure: Measure
    windows: int
    float32: float
    int8: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether int8 may stand for float32."""
        worse = self.int8 - self.float32 if self.measure == "error" else self.float32 - self.int8
        return self.windows >= WINDOWS_MIN and worse <= self.margin

    @property
    def words(self) -> str:
        """Such as "accuracy 0.989 in place of 0.990 on 2449 windows"."""
        place = f" in place of {self.float32:.3f}" if self.measure == "accuracy" else ""
        return f"{self.measure} {self.int8:.3f}{place} on {self.windows} windows"


def compare(
    exact: Array, small: Array, task: Task, labels: NDArray[np.int64] | None = None
) -> Int8Evidence:
    """Evidence from the answers `[n, size]` in float32 and in int8 to the same windows.

    `labels [n]`, where a classifier's right answers are known.

    Raises:
        UsageError: there are no answers, or the shapes differ.
    """
    if exact.shape != small.shape or not len(exact):
        raise UsageError(
            f"answers have shapes {exact.shape} and {small.shape}; wanted two of one shape, and at "
            "least one row"
        )
    measure: Measure
    if task != "classification":
        measure, before = "error", 0.0
        off = float(np.sqrt(np.mean((small - exact) ** 2, dtype=np.float64)))
        deviation = float(np.std(exact, dtype=np.float64))
        after = off / deviation if deviation > 0 else off
    elif labels is not None:
        measure = "accuracy"
        before, after = (float(np.mean(rows.argmax(1) == labels)) for rows in (exact, small))
    else:
        measure, before = "agreement", 1.0
        after = float(np.mean(exact.argmax(1) == small.argmax(1)))
    if not np.isfinite(small).all():
        after = float("inf") if measure == "error" else 0.0
    return Int8Evidence(
        measure=measure, windows=len(exact), float32=before, int8=after, margin=MARGINS[measure]
    )
