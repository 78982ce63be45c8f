"""Sensing, inferring, deciding and acting, all day: the part of an agent that needs no network."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Actuator
from hedgerow.io.sensors.base import Block, Label, Reading, Sensor
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end
from hedgerow.serve.edge.acting import Acting
from hedgerow.serve.edge.engine import Engine
from hedgerow.serve.edge.featuring import FeatureProcess
from hedgerow.serve.edge.reading import Arrived, Health, healths, keep_reading
from hedgerow.serve.edge.streams import Cut
from hedgerow.serve.inference.base import ModelDown

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
READINGS_MAX = 256
"""Batches of readings that wait; then sensors wait."""
SAMPLES_MAX = 1_000_000
"""Numbers that one micro-batch takes at most: what waits longer is better cut in two."""
CUTS_AT_ONCE = 8
"""So few are judged before anything else is done."""


class Model(Protocol):
    """The model as the edge uses it; another one may take its place between two batches."""

    async def infer(self, x: Array) -> Array:
        """Answers `[B, size]` to inputs `[B, *shape]`.

        Raises:
            ModelDown: there is no answer; the windows count as not decided.
        """


class Judged(NamedTuple):
    """One batch of B windows: what was cut, asked `[B, *shape]`, answered `[B, size]` and decided.

    `seconds` passed since the first of its readings arrived; `busy_seconds` is the time that work
    on windows took since the batch before, here and in the processes beside.
    """

    cuts: Sequence[Cut]
    given: Array
    answers: Array
    notices: Sequence[Notice]
    seconds: float
    busy_seconds: float = 0.0


class Batch:
    """Readings that arrived together, cut into windows by the engine of the moment."""

    __slots__ = ("arrived", "cuts", "engine")

    def __init__(self, engine: Engine, arrived: float, readings: Sequence[Reading]) -> None:
        self.engine, self.arrived = engine, arrived
        self.cuts = engine.cut(readings)


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
        read = healths(kind for kind, _ in sensors)
        self._sensors = [
            (sensor, health) for (_, sensor), health in zip(sensors, read, strict=True)
        ]
        told = healths(kind for kind, _ in actuators)
        self._acting = [
            Acting(actuator, around, health, rng)
            for (_, actuator), health in zip(actuators, told, strict=True)
        ]
        self._rng = rng
        self._featuring: FeatureProcess | None = None
        self._featuring_of: InputSchema | None = None
        self._turn: asyncio.Queue[tuple[Batch, asyncio.Task[Array]]] = asyncio.Queue(1)
        self._making: set[asyncio.Task[Array]] = set()
        self._waiting = 0
        self._busy_seconds = 0.0
        self._moved = around.monotonic()
        self._unanswered_before = 0
        self.changing = False
        """A model with other inputs takes over: until its engine is here, nothing is judged."""
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

    def stuck_seconds(self) -> float:
        """For how long readings have waited while none was worked off; 0: nothing waits."""
        if self._queue.empty() and not self._waiting:
            self._moved = self.around.monotonic()
            return 0.0
        return self.around.monotonic() - self._moved

    async def run(self) -> None:
        """For ever; raises what made a sensor's or an actuator's settings impossible."""
        work: list[Awaitable[None]] = [
            asyncio.create_task(self._decide()),
            asyncio.create_task(self._judge_in_turn()),
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
            await end([*reading, *tasks, *self._making])
            if self._featuring is not None:
                await self._featuring.close()

    async def _decide(self) -> None:
        """Batch after batch, in order: while features of one are made, the next one is cut and the
        one before is judged. A small one that nothing is before is done at once.
        """
        while True:
            arrived, readings = await self._gathered()
            began = time.thread_time()
            batch = Batch(self.engine, arrived, readings)
            self._busy_seconds += time.thread_time() - began
            if not batch.cuts:
                self._moved = self.around.monotonic()
                continue
            making = self._features(batch)
            if len(batch.cuts) <= CUTS_AT_ONCE and not self._waiting:
                await self._judge(batch, await making)
            else:
                self._waiting += 1
                task = asyncio.create_task(making)
                self._making.add(task)
                task.add_done_callback(self._making.discard)
                await self._turn.put((batch, task))

    async def _judge_in_turn(self) -> None:
        while True:
            batch, features = await self._turn.get()
            await self._judge(batch, await features)
            self._waiting -= 1

    async def _features(self, batch: Batch) -> Array:
        engine = batch.engine
        featuring = self._featuring
        if featuring is None or self._featuring_of is not engine.schema:
            before, self._featuring_of = featuring, engine.schema
            featuring = self._featuring = FeatureProcess(engine.schema)
            if before is not None:
                await before.close()
        made = await featuring.features([cut.window.samples for cut in batch.cuts])
        self._busy_seconds += featuring.take_busy_seconds()
        return made

    async def _gathered(self) -> tuple[float, list[Reading]]:
        """What waits, up to a batch; labels are passed on at once."""
        if self._queue.empty():
            arrived, first = await self._queue.get()
            self._moved = self.around.monotonic()  # nothing waited until now
        else:
            arrived, first = self._queue.get_nowait()
        readings, samples = list(first), _samples(first)
        while samples < SAMPLES_MAX and not self._queue.empty():
            _, more = self._queue.get_nowait()
            samples += _samples(more)
            readings += more
        for reading in readings:
            if isinstance(reading, Label):
                self._labelled(reading)
        return arrived, readings

    async def _judge(self, batch: Batch, features: Array) -> None:
        """Infer, decide, tell."""
        engine, cuts = batch.engine, batch.cuts
        began, asked = time.thread_time(), 0.0
        try:
            if self.changing or engine.schema != self.engine.schema:
                raise ModelDown("a model with other inputs takes over")
            given = engine.prepared(cuts, features)
            self._busy_seconds += time.thread_time() - began
            asked = time.monotonic()
            answers = await self.model.infer(given)
            asked, began = time.monotonic() - asked, time.thread_time()
        except ModelDown as error:
            self._unanswered(len(cuts), error)
            return
        finally:
            self._moved = self.around.monotonic()
        notices = engine.judge(cuts, given, answers)
        # What comes from a backlog is told to whoever keeps it, but not acted on.
        live = [notice for cut, notice in zip(cuts, notices, strict=True) if not cut.historical]
        for acting in self._acting:
            acting.tell(live)
        seconds = self.around.monotonic() - batch.arrived
        busy = self._busy_seconds + asked + time.thread_time() - began
        self._busy_seconds = self._unanswered_before = 0
        self._seen(Judged(cuts, given, answers, notices, seconds, busy))

    def _unanswered(self, count: int, error: ModelDown) -> None:
        self.unanswered += count
        self._unanswered_before += 1
        if self._unanswered_before & (self._unanswered_before - 1) == 0:  # not once a window
            log.warning("windows are not decided (%d so far): %s", self.unanswered, error)


def _samples(readings: Sequence[Reading]) -> int:
    return sum(reading.samples.size for reading in readings if isinstance(reading, Block))
