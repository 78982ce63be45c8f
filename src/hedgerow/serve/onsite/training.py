"""The process that learns: `python -m hedgerow.serve.onsite.training DIRECTORY`.

It reads the task, the bundle and the samples from files, trains at the lowest priority, and writes
what it learned beside them. The agent stops and continues it, and may end it at any time.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Vector
from hedgerow.core.streams import key_of
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.metrics import score
from hedgerow.model.passes import Pass
from hedgerow.model.predictor import Predictor
from hedgerow.model.samples import Samples
from hedgerow.sense.augment import augmenter
from hedgerow.serve.onsite.task import BUNDLE, LEARNED, RESULT, SAMPLES, TASK, WEIGHTS, Result, Task


def main() -> None:
    """Train by the files of one directory."""
    directory = Path(sys.argv[1])
    task = msgspec.json.decode((directory / TASK).read_bytes(), type=Task)
    step_back(task)
    try:
        weights, result = learn(directory, task)
        safetensors.numpy.save_file({"weights": weights}, directory / LEARNED)
    except (HedgerowError, MemoryError) as error:
        result = Result(error=str(error) or "the memory it may take did not suffice")
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = msgspec.structs.replace(result, cpu_seconds=used.ru_utime + used.ru_stime)
    (directory / RESULT).write_bytes(msgspec.json.encode(result))


def step_back(task: Task) -> None:
    """Give way to others, and take no more memory than it may."""
    os.nice(task.niceness)
    resource.setrlimit(resource.RLIMIT_DATA, (task.memory_bytes_max, task.memory_bytes_max))


def learn(directory: Path, task: Task) -> tuple[Vector, Result]:
    """Weights `[P]`, and how good they and those before are on what was held out.

    Raises:
        HedgerowError: the files do not fit the bundle, or training diverged.
    """
    bundle = Bundle.load(directory / BUNDLE)
    arrays = safetensors.numpy.load_file(directory / SAMPLES)
    start = safetensors.numpy.load_file(directory / WEIGHTS)["weights"]
    schema = bundle.manifest.input
    held = arrays["held_out"].astype(np.bool_)
    x, y = arrays["x"], arrays.get("y")
    train = Samples(x[~held], None if y is None else y[~held])
    learner = Learner(bundle, threads=task.threads)
    trained = learner.run(
        Pass(start[None], task.plan, name="on site"),
        [train],
        np.array([key_of(0, "on site", task.name)], np.uint64),
        augment=augmenter(task.plan.augment, schema),
    )
    after = trained.weights[0]
    target = x if y is None else y
    return after, Result(
        before=_measured(bundle, start, x[held], target[held]),
        after=_measured(bundle, after, x[held], target[held]),
        loss=float(trained.loss[0]),
        steps=int(trained.steps[0]),
    )


def _measured(
    bundle: Bundle, weights: Vector, x: NDArray[np.float32], y: NDArray[np.generic]
) -> float:
    answers = Predictor(bundle, weights=weights)(x)
    if bundle.manifest.output.task == "reconstruction":
        y = y.reshape(answers.shape)
    return score(bundle.manifest.output.task, answers, y)


if __name__ == "__main__":
    main()
