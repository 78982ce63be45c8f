"""A notice that an actuator cannot take in holds up the others only for a while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Act
from hedgerow.io.surroundings import Surroundings
from tests.serve.edges import Lamp, Scene, Scripted, block
from tests.serve.hosting import until

WINDOWS = 397


class Choking(Lamp, frozen=True, kw_only=True):
    """Cannot take in one notice, which is in the middle of the first batch that it sees."""

    bad: list[Notice] = []  # noqa: RUF012 - msgspec copies it

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncIterator[Act]:
        async def act(notices: Sequence[Notice]) -> None:
            await asyncio.sleep(0)
            if not self.bad:
                self.bad.append(notices[len(notices) // 2])
            if self.bad[0] in notices:
                raise ValueError("year 316889355 is out of range")
            self.told.extend(notices)

        yield act


def test_a_notice_that_an_actuator_chokes_on_goes_alone_and_is_counted(tmp_path: Path) -> None:
    batches = [[block("press", first)] for first in range(0, 10_000, 100)]
    lamp = Choking(when="always")

    async def body() -> None:
        scene = Scene(tmp_path, Scripted(openings=[batches]), actuators=[lamp])
        async with scene.running():
            await until(lambda: len(lamp.told) == WINDOWS - 1, 10)
            assert lamp.told == [one for one in scene.notices if one != lamp.bad[0]]
            health = scene.edge.actuators[0]
            assert (health.dropped, health.count) == (1, WINDOWS - 1)
            assert health.failures == 6

    asyncio.run(body())
