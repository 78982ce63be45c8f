"""The model's runner that a setting asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from hedgerow.serve.inference.base import Happened, InferenceSettings
from hedgerow.serve.inference.guard import GuardedModel
from hedgerow.serve.inference.local import LocalModel

Runner: TypeAlias = GuardedModel | LocalModel


def runner_of(
    settings: InferenceSettings,
    *,
    threads: int = 1,
    told: Callable[[Happened], None] = lambda happened: None,
) -> Runner:
    """A guarded model, or with `guard = false` one in this process. Both have the same face."""
    kind = GuardedModel if settings.guard else LocalModel
    return kind(settings, threads=threads, told=told)
