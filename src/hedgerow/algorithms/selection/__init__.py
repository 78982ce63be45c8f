"""Who takes part in a round, and when devices come: policies by name, pure functions over facts.

`select` before a round, `observe` after it; `pace` says when a device should check in next.
"""

from typing import TypeAlias

from hedgerow.algorithms.selection.base import (
    Memory,
    Outcome,
    Past,
    Policy,
    RoundFacts,
    forget,
    observe,
    select,
)
from hedgerow.algorithms.selection.budget import Budget
from hedgerow.algorithms.selection.facts import Candidate
from hedgerow.algorithms.selection.fedacs import FedACS, last_layer, skew_rewards
from hedgerow.algorithms.selection.fedlecc import FedLECC
from hedgerow.algorithms.selection.oort import Oort
from hedgerow.algorithms.selection.pace import Beat, PaceRules, beat, pace, phase_of
from hedgerow.algorithms.selection.power_of_choice import PowerOfChoice
from hedgerow.algorithms.selection.uniform import Uniform, over_selected, uniform

AnyPolicy: TypeAlias = Uniform | PowerOfChoice | Oort | FedACS | FedLECC

__all__ = [
    "AnyPolicy",
    "Beat",
    "Budget",
    "Candidate",
    "FedACS",
    "FedLECC",
    "Memory",
    "Oort",
    "Outcome",
    "PaceRules",
    "Past",
    "Policy",
    "PowerOfChoice",
    "RoundFacts",
    "Uniform",
    "beat",
    "forget",
    "last_layer",
    "observe",
    "over_selected",
    "pace",
    "phase_of",
    "select",
    "skew_rewards",
    "uniform",
]
