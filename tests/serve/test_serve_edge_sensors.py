"""Sensors that fail, end, speak for too many, or send what does not fit: the edge goes on."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Gone, Label, Reading, SensorDown
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge import edge as edges
from hedgerow.serve.edge import reading
from hedgerow.serve.edge.engine import Engine
from hedgerow.serve.edge.streams import Cut
from tests.serve.edges import LABELS, SCHEMA, Lamp, Scene, Scripted, block, noise
from tests.serve.hosting import until


def test_a_sensor_that_fails_comes_back_after_pauses_that_grow_up_to_a_cap(tmp_path: Path) -> None:
    down = [SensorDown("no such port")]
    sensor = Scripted(openings=[*([down] * 12), [[block("press")]]])

    async def body() -> None:
        async with Scene(tmp_path, sensor).running() as scene:
            await scene.judges(1)
            health, pauses = scene.edge.sensors[0], scene.pauses.seconds
            assert (health.up, health.failures, health.last_error) == (True, 12, "")
            assert len(pauses) == 12
            wanted = reading.PAUSE_SECONDS_LEAST
            for pause in pauses:
                assert wanted / 2 <= pause <= wanted
                wanted = min(2 * wanted, reading.PAUSE_SECONDS_MOST)
            assert wanted == reading.PAUSE_SECONDS_MOST

    asyncio.run(body())


def test_a_sensor_with_a_fault_of_its_own_holds_up_no_other(tmp_path: Path) -> None:
    faulty = Scripted(openings=[[[block("a")], ZeroDivisionError("a fault")], [[block("b")]]])
    well = Scripted(openings=[[[block("c", first)] for first in range(0, 1000, 100)]])

    async def body() -> None:
        async with Scene(tmp_path, faulty, well).running() as scene:
            await until(lambda: scene.of("b") and len(scene.of("c")) == 37, 10)
            assert scene.edge.sensors[0].failures == 1
            assert scene.edge.sensors[1].failures == 0

    asyncio.run(body())


def test_settings_that_cannot_work_end_the_edge_with_what_is_wrong(tmp_path: Path) -> None:
    quiet = Scripted(openings=[])
    scene = Scene(tmp_path, quiet, Scripted(openings=[[UsageError("no such column")]]))
    with pytest.raises(UsageError, match="sensor scripted 2: no such column"):
        asyncio.run(scene.edge.run())


def test_a_sensor_waits_while_the_queue_is_full_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "READINGS_MAX", 4)
    monkeypatch.setattr(edges, "SAMPLES_MAX", 600)  # one block a batch
    sensor = Scripted(openings=[[[block("press", first)] for first in range(0, 10_000, 100)]])

    async def body() -> None:
        scene = Scene(tmp_path, sensor)
        scene.model.hangs = True
        async with scene.running():
            await until(lambda: scene.model.batches, 10)
            for _ in range(300):
                await asyncio.sleep(0)
            # One batch is judged, one is on its way into the full queue.
            assert scene.edge.sensors[0].count <= 1 + 4 + 1
            assert scene.edge.stuck_seconds() > 0
        again = Scene(tmp_path, Scripted(openings=sensor.openings))
        async with again.running():
            await again.judges(397)
            assert again.edge.stuck_seconds() == 0

    asyncio.run(body())


def test_streams_beyond_the_most_are_refused_and_counted_and_the_first_go_on(
    tmp_path: Path,
) -> None:
    names = [f"press {number}" for number in range(5)]
    sensor = Scripted(
        openings=[[[block(name, first) for name in names] for first in range(0, 500, 100)]]
    )

    async def body() -> None:
        async with Scene(tmp_path, sensor, streams_max=3).running() as scene:
            await scene.judges(3 * 17)
            assert {notice.stream for notice in scene.notices} == set(names[:3])
            assert scene.engine.streams.refused == 2 * 5
            assert len(scene.engine.streams) == 3

    asyncio.run(body())


def test_blocks_that_do_not_fit_are_counted_and_take_no_place(tmp_path: Path) -> None:
    batch = [
        Block("two channels", 0.0, noise(100)[:, :2]),
        Block("flat", 0.0, noise(100)[:, 0]),
        Block("no time", float("nan"), noise(100)),
        block("press"),
    ]

    async def body() -> None:
        async with Scene(tmp_path, Scripted(openings=[[batch]])).running() as scene:
            await scene.judges(1)
            assert scene.engine.unfit == 3
            assert [stream.name for stream in scene.engine.streams.all()] == ["press"]

    asyncio.run(body())


def test_a_stream_that_is_gone_is_forgotten_with_its_half_window(tmp_path: Path) -> None:
    before = [[block("press", first)] for first in range(0, 600, 100)]
    after = [[block("press", 625, samples=75)], [block("press", 700, samples=25)]]
    gone = [[Gone("press", 12.0, "its node died")]]

    async def body() -> None:
        async with Scene(tmp_path, Scripted(openings=[[*before, *gone, *after]])).running() as s:
            await s.judges(22)
            first, last = s.notices[-2], s.notices[-1]
            assert first.label == LABELS[0]
            # No window spans what came before, and what held is in force no longer.
            assert last.time_seconds == pytest.approx(625 / SCHEMA.rate_hz)
            assert last.label not in LABELS
            stream = s.engine.streams.named("press")
            assert stream is not None
            assert stream.gone == ""

    asyncio.run(body())


def test_the_end_of_a_stream_says_why_until_it_comes_back(tmp_path: Path) -> None:
    died, unknown = Gone("press", 2.0, "its node died"), Gone("nobody", 2.0, "")
    batches: list[list[Reading]] = [[block("press")], [died], [unknown]]

    async def body() -> None:
        async with Scene(tmp_path, Scripted(openings=[batches])).running() as scene:
            stream = None
            while stream is None or not stream.gone:
                await asyncio.sleep(0.01)
                stream = scene.engine.streams.named("press")
            assert stream.gone == "its node died"
            assert stream.notice is None
            assert len(scene.engine.streams) == 1

    asyncio.run(body())


def test_labels_come_through_a_sensor_in_their_order(tmp_path: Path) -> None:
    said = [Label("press", 0.0, 2.0, "pendulum"), Label("lathe", 1.0, 2.0, "upright row")]
    sensor = Scripted(openings=[[[said[0], block("press")], [said[1]]]])

    async def body() -> None:
        async with Scene(tmp_path, sensor).running() as scene:
            await until(lambda: len(scene.labels) == 2, 10)
            assert scene.labels == said

    asyncio.run(body())


def test_a_backlog_is_judged_but_neither_alerts_nor_moves_anything(tmp_path: Path) -> None:
    batches = [
        [block("past", first, historical=True), block("now", first)]
        for first in range(0, 1000, 100)
    ]
    lamp = Lamp(when="always")

    async def body() -> None:
        scene = Scene(
            *(tmp_path, Scripted(openings=[batches])),
            actuators=[lamp],
            alert_labels=LABELS[:1],
        )
        async with scene.running():
            await until(lambda: len(lamp.told) == 37 and len(scene.notices) == 74, 10)
            assert {notice.stream for notice in lamp.told} == {"now"}
            assert any(notice.alert for notice in scene.of("now"))
            assert not any(notice.alert for notice in scene.of("past"))
            assert [n.label for n in scene.of("past")] == [n.label for n in scene.of("now")]

    asyncio.run(body())


def test_small_and_large_batches_keep_the_order_of_each_stream(tmp_path: Path) -> None:
    rng, firsts, batches = np.random.default_rng(3), [0, 0, 0], []
    for number in range(60):
        batch = []
        for stream in range(3):
            samples = int(rng.choice([25, 100] if number % 10 else [4000]))
            batch.append(block(f"press {stream}", firsts[stream], samples))
            firsts[stream] += samples
        batches.append(batch)

    async def body() -> None:
        sensor = Scripted(openings=[batches], pause_seconds=0.001)
        async with Scene(tmp_path, sensor).running() as scene:
            await scene.judges(sum((first - 100) // 25 + 1 for first in firsts))
            for stream, first in enumerate(firsts):
                times = [notice.time_seconds for notice in scene.of(f"press {stream}")]
                assert len(times) == (first - 100) // 25 + 1
                assert np.allclose(np.diff(times), 0.5)
            assert min(scene.model.batches) <= 8 < max(scene.model.batches)

    asyncio.run(body())


def test_without_a_model_windows_count_as_not_decided_and_then_all_goes_on(tmp_path: Path) -> None:
    sensor = Scripted(openings=[[[block("press", first)] for first in range(0, 1000, 100)]])

    async def body() -> None:
        scene = Scene(tmp_path, sensor)
        scene.model.down = True
        async with scene.running():
            await until(lambda: scene.edge.unanswered == 37, 10)
            assert scene.notices == []
            assert scene.edge.stuck_seconds() == 0

    asyncio.run(body())


def test_windows_of_a_model_with_other_inputs_are_never_given_to_the_next(tmp_path: Path) -> None:
    sensor = Scripted(openings=[[[block("press", first)] for first in range(0, 1000, 100)]])

    async def body() -> None:
        scene = Scene(tmp_path, sensor)
        scene.edge.changing = True
        async with scene.running():
            await until(lambda: scene.edge.unanswered == 37, 10)
            assert scene.model.batches == []
        again = Scene(tmp_path, sensor)
        cut = again.engine.cut
        vibration = app_bundle("vibration").manifest

        def cut_and_change(readings: Iterable[Reading]) -> list[Cut]:
            again.edge.engine = Engine(vibration)  # while features of these are made
            return cut(readings)

        again.engine.cut = cut_and_change  # type: ignore[method-assign]
        async with again.running():
            await until(lambda: again.edge.unanswered, 10)
            await until(lambda: again.edge.engine.unfit, 10)
            assert again.model.batches == []

    asyncio.run(body())


def test_one_window_is_judged_at_once_when_nothing_is_before_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with Scene(tmp_path, Scripted(openings=[[[block("press")]]])).running() as scene:
            await scene.judges(1)
            judged = scene.judged[0]
            assert scene.model.batches == [1]
            assert judged.seconds > 0
            assert judged.busy_seconds > 0

    asyncio.run(body())
