"""FedAvg with server momentum.

Communication-efficient learning of deep networks from decentralized data (McMahan et al., 2017);
server momentum after Measuring the effects of non-identical data distribution for federated visual
classification (Hsu, Qi, Brown, 2019). Device half: train by the plan, send the delta. Server half:

    v ← momentum · v + mean(delta);    w ← w + rate · v
"""

import math
from typing import Annotated, Literal

import msgspec
import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan

SAMPLES_UNIT = 1024
SAMPLES_MAX = 64 * SAMPLES_UNIT
"""A device counts for no more samples than this, so that no claim outweighs a fleet."""


class FedAvg(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the algorithm.

    `weighting`: each device by its number of samples, or all equal. `local_rate`: the devices'
    learning rate stays, or falls along a half cosine over the planned rounds to `local_rate_end`
    of where it started.
    """

    rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    weighting: Literal["samples", "equal"] = "samples"
    local_rate: Literal["constant", "cosine"] = "constant"
    local_rate_end: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1


def plan_of_round(settings: FedAvg, plan: LocalPlan, index: int, rounds: int) -> LocalPlan:
    """The plan offered in round `index` (from 0) of `rounds`; 0 rounds means without end."""
    if settings.local_rate == "constant" or rounds < 2:
        return plan
    progress = min(index / (rounds - 1), 1.0)
    end = settings.local_rate_end
    factor = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))
    return msgspec.structs.replace(plan, rate=plan.rate * factor)


def weight_of(settings: FedAvg, samples: int) -> float:
    """What an update counts: above 0, at most 64; 1 stands for 1,024 samples."""
    if settings.weighting == "equal":
        return 1.0
    return min(samples, SAMPLES_MAX) / SAMPLES_UNIT


def server_step(
    settings: FedAvg, weights: Vector, velocity: Vector, mean_delta: Vector
) -> tuple[Vector, Vector]:
    """New `(weights, velocity)`, each `[P]`, from the mean of the deltas."""
    velocity = np.float32(settings.momentum) * velocity + mean_delta
    return weights + np.float32(settings.rate) * velocity, velocity
