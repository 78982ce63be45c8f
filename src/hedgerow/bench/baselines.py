"""What the federation is measured against: each wearer alone, and the forbidden pool of all data.

Runs beside the demo in processes of its own, the only ones that read every wearer's recordings.
Same bundle, same learner and same plan as the federation's.
"""

import sys
from threading import Event
from typing import Literal

import msgspec
import numpy as np

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.io import data
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.learning import LocalTrainer, evaluate
from hedgerow.serve.windows import WindowSet, windows_of


class Task(msgspec.Struct, frozen=True):
    """Which baseline, and how it trains: `rounds` times the plan, from where the last one ended."""

    baseline: Literal["alone", "pooled"]
    rounds: int
    plan: LocalPlan
    algorithm: AnyAlgorithm


class Accuracies(msgspec.Struct, frozen=True):
    """Accuracy on held-out time, from 0 to 1, by wearer: on their own, and the mean over others."""

    own: dict[str, float]
    others: dict[str, float]


def measure(task: Task) -> Accuracies:
    """Train by `task` and measure on every wearer's held-out time; about 15 s on one core."""
    bundle = app_bundle("watch")
    sets = {str(wearer): _window_sets(wearer, bundle) for wearer in data.WATCH_WEARERS}
    if task.baseline == "alone":
        weights = {w: _trained(bundle, train, task, f"alone {w}") for w, (train, _) in sets.items()}
    else:
        everything = WindowSet(
            np.concatenate([train.x for train, _ in sets.values()]),
            np.concatenate([train.y for train, _ in sets.values()]),
        )
        weights = dict.fromkeys(sets, _trained(bundle, everything, task, "pooled"))
    own, others = {}, {}
    for wearer in sets:
        predictor = Predictor(bundle, weights=weights[wearer])
        scores = {w: evaluate(bundle, predictor, holdout) for w, (_, holdout) in sets.items()}
        own[wearer] = scores.pop(wearer)
        others[wearer] = sum(scores.values()) / len(scores)
    return Accuracies(own, others)


def _window_sets(wearer: int, bundle: Bundle) -> tuple[WindowSet, WindowSet]:
    first, rest = data.split_in_time(data.load_wearer(wearer), data.TRAIN_SHARE)
    schema = bundle.manifest.input
    return windows_of(first, schema), windows_of(rest, schema)


def _trained(bundle: Bundle, windows: WindowSet, task: Task, name: str) -> Vector:
    trainer = LocalTrainer(bundle, name, windows)
    weights = bundle.weights
    for index in range(task.rounds):
        plan = task.algorithm.plan_of_round(task.plan, index, task.rounds)
        weights, _ = trainer.fit(weights, plan, ("round", index), Event())
    return weights


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(measure(asked)))
