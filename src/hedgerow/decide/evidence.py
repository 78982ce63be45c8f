"""What one answer of a model says, as the plain numbers that rules decide on."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def probabilities(logits: Array) -> list[float]:
    """Softmax of one row of logits `[labels]`.

    In plain Python: for the ten labels of a small model that takes a fraction of the time of the
    array version, which waits on the start-up of four array operations.
    """
    row = logits.tolist()
    top = max(row)
    parts, total = [], 0.0
    for value in row:  # a comprehension is a call of its own in Python 3.11
        part = math.exp(value - top)
        parts.append(part)
        total += part
    return [part / total for part in parts]


def reconstruction_error(window: Array, reconstructed: Array) -> float:
    """Root of the mean squared difference of a model input and what came back of it.

    Both of one shape. In units of the model input: standardised, 1 is one usual deviation.
    """
    difference = np.subtract(window, reconstructed, dtype=np.float32).reshape(-1)
    return math.sqrt(float(difference @ difference) / difference.size)
