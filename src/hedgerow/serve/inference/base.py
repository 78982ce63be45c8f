"""What whoever runs a model says: which model, how it does, and that there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.bundle import Bundle
from hedgerow.model.running import Choice

Array = NDArray[np.float32]
Happening = Literal["started", "crashed", "hung", "refused", "fell_back"]


Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class ModelDown(HedgerowError):
    """No answer from the model: it crashed, hung, or is being started again."""


class ModelRefused(HedgerowError):
    """The model cannot be run at all: trying again will not help."""


class InferenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device runs its model.

    With `guard` the model runs in a process of its own. It is ended and started anew when it
    crashes, or leaves a batch unanswered for `deadline_seconds`; after `tries` ends in a row the
    last good model takes its place. A window by itself waits `patience_seconds` for its answer, a
    new process `start_seconds` for its first. A batch has at most `batch_max` windows. `providers`
    are tried in their order. `precision` auto takes int8 where it holds.
    """

    guard: bool = True
    precision: Literal["auto", "float32", "int8"] = "auto"
    providers: tuple[str, ...] = ("auto",)
    deadline_seconds: Seconds = 5.0
    patience_seconds: Seconds = 0.25
    start_seconds: Seconds = 60.0
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    tries: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        if not self.providers or self.patience_seconds > self.deadline_seconds:
            raise UsageError(
                f"inference has providers {list(self.providers)}, patience_seconds "
                f"{self.patience_seconds} and deadline_seconds {self.deadline_seconds}; wanted at "
                "least one provider (auto) and a patience within the deadline"
            )


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """One model to run: a bundle with weights `[P]`, and typical windows `[n, *shape]` for int8.

    `name` is what people call it, as "watch 1.2 round 7".
    """

    bundle: Bundle
    weights: Vector
    name: str
    calibration: Array | None = None


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the model does. `started` counts processes, `ended` those that crashed or hung."""

    model: str
    up: bool
    choice: Choice | None = None
    process: int | None = None
    started: int = 0
    ended: int = 0
    fell_back: int = 0
    last_error: str = ""
    resident_bytes: int = 0


class Happened(msgspec.Struct, frozen=True):
    """Something about a model that its keeper should hear. `model` is its name."""

    what: Happening
    model: str
    reason: str


Told = Callable[[Happened], None]
