"""What the agent and the process that learns tell each other, by files of one directory."""

from typing import Final

import msgspec

from hedgerow.core.schema import LocalPlan

TASK: Final = "task.json"
BUNDLE: Final = "bundle.hedgerow"
SAMPLES: Final = "samples.safetensors"
WEIGHTS: Final = "weights.safetensors"
LEARNED: Final = "learned.safetensors"
RESULT: Final = "result.json"


class Task(msgspec.Struct, frozen=True):
    """What to do. `name` names the random streams; `niceness` 19 gives way to everybody else."""

    name: str
    plan: LocalPlan
    memory_bytes_max: int
    niceness: int = 19
    threads: int = 1


class Result(msgspec.Struct, frozen=True):
    """What came of it; `error` is empty when it went well.

    `cpu_seconds` is what its process took. `before` and `after` are scores on what was held out,
    higher is better: accuracy, or minus the mean squared error.
    """

    before: float = 0.0
    after: float = 0.0
    loss: float = 0.0
    steps: int = 0
    cpu_seconds: float = 0.0
    error: str = ""
