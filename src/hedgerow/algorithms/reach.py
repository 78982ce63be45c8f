"""How far local training goes: what makes deltas of unlike training comparable.

With a constant gradient g, training by a plan moves the weights by −rate · a · g. Plain steps give
a = number of steps; momentum, a pull and averaging the last iterates give another. It is ‖a_i‖₁ of
Tackling the objective inconsistency problem in heterogeneous federated optimization (Wang, Liu,
Liang, Joshi, Poor, 2020).
"""

import math

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Counts


def effective_steps(plan: LocalPlan, steps: Counts) -> NDArray[np.float64]:
    """A for each `steps [K]`: a_t = a_{t−1} + v_t, v_t = momentum·v_{t−1} + 1 − pull·rate·a_{t−1}.

    With `average_last` it is the mean over that last fraction. 0 for no steps, never below.
    """
    table, velocity = [0.0], 0.0
    for _ in range(int(steps.max(initial=0))):
        velocity = plan.momentum * velocity + 1 - plan.pull * plan.rate * table[-1]
        table.append(table[-1] + velocity)
    first = [count - math.ceil(plan.average_last * count) for count in steps.tolist()]
    averages = [
        math.fsum(table[start + 1 : count + 1]) / (count - start) if start < count else table[count]
        for start, count in zip(first, steps.tolist(), strict=True)
    ]
    return np.maximum(np.array(averages, np.float64), 0.0)


def reach(plan: LocalPlan, steps: Counts) -> NDArray[np.float64]:
    """How far a gradient of 1 moves a weight, `[K]`: rate · a."""
    return plan.rate * effective_steps(plan, steps)
