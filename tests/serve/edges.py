"""An edge with sensors and a model made up here, on virtual pauses."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Act, Actuator
from hedgerow.io.sensors.base import Block, Label, Reading, Sensor
from hedgerow.io.surroundings import Surroundings
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge.edge import Edge, Judged
from hedgerow.serve.edge.engine import Engine
from hedgerow.serve.inference.base import ModelDown
from tests.serve.hosting import until

Array = NDArray[np.float32]

MANIFEST = app_bundle("watch").manifest
SCHEMA = MANIFEST.input
LABELS = MANIFEST.output.labels


class Pauses:
    """Stands in for sleeping: notes every pause, and only gives others their turn."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0.001)


def around(state: Path, pauses: Pauses) -> Surroundings:
    return Surroundings(
        device="edge",
        state=state,
        channels=SCHEMA.channels,
        rate_hz=SCHEMA.rate_hz,
        sleep=pauses.sleep,
    )


def noise(samples: int, seed: int = 0, schema: InputSchema = SCHEMA) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.3, (samples, len(schema.channels))).astype(np.float32)


def block(
    stream: str, first: int = 0, samples: int = 100, historical: bool = False, seed: int = 0
) -> Block:
    """So many samples from number `first` on."""
    return Block(stream, first / SCHEMA.rate_hz, noise(samples, seed + first), historical)


Steps = Sequence[Sequence[Reading] | Exception]


class Scripted(Sensor, frozen=True, kw_only=True):
    """Gives one list of batches each time it is opened; an exception among them is raised.

    After the last list it stays open and silent, unless `ends`.
    """

    openings: list[Steps]
    opened: list[int] = msgspec.field(default_factory=list)
    ends: bool = False
    pause_seconds: float = 0.0

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        number = len(self.opened)
        self.opened.append(number)
        for step in self.openings[min(number, len(self.openings) - 1)]:
            if isinstance(step, Exception):
                raise step
            yield step
            await asyncio.sleep(self.pause_seconds)
        if not self.ends:
            await asyncio.Event().wait()


class Lamp(Actuator, frozen=True, kw_only=True):
    """Notes what it is told; `fail` is asked before each batch, and may raise."""

    told: list[Notice] = msgspec.field(default_factory=list)
    opened: list[int] = msgspec.field(default_factory=list)
    fail: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncIterator[Act]:
        self.opened.append(len(self.opened))

        async def act(notices: Sequence[Notice]) -> None:
            await asyncio.sleep(0)
            self.fail()
            self.told.extend(notices)

        yield act


class Sure:
    """A model that is sure of one label, unless it is `down`; notes the sizes of batches."""

    def __init__(self, label: int = 0) -> None:
        self.label, self.down, self.hangs = label, False, False
        self.batches: list[int] = []

    async def infer(self, x: Array) -> Array:
        self.batches.append(len(x))
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise ModelDown("it is started again")
        if len(x) > 8:
            await asyncio.sleep(0.002)
        answers = np.full((len(x), len(LABELS)), -5, np.float32)
        answers[:, self.label] = 5
        return answers


class Scene:
    """An edge and what came of it."""

    def __init__(
        self,
        state: Path,
        *sensors: Sensor,
        actuators: Sequence[Actuator] = (),
        **engine: Any,
    ) -> None:
        self.pauses, self.model = Pauses(), Sure()
        self.judged: list[Judged] = []
        self.labels: list[Label] = []
        self.engine = Engine(MANIFEST, **engine)
        self.edge = Edge(
            *(self.engine, self.model, around(state, self.pauses)),
            [("scripted", sensor) for sensor in sensors],
            [("lamp", actuator) for actuator in actuators],
            np.random.default_rng(0),
            seen=self.judged.append,
            labelled=self.labels.append,
        )

    @property
    def notices(self) -> list[Notice]:
        return [notice for judged in self.judged for notice in judged.notices]

    def of(self, stream: str) -> list[Notice]:
        return [notice for notice in self.notices if notice.stream == stream]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Scene"]:
        """An edge that ends by itself fails the test."""
        task = asyncio.create_task(self.edge.run())
        try:
            yield self
            assert not task.done() or task.result() is None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def judges(self, windows: int) -> None:
        """Wait for so many."""
        await until(lambda: len(self.notices) >= windows, 10)
