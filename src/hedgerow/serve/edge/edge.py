"""Sensing, inferring, deciding and acting, all day: the part of an agent that needs no network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Actuator
from hedgerow.io.sensors.base import Block, Label, Reading, Sensor
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end
from hedgerow.serve.edge.acting import Acting
from hedgerow.serve.edge.engine import Engine
from hedgerow.serve.edge.reading import Arrived, Health, keep_reading
from hedgerow.serve.edge.streams import Cut
from hedgerow.serve.inference.base import ModelDown

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
READINGS_MAX = 256
"""Batches of readings that wait; then sensors wait."""
SAMPLES_MAX = 4_000_000
"""Numbers that one micro-batch takes at most: what waits longer is better cut in two."""
SAMPLES_IN_LOOP = 8_192
"""A smaller batch is done at once: handing it to a thread would cost more."""


class Model(Protocol):
    """The model as the edge uses it; another one may take its place between two batches."""

    def one(self, x: Array) -> Array:
        """The answer `[size]` to one input, at once."""

    async def infer(self, x: Array) -> Array:
        """Answers `[B, size]` to inputs `[B, *shape]`.

        Raises:
            ModelDown: there is no answer; the windows count as not decided.
        """


class Judged(NamedTuple):
    """One batch of B windows: what was cut, asked `[B, *shape]`, answered `[B, size]` and decided.

    `seconds` passed since the first of its readings arrived.
    """

    cuts: Sequence[Cut]
    given: Array
    answers: Array
    notices: Sequence[Notice]
    seconds: float


class Edge:
    """Sensors in, notices out. `run` until cancelled.

    `seen` hears of every batch (the store, learning on site and trials of new models hang there),
    `labelled` of every label that came through a sensor.
    """

    def __init__(
        self,
        engine: Engine,
        model: Model,
        around: Surroundings,
        sensors: Sequence[tuple[str, Sensor]],
        actuators: Sequence[tuple[str, Actuator]],
        rng: np.random.Generator,
        seen: Callable[[Judged], None] = lambda judged: None,
        labelled: Callable[[Label], None] = lambda label: None,
    ) -> None:
        """`sensors` and `actuators` each with their kind."""
        self.engine, self.model, self.around = engine, model, around
        self._seen, self._labelled = seen, labelled
        self._queue: asyncio.Queue[Arrived] = asyncio.Queue(READINGS_MAX)
        self._sensors = [(sensor, Health(kind)) for kind, sensor in sensors]
        self._acting = [Acting(one, around, Health(kind), rng) for kind, one in actuators]
        self._rng = rng
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sensing")
        self.unanswered = 0
        """Windows that no model answered."""

    @property
    def sensors(self) -> list[Health]:
        """How each sensor does."""
        return [health for _, health in self._sensors]

    @property
    def actuators(self) -> list[Health]:
        """How each actuator does."""
        return [acting.health for acting in self._acting]

    async def run(self) -> None:
        """For ever; raises what made a sensor's or an actuator's settings impossible."""
        work: list[Awaitable[None]] = [
            asyncio.create_task(self._decide()),
            *(asyncio.create_task(acting.run()) for acting in self._acting),
        ]
        reading = [
            asyncio.create_task(keep_reading(sensor, self.around, self._queue, health, self._rng))
            for sensor, health in self._sensors
        ]
        tasks = {asyncio.ensure_future(one) for one in work} | set(reading)
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await end([*reading, *tasks])
            self._thread.shutdown(cancel_futures=True)

    async def _decide(self) -> None:
        while True:
            arrived, first = await self._queue.get()
            readings = list(first)
            samples = _samples(readings)
            while samples < SAMPLES_MAX and not self._queue.empty():
                _, more = self._queue.get_nowait()
                samples += _samples(more)
                readings += more
            for reading in readings:
                if isinstance(reading, Label):
                    self._labelled(reading)
            await self.process(readings, samples, arrived)

    async def process(self, readings: Sequence[Reading], samples: int, arrived: float) -> None:
        """One micro-batch of `samples` numbers: cut, infer, decide, tell."""
        engine = self.engine  # another bundle may come while the model answers
        if samples <= SAMPLES_IN_LOOP:
            cuts = engine.cut(readings)
            given = engine.features(cuts) if cuts else None
        else:
            loop = asyncio.get_running_loop()
            cuts, given = await loop.run_in_executor(self._thread, _prepared, engine, readings)
        if given is None:
            return
        try:
            if len(cuts) == 1:
                answers = self.model.one(given[0])[None]
            else:
                answers = await self.model.infer(given)
        except ModelDown as error:
            self.unanswered += len(cuts)
            log.warning("%d windows are not decided: %s", len(cuts), error)
            return
        notices = engine.judge(cuts, given, answers)
        for acting in self._acting:
            acting.tell(notices)
        seconds = self.around.monotonic() - arrived
        self._seen(Judged(cuts, given, answers, notices, seconds))


def _prepared(engine: Engine, readings: Sequence[Reading]) -> tuple[list[Cut], Array | None]:
    cuts = engine.cut(readings)
    return cuts, engine.features(cuts) if cuts else None


def _samples(readings: Sequence[Reading]) -> int:
    return sum(reading.samples.size for reading in readings if isinstance(reading, Block))
