"""What the federation is measured against: each wearer alone, and the forbidden pool of all data.

Runs beside the demo in a process of its own, the only one that reads every wearer's recordings.
Same bundle, same learner, same plan and as many passes over the data as the federation makes.
"""

import sys
from threading import Event

import msgspec
import numpy as np

from hedgerow.algorithms.fedavg import FedAvg, plan_of_round
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.io import data
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.serve.agent import TRAIN_SHARE
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.learning import LocalTrainer, WindowSet, evaluate
from hedgerow.serve.pipeline import split_in_time, windows_of


class Task(msgspec.Struct, frozen=True):
    """What the demo's federation does, so that the baselines do as much."""

    rounds: int
    plan: LocalPlan
    fedavg: FedAvg


class Baseline(msgspec.Struct, frozen=True):
    """Accuracies of one wearer's row, from 0 to 1."""

    wearer: str
    alone_own: float
    alone_others: float
    pooled: float


def baselines(task: Task) -> list[Baseline]:
    """Train and measure all; about 20 s on one core."""
    bundle = app_bundle("watch")
    sets = {wearer: _window_sets(wearer, bundle) for wearer in data.WATCH_WEARERS}
    alone = {w: _trained(bundle, train, task, f"alone {w}") for w, (train, _) in sets.items()}
    everything = WindowSet(
        np.concatenate([train.x for train, _ in sets.values()]),
        np.concatenate([train.y for train, _ in sets.values()]),
    )
    pooled = Predictor(bundle, weights=_trained(bundle, everything, task, "pooled"))
    rows = []
    for wearer, (_, holdout) in sets.items():
        predictor = Predictor(bundle, weights=alone[wearer])
        others = [
            evaluate(bundle, predictor, other) for w, (_, other) in sets.items() if w != wearer
        ]
        rows.append(
            Baseline(
                wearer=str(wearer),
                alone_own=evaluate(bundle, predictor, holdout),
                alone_others=sum(others) / len(others),
                pooled=evaluate(bundle, pooled, holdout),
            )
        )
    return rows


def _window_sets(wearer: int, bundle: Bundle) -> tuple[WindowSet, WindowSet]:
    parts = [split_in_time(recording, TRAIN_SHARE) for recording in data.load_wearer(wearer)]
    schema = bundle.manifest.input
    return (
        windows_of([first for first, _ in parts], schema),
        windows_of([rest for _, rest in parts], schema),
    )


def _trained(bundle: Bundle, windows: WindowSet, task: Task, name: str) -> Vector:
    trainer = LocalTrainer(bundle, name, windows)
    weights = bundle.weights
    for index in range(task.rounds):
        plan = plan_of_round(task.fedavg, task.plan, index, task.rounds)
        weights, _ = trainer.fit(weights, plan, ("round", index), Event())
    return weights


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(baselines(asked)))
