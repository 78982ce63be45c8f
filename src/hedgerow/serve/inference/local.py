"""A model in the agent's own process: quicker by two changes of process, and not guarded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hedgerow.core.errors import UsageError
from hedgerow.io.memory import resident_bytes
from hedgerow.serve.inference.base import (
    Array,
    Happened,
    InferenceSettings,
    ModelDown,
    ModelRefused,
    ModelSpec,
    ModelStatus,
)

if TYPE_CHECKING:
    from hedgerow.model.predictor import Predictor

AT_ONCE = 32_768
"""Numbers in a batch that is not worth a thread."""


class LocalModel:
    """A `Predictor` with the face of a `GuardedModel`. Use it from one event loop."""

    def __init__(
        self,
        settings: InferenceSettings | None = None,
        *,
        threads: int = 1,
        told: Callable[[Happened], None] = lambda happened: None,
    ) -> None:
        self.settings = InferenceSettings() if settings is None else settings
        self._threads, self._told = threads, told
        self._predictor: Predictor | None = None
        self._spec: ModelSpec | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._started = 0

    async def use(self, spec: ModelSpec) -> None:
        """Run this model from now on. The one before answers until this one is ready.

        Raises:
            ModelRefused: it cannot be run; the one before stays in use.
        """
        loop = asyncio.get_running_loop()
        try:
            predictor = await loop.run_in_executor(self._executor, self._made, spec)
        except UsageError as error:
            raise ModelRefused(str(error)) from error
        self._predictor, self._spec = predictor, spec
        self._started += 1
        self._told(Happened("started", spec.name, predictor.choice.reasons))

    def one(self, x: Array) -> Array:
        """The answer f32 `[size]` to one input f32 `[*shape]`, overwritten by the next call."""
        return self._running().one(x)

    async def infer(self, x: Array) -> Array:
        """Answers f32 `[B, size]` to inputs f32 `[B, *shape]`."""
        predictor = self._running()
        if len(x) == 1:
            return predictor.one(x[0])[None].copy()
        if x.size <= AT_ONCE:
            return predictor(x)
        return await asyncio.get_running_loop().run_in_executor(self._executor, predictor, x)

    async def up(self) -> None:
        """It is up from `use` on."""

    @property
    def spec(self) -> ModelSpec | None:
        """The model in use."""
        return self._spec

    @property
    def status(self) -> ModelStatus:
        """How it does."""
        predictor = self._predictor
        return ModelStatus(
            model="" if self._spec is None else self._spec.name,
            up=predictor is not None,
            choice=None if predictor is None else predictor.choice,
            process=os.getpid(),
            started=self._started,
            resident_bytes=resident_bytes(os.getpid()),
        )

    async def close(self) -> None:
        """End its thread."""
        self._executor.shutdown(cancel_futures=True)

    def _running(self) -> Predictor:
        if self._predictor is None:
            raise ModelDown("no model is in use yet")
        return self._predictor

    def _made(self, spec: ModelSpec) -> Predictor:
        from hedgerow.model.predictor import Predictor  # an agent with a guard needs none

        return Predictor(
            spec.bundle,
            weights=spec.weights,
            precision=self.settings.precision,
            calibration=spec.calibration,
            threads=self._threads,
            providers=self.settings.providers,
            clock=time.perf_counter,
        )
