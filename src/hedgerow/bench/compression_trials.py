"""What `hedgerow bench compression` runs: codecs, fleets and recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from hedgerow.algorithms import defaults
from hedgerow.algorithms.base import Algorithm, Schedule
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.apps.watch import recipe as watch
from hedgerow.core.schema import LocalPlan
from hedgerow.seal.codec import Codec
from hedgerow.seal.eden import Eden
from hedgerow.seal.entropy import Entropy
from hedgerow.seal.float16 import Float16
from hedgerow.seal.low_rank import LowRank
from hedgerow.seal.random_k import RandomK
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK

FLOAT32 = Codec()


@dataclass(frozen=True)
class Trial:
    """A run: an algorithm, the codecs of both ways (`down` None: whole models) and its length."""

    name: str
    algorithm: Algorithm
    plan: LocalPlan
    rounds: int
    up: Codec = FLOAT32
    down: Codec | None = None


STC = Codec(stages=(TopK(share=0.02), Ternary()), feedback=True)
STC_HALF = Codec(stages=(TopK(share=0.02), Ternary()), feedback=True, carry=0.5)
HALF = Codec(stages=(Float16(),))
EDEN_4 = Codec(stages=(Eden(bits=4), Entropy()))
EDEN_1 = Codec(stages=(Eden(bits=1),))
RANDOM_K = Codec(stages=(RandomK(share=0.1), Eden(bits=4)))
LOW_RANK = Codec(stages=(LowRank(rank=2), Eden(bits=2)), feedback=True)
NEARLY_ALL = Codec(stages=(TopK(share=0.2), Eden(bits=2)), feedback=True)
"""The patch where every device takes part: a mean of sparse updates is sparse too."""
EDEN_1_CARRIED = Codec(stages=(Eden(bits=1),), feedback=True)
SPARSE_WATCH = FedAvg(rate=2.0, momentum=0.3, schedule=Schedule(kind="cosine", end=0.02))
"""Few devices send any one element, so their mean is short of what all of them would have sent."""


def watch_trials(plan: LocalPlan) -> list[Trial]:
    """The reference first. All ten wearers take part in every round."""
    recipe, rounds = watch.ALGORITHM, 25
    longer = msgspec.structs.replace(plan, epochs=2 * plan.epochs)
    return [
        Trial("plain FedAvg", FedAvg(), plan, rounds),
        Trial("recipe", recipe, plan, rounds),
        Trial("float16", recipe, plan, rounds, HALF, HALF),
        Trial("EDEN 4 bits", recipe, plan, rounds, EDEN_4, NEARLY_ALL),
        Trial("EDEN 1 bit", recipe, plan, rounds, EDEN_1, NEARLY_ALL),
        Trial("random-k, EDEN", recipe, plan, rounds, RANDOM_K, NEARLY_ALL),
        Trial("low rank, EDEN", recipe, plan, rounds, LOW_RANK, NEARLY_ALL),
        Trial("STC", recipe, plan, 22, STC, NEARLY_ALL),
        Trial("STC, half carried", SPARSE_WATCH, plan, 22, STC_HALF, NEARLY_ALL),
        Trial("STC, twice the work", SPARSE_WATCH, longer, 22, STC_HALF, NEARLY_ALL),
        Trial("STC, twice as long", SPARSE_WATCH, plan, 44, STC_HALF, NEARLY_ALL),
    ]


def fashion_trials(plan: LocalPlan) -> list[Trial]:
    """The reference first. A tenth of a hundred devices takes part in each round."""
    recipe, rounds = defaults.ALGORITHM, 50
    sparse = msgspec.structs.replace(recipe, rate=2.0, momentum=0.3)
    ours = defaults.steadied(msgspec.structs.replace(plan, rate=0.2))
    return [
        Trial("plain FedAvg", FedAvg(), plan, rounds),
        Trial("recipe", recipe, ours, rounds),
        Trial("EDEN 1 bit", recipe, ours, rounds, EDEN_1, EDEN_1_CARRIED),
        Trial("STC", recipe, ours, rounds, STC, STC),
        Trial("STC, half carried", sparse, ours, rounds, STC_HALF, STC),
    ]


TRIALS: dict[str, Callable[[LocalPlan], list[Trial]]] = {
    "watch": watch_trials,
    "fashion": fashion_trials,
}
