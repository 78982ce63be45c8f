"""A model whose crash or hang never takes the agent down.

    model = GuardedModel(InferenceSettings(), threads=1, told=print)
    await model.use(ModelSpec(bundle, weights, "watch 1"))
    answers = await model.infer(x)                     # f32 [B, *shape] → f32 [B, size]
    ...
    await model.close()

The model runs in a process of its own (`hedgerow.serve.inference.worker`). When that ends or hangs,
another is started after a pause that doubles; after `tries` ends in a row the last model that did
well takes its place, and whoever listens is told. Until a process is up again `infer` raises
`ModelDown`: the agent goes on sensing, and counts those windows as not decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hedgerow.io.tasks import end
from hedgerow.serve.inference.base import (
    Happened,
    Happening,
    InferenceSettings,
    ModelDown,
    ModelRefused,
    ModelSpec,
    ModelStatus,
)
from hedgerow.serve.inference.process import Worker

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0
"""A process that lived this long did well: the count of ends begins anew."""
ANSWERS_GOOD = 10
"""So does one that answered so often, when it comes to falling back to its model."""


class GuardedModel:
    """One model in use, in a process of its own. Use it from one event loop."""

    def __init__(
        self,
        settings: InferenceSettings | None = None,
        *,
        threads: int = 1,
        told: Callable[[Happened], None] = lambda happened: None,
    ) -> None:
        self.settings = InferenceSettings() if settings is None else settings
        self._threads, self._told = threads, told
        self._worker: Worker | None = None
        self._spec: ModelSpec | None = None
        self._good: ModelSpec | None = None
        self._up, self._using = asyncio.Event(), asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._in_a_row = 0
        self._born = 0.0
        self._started = self._ended = self._fell_back = 0
        self._last_error = ""

    async def use(self, spec: ModelSpec) -> None:
        """Run this model from now on. The one before answers until this one is ready.

        Other weights for the same bundle go into the process that runs; anything else into one of
        its own, which takes over.

        Raises:
            ModelRefused: it cannot be run; the one before stays in use.
            ModelDown: its process crashed or hung while it started; the one before stays in use.
        """
        async with self._using:  # one after the other: they share memory and the place in use
            before, was = self._worker, self._spec
            if before is None or before.lost or was is None or not _only_weights(was, spec):
                await self._use_anew(spec)
                return
            good = was if before.answered >= ANSWERS_GOOD else self._good
            await before.change(spec, self.settings.start_seconds)
            self._good, self._spec, self._in_a_row = good, spec, 0

    async def _use_anew(self, spec: ModelSpec) -> None:
        """In another process."""
        worker = await Worker.start(spec, self.settings, self._threads)
        before = self._worker
        await self._stop_restarting()
        self._keep_good()
        self._in_a_row = 0
        self._adopt(worker)
        if before is not None:
            before.on_lost = _nobody
            await before.retire()

    async def infer(self, x: Array) -> Array:
        """Answers f32 `[B, size]` to inputs f32 `[B, *shape]`, of any B: more than `batch_max` go
        one batch after the other.

        Raises:
            ModelDown: the process ended or hung, or is being started again.
        """
        most, seconds = self.settings.batch_max, self.settings.deadline_seconds
        if len(x) <= most:
            return await self._running().infer(x, seconds)
        parts = [
            await self._running().infer(x[first : first + most], seconds)
            for first in range(0, len(x), most)
        ]
        return np.concatenate(parts)

    def one(self, x: Array) -> Array:
        """The answer f32 `[size]` to one input f32 `[*shape]`, waited for in place.

        It holds up its caller for `patience_seconds` at most.

        Raises:
            ModelDown: as `infer`; or there is no answer in so short a time.
        """
        settings = self.settings
        return self._running().one(x, settings.patience_seconds, settings.deadline_seconds)

    async def up(self) -> None:
        """Wait until there is a process that answers."""
        await self._up.wait()

    @property
    def spec(self) -> ModelSpec | None:
        """The model in use; after a fall-back the one fallen back to."""
        return self._spec

    @property
    def status(self) -> ModelStatus:
        """How it does."""
        worker = self._worker
        return ModelStatus(
            model="" if self._spec is None else self._spec.name,
            up=self._up.is_set(),
            choice=None if worker is None else worker.choice,
            process=None if worker is None or worker.lost else worker.pid,
            started=self._started,
            ended=self._ended,
            fell_back=self._fell_back,
            last_error=self._last_error,
            resident_bytes=0 if worker is None or worker.lost else worker.resident_bytes,
        )

    async def close(self) -> None:
        """End the process."""
        await self._stop_restarting()
        self._up.clear()
        if self._worker is not None:
            self._worker.on_lost = _nobody
            await self._worker.close()
            self._worker = None

    # Ends and starts ------------------------------------------------------------------------------

    def _running(self) -> Worker:
        if self._worker is None or self._worker.lost:
            raise ModelDown(self._last_error or "no model is in use yet")
        return self._worker

    def _adopt(self, worker: Worker) -> None:
        self._worker, self._spec = worker, worker.spec
        worker.on_lost = self._lost
        self._born = asyncio.get_running_loop().time()
        self._started += 1
        self._last_error = ""
        self._up.set()
        self._tell("started", worker.choice.reasons)
        if worker.lost:  # it ended between its first word and here
            self._lost(worker)

    def _lost(self, worker: Worker) -> None:
        """Called by the process in use as it is found gone."""
        self._up.clear()
        self._ended += 1
        self._last_error = worker.lost
        self._restarting = asyncio.get_running_loop().create_task(self._restart(worker))

    async def _restart(self, worker: Worker) -> None:
        self._last_error = await worker.close()
        self._tell("hung" if worker.hung else "crashed", self._last_error)
        if asyncio.get_running_loop().time() - self._born >= STEADY_SECONDS:
            self._in_a_row = 0
        while True:
            self._in_a_row += 1
            self._fall_back()
            await asyncio.sleep(min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2 ** (self._in_a_row - 1)))
            assert self._spec is not None
            try:
                again = await Worker.start(self._spec, self.settings, self._threads)
            except (ModelDown, ModelRefused) as error:
                self._ended += 1
                self._last_error = str(error)
                self._tell("refused" if isinstance(error, ModelRefused) else "crashed", str(error))
                continue
            self._restarting = None
            self._adopt(again)
            return

    def _fall_back(self) -> None:
        """To the last good model, when the one in use had its tries."""
        good = self._good
        if self._in_a_row < self.settings.tries or good is None or good is self._spec:
            return
        self._tell("fell_back", f"{self._last_error}; back to {good.name}")
        self._spec, self._good = good, None
        self._fell_back += 1
        self._in_a_row = 1

    def _keep_good(self) -> None:
        """The model in use becomes the one to fall back to, if it did well."""
        worker = self._worker
        if worker is not None and not worker.lost and worker.answered >= ANSWERS_GOOD:
            self._good = worker.spec

    async def _stop_restarting(self) -> None:
        task, self._restarting = self._restarting, None
        if task is not None:
            await end([task])

    def _tell(self, what: Happening, reason: str) -> None:
        name = "" if self._spec is None else self._spec.name
        level = logging.INFO if what == "started" else logging.WARNING
        log.log(level, "model %s %s: %s", name, what.replace("_", " "), reason)
        self._told(Happened(what, name, reason))


def _only_weights(before: ModelSpec, after: ModelSpec) -> bool:
    """Whether the same process can answer with the other model."""
    return (
        before.bundle is after.bundle
        and before.calibration is after.calibration
        and len(before.weights) == len(after.weights)
    )


def _nobody(worker: Worker) -> None:
    """Whoever ends a process on purpose need not hear of it."""
