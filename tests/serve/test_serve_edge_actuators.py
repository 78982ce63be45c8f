"""Actuators that go down and come back: in order, none lost below the cap, nobody held up."""

import asyncio
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.actuators.base import ActuatorDown
from hedgerow.serve.edge import acting
from hedgerow.serve.edge.reading import PAUSE_SECONDS_LEAST
from tests.serve.edges import LABELS, Array, Lamp, Scene, Scripted, Sure, block
from tests.serve.hosting import until

WINDOWS = 397


def sensor() -> Scripted:
    return Scripted(openings=[[[block("press", first)] for first in range(0, 10_000, 100)]])


class Tilted(Sure):
    """Calls it the second label when the first channel is far up."""

    async def infer(self, x: Array) -> Array:
        answers = await super().infer(x)
        up = x[:, 0].mean(axis=-1) > 1
        answers[up] = answers[up][:, [1, 0, *range(2, len(LABELS))]]
        return answers


class Failing:
    """Raises on the given calls."""

    def __init__(self, *failing: int, error: type[Exception] = ActuatorDown) -> None:
        self.calls, self.failing, self.error = 0, set(failing), error

    def __call__(self) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise self.error("the line is down")


@pytest.mark.parametrize("error", [ActuatorDown, RuntimeError])
def test_one_that_goes_down_again_and_again_gets_everything_in_order(
    tmp_path: Path, error: type[Exception]
) -> None:
    lamp = Lamp(when="always", fail=Failing(1, 2, 4, 7, error=error))
    other = Lamp(when="always")

    async def body() -> None:
        async with Scene(tmp_path, sensor(), actuators=[lamp, other]).running() as scene:
            await until(lambda: len(lamp.told) == len(other.told) == WINDOWS, 10)
            assert lamp.told == other.told == scene.notices
            health = scene.edge.actuators[0]
            assert (health.up, health.failures, health.dropped) == (True, len(lamp.opened) - 1, 0)
            assert health.count == WINDOWS
            assert health.last_error == ""
            assert health.failures >= 2

    asyncio.run(body())


def test_one_that_opens_and_never_acts_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    lamp = Lamp(when="always", fail=Failing(*range(1, 1000)))

    async def body() -> None:
        async with Scene(tmp_path, sensor(), actuators=[lamp]).running() as scene:
            await until(lambda: len(scene.pauses.seconds) >= 6, 10)
            assert scene.pauses.seconds[5] >= PAUSE_SECONDS_LEAST * 2**5 / 2

    asyncio.run(body())


def test_beyond_the_cap_the_oldest_go_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "WAITING_MAX", 50)
    down = True

    def fail() -> None:
        if down:
            raise ActuatorDown("the line is down")

    lamp = Lamp(when="always", fail=fail)

    async def body() -> None:
        nonlocal down
        async with Scene(tmp_path, sensor(), actuators=[lamp]).running() as scene:
            await scene.judges(WINDOWS)
            down = False
            await until(lambda: lamp.told and lamp.told[-1] == scene.notices[-1], 10)
            assert len(lamp.told) <= 50
            assert lamp.told == scene.notices[-len(lamp.told) :]
            assert scene.edge.actuators[0].dropped == WINDOWS - len(lamp.told)

    asyncio.run(body())


def test_an_alert_is_told_where_it_begins_and_where_it_ends(tmp_path: Path) -> None:
    alerts, changes, everything = Lamp(when="alert"), Lamp(when="change"), Lamp(when="always")
    faulty = range(3_000, 6_000)
    batches = []
    for first in range(0, 10_000, 100):
        one = block("press", first)
        one.samples[:, 0] += 3 * (first in faulty)
        batches.append([one])

    async def body() -> None:
        scene = Scene(
            *(tmp_path, Scripted(openings=[batches])),
            actuators=[alerts, changes, everything],
            alert_labels=LABELS[1:2],
        )
        scene.model = scene.edge.model = Tilted()
        async with scene.running():
            await until(lambda: len(everything.told) == WINDOWS, 10)
            await until(lambda: len(alerts.told) == 2, 10)
            begin, end = alerts.told
            assert (begin.alert, begin.label, end.alert) == (True, LABELS[1], False)
            assert next(n for n in scene.notices if n.alert) == begin
            assert changes.told == [n for n in scene.notices if n.changed]
            assert begin in changes.told
            assert end in changes.told

    asyncio.run(body())


def test_settings_that_cannot_work_end_the_edge(tmp_path: Path) -> None:
    lamp = Lamp(when="always", fail=Failing(1, error=UsageError))
    with pytest.raises(UsageError, match="the line is down"):
        asyncio.run(Scene(tmp_path, sensor(), actuators=[lamp]).edge.run())
