"""Before a candidate answers a single live window: does it fit, does it run, does it keep pace?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.serve.trials.models import OpenShadow, Serving, Shadow
from hedgerow.wire.releases import schema_of

Array = NDArray[np.float32]
PROBES = 32
"""Windows of one batch: so many that the model's own time outweighs that of the call."""
TURNS = 8
TRIES = 3
PAUSE_SECONDS = 0.5
FLOOR_SECONDS = 2e-4
"""Below this a difference in time says nothing about the model."""


class Unsound(HedgerowError):
    """The candidate cannot take part. `reason` is a word to count by."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(f"{reason}: {why}")
        self.reason, self.why = reason, why


def fits(candidate: Serving, active: Serving) -> None:
    """Whether the candidate means the same windows and answers as the model in use.

    Raises:
        Unsound: `wrong_schema` or `not_finite`.
    """
    if schema_of(candidate.bundle.manifest) != schema_of(active.bundle.manifest):
        raise Unsound(
            "wrong_schema",
            f"{candidate.name} takes, answers or holds something else than {active.name}; another "
            "application needs another device agent",
        )
    if candidate.weights.shape != active.weights.shape:
        raise Unsound(
            "wrong_schema",
            f"{candidate.weights.size} weights came, the model in use has {active.weights.size}",
        )
    if not np.isfinite(candidate.weights).all():
        raise Unsound("not_finite", "its weights hold NaN or infinity")


def probes_of(active: Serving, windows: Array) -> Array:
    """`PROBES` inputs `[PROBES, *shape]`: the live ones there are, noise, and silence."""
    shape = active.bundle.manifest.input.shape
    noise = np.random.default_rng(0).standard_normal((PROBES, *shape)).astype(np.float32)
    noise[-1] = 0.0
    lived = windows[: PROBES // 2]
    noise[: len(lived)] = lived
    return noise


async def sound(
    candidate: Serving,
    active: Serving,
    windows: Array,
    open_shadow: OpenShadow,
    monotonic: Callable[[], float],
    slower_max: float,
) -> None:
    """Self-test: it opens, answers with the right shape and finite numbers, and in time.

    `windows [n, *shape]` are live ones. Both models answer the same batch in turn, and the least of
    their times are compared.

    Raises:
        Unsound: `cannot_run`, `wrong_shape`, `not_finite` or `slow`.
    """
    fits(candidate, active)
    probes = probes_of(active, windows)
    try:
        mine = await open_shadow(candidate.bundle, candidate.weights, candidate.name)
        try:
            answers_fit(await mine.infer(probes), len(probes), candidate)
            theirs = await open_shadow(active.bundle, active.weights, active.name)
            try:
                took, usual = await _paces(mine, theirs, probes, monotonic, slower_max)
            finally:
                await theirs.close()
        finally:
            await mine.close()
    except Unsound:
        raise
    except HedgerowError as error:
        raise Unsound("cannot_run", f"it cannot be run: {error}") from error
    if _slow(took, usual, slower_max):
        raise Unsound(
            "slow",
            f"{1e3 * took / PROBES:.3f} ms a window, {took / usual:.1f} times as long as the model "
            f"in use; at most {slower_max:g} times is taken",
        )


async def _paces(
    mine: Shadow, theirs: Shadow, probes: Array, monotonic: Callable[[], float], slower_max: float
) -> tuple[float, float]:
    """Least seconds that each takes for the probes: whatever else runs here only adds to them.

    What looks slow is measured again: it may have been the device that was busy.
    """
    seconds: list[list[float]] = [[math.inf], [math.inf]]
    for again in range(TRIES):
        if again:
            await asyncio.sleep(PAUSE_SECONDS)
        for _ in range(TURNS):
            for model, taken in zip((mine, theirs), seconds, strict=True):
                began = monotonic()
                await model.infer(probes)
                taken.append(monotonic() - began)
        if not _slow(min(seconds[0]), min(seconds[1]), slower_max):
            break
    return min(seconds[0]), min(seconds[1])


def _slow(took: float, usual: float, slower_max: float) -> bool:
    return took > slower_max * max(usual, FLOOR_SECONDS)


def answers_fit(answers: Array, rows: int, model: Serving) -> None:
    """Raises Unsound: `wrong_shape` or `not_finite`."""
    wanted = (rows, model.bundle.manifest.output.size)
    if answers.reshape(len(answers), -1).shape != wanted:
        raise Unsound("wrong_shape", f"it answers {list(answers.shape)}, not {list(wanted)}")
    if not np.isfinite(answers).all():
        raise Unsound("not_finite", "it answers with NaN or infinity")
