"""The Sparkplug sensor on a real broker: values, births, deaths, gaps, backlogs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import plugins
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.connection import Connection, Will
from hedgerow.io.sensors.base import Block, Gone, Reading, SensorDown
from hedgerow.io.sensors.sparkplug import Sparkplug
from hedgerow.io.sparkplug.edge import EdgeNode
from hedgerow.io.sparkplug.payload import DataType, Metric
from hedgerow.io.surroundings import Surroundings
from tests.io.brokers import listening, mosquitto, until
from tests.io.ledger import Ledger

SECOND = 1000
NOW_MS = 1_700_000_000 * SECOND


def around(rate_hz: float = 1.0, **other: Any) -> Surroundings:
    return Surroundings(
        device="gate", state=Path("/nowhere"), channels=("x", "y"), rate_hz=rate_hz, **other
    )


class Plant:
    """An edge node on a broker, which answers requests for a rebirth."""

    def __init__(self, broker: Broker) -> None:
        self.edge = EdgeNode("plant", "node", bd_seq=0)
        self.rebirths = 0
        self.ups = 0
        self.connection = Connection(
            broker,
            "plant",
            subscribe=[("spBv1.0/plant/NCMD/node", 1)],
            will=self._will,
            on_up=self._up,
        )

    def _up(self) -> None:
        self.ups += 1

    def _will(self) -> Will:
        return Will(*self.edge.will(NOW_MS))

    def send(self, messages: list[tuple[str, bytes]]) -> None:
        for topic, payload in messages:
            assert self.connection.publish(topic, payload)

    def values(self, second: float, *metrics: Metric, historical: bool = False) -> None:
        stamped = [
            Metric(each.name, each.value, each.datatype, round(NOW_MS + second * SECOND))
            for each in metrics
        ]
        self.send(self.edge.data("press", stamped, NOW_MS, historical=historical))

    async def answer(self) -> None:
        while True:
            for message in await self.connection.receive():
                if self.edge.wants_rebirth(message.topic, message.payload):
                    self.rebirths += 1
                    self.send(self.edge.births(NOW_MS))


def double(name: str, value: float | None) -> Metric:
    return Metric(name, value, DataType.DOUBLE)


def floats(name: str, values: list[float]) -> Metric:
    return Metric(name, values, DataType.FLOAT_ARRAY)


class Read:
    """What the sensor gave so far."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    @property
    def blocks(self) -> list[tuple[float, list[list[float]], bool]]:
        return [
            (
                each.time_seconds - NOW_MS / SECOND,
                each.samples.tolist(),
                each.historical,
            )
            for each in self.readings
            if isinstance(each, Block)
        ]

    @property
    def rows(self) -> list[list[float]]:
        return [row for _, rows, _ in self.blocks for row in rows]

    async def until(self, fits: Callable[[], object]) -> None:
        await until(fits)


@asynccontextmanager
async def scene(
    directory: Path, rate_hz: float = 1.0, ledger: Ledger | None = None, **settings: Any
) -> AsyncIterator[tuple[Plant, Read, Broker]]:
    """A broker, a node with its connection, and the sensor reading."""
    with mosquitto(directory) as server:
        sensor = plugins.sensor({"kind": "sparkplug", "broker": {"url": server.url}, **settings})
        read = Read()
        plant = Plant(server.broker)
        surroundings = around(rate_hz) if ledger is None else around(rate_hz, egress=ledger)

        async def reading() -> None:
            async with contextlib.aclosing(sensor.batches(surroundings)) as batches:
                async for batch in batches:
                    read.readings += batch

        async with plant.connection, asyncio.TaskGroup() as group:
            tasks = [group.create_task(reading()), group.create_task(plant.answer())]
            # The sensor hears: data without a birth makes it ask for one.
            plant.edge.births(NOW_MS)
            marker = [Metric("ready", 0, DataType.INT32)]
            while not plant.rebirths:
                marker = [Metric("ready", marker[0].value + 1, DataType.INT32)]  # type: ignore[operator]
                plant.send(plant.edge.data("marker", marker, NOW_MS))
                await asyncio.sleep(0.02)
            yield plant, read, server.broker
            for task in tasks:
                task.cancel()


def test_values_that_change_become_samples_on_the_grid(tmp_path: Path) -> None:
    async def play() -> None:
        ledger = Ledger()
        async with scene(tmp_path, ledger=ledger) as (plant, read, _):
            plant.values(0, double("x", 1.0), double("y", 10.0))
            plant.values(1, double("x", 2.0), double("y", 10.0))  # y did not change: not sent
            plant.values(4, double("x", 2.0), double("y", 20.0))
            await read.until(lambda: len(read.rows) >= 5)
            assert read.rows == [[1, 10], [2, 10], [2, 10], [2, 10], [2, 20]]
            assert {each.stream for each in read.readings} == {"node/press"}
            assert [(left.kind, left.purpose) for left in ledger.entries] == [
                ("command", "rebirth wanted")
            ]

    asyncio.run(play())


def test_a_value_holds_no_longer_than_told(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, hold_seconds=2.5) as (plant, read, _):
            plant.values(0, double("x", 1.0), double("y", 10.0))
            plant.values(9, double("x", 2.0), double("y", 20.0))
            await read.until(lambda: len(read.rows) >= 4)
            assert [(begin, len(rows)) for begin, rows, _ in read.blocks] == [
                (0, 1),
                (1, 2),
                (9, 1),
            ]

    asyncio.run(play())


def test_array_metrics_are_blocks_and_metrics_are_mapped(tmp_path: Path) -> None:
    async def play() -> None:
        mapping = {"x": "Vibration/X", "y": "Vibration/Y"}
        async with scene(tmp_path, 1000.0, channels=mapping, stream="{device}") as (plant, read, _):
            for block in range(3):
                shift = 0.0003 * (block == 1)  # stamps are in milliseconds; samples are steady
                plant.values(
                    0.1 * block + shift,
                    floats("Vibration/X", [float(block)] * 100),
                    floats("Vibration/Y", [0.5 * at + block for at in range(100)]),
                    double("Speed", 5.0 + block),
                )
            await read.until(lambda: len(read.blocks) >= 3)
            assert [begin for begin, _, _ in read.blocks] == pytest.approx([0, 0.1, 0.2], abs=3e-4)
            last = read.readings[-1]
            assert isinstance(last, Block)
            assert last.stream == "press"
            np.testing.assert_array_equal(last.samples[:, 0], np.full(100, 2.0, np.float32))
            np.testing.assert_array_equal(last.samples[:, 1], np.arange(100) * np.float32(0.5) + 2)

    asyncio.run(play())


def test_a_backlog_is_historical(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as (plant, read, _):
            plant.values(50, double("x", 5.0), double("y", 50.0))
            for second in (10, 11, 12):
                plant.values(second, double("x", float(second)), double("y", 0.0), historical=True)
            plant.values(51, double("x", 6.0), double("y", 50.0))
            await read.until(lambda: len(read.rows) >= 5)
            past = [(begin, rows) for begin, rows, historical in read.blocks if historical]
            assert past == [(10, [[10, 0]]), (11, [[11, 0]]), (12, [[12, 0]])]
            now = [rows for _, rows, historical in read.blocks if not historical]
            assert now == [[[5, 50]], [[6, 50]]]

    asyncio.run(play())


def test_a_lost_message_is_noticed_and_mended(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as (plant, read, _):
            plant.values(0, double("x", 1.0), double("y", 10.0))
            await read.until(lambda: read.rows)
            before = plant.rebirths
            plant.edge.data("press", [double("x", 2.0), double("y", 20.0)], NOW_MS)  # lost
            plant.values(2, double("x", 2.0), double("y", 30.0))
            await read.until(lambda: plant.rebirths > before)
            await read.until(lambda: [2, 30] in read.rows)

    asyncio.run(play())


def test_a_node_that_dies_takes_its_streams_along(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as (plant, read, _):
            plant.values(0, double("x", 1.0), double("y", 10.0))
            await read.until(lambda: read.rows)
            plant.connection.reconnect("test")  # the broker sends the will
            await read.until(lambda: isinstance(read.readings[-1], Gone))
            gone = read.readings[-1]
            assert (gone.stream, gone.reason) == ("node/press", "the edge node died")  # type: ignore[union-attr]
            await until(lambda: plant.ups == 2)
            plant.send(plant.edge.births(NOW_MS))
            await read.until(lambda: isinstance(read.readings[-1], Block))

    asyncio.run(play())


def test_one_device_of_a_node_with_several(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, device="press") as (plant, read, _):
            for second in range(5):
                other = [double("x", float(second)), double("y", 0.0)]
                plant.send(plant.edge.data("other", other, NOW_MS))
                plant.values(second, double("x", float(second)), double("y", 1.0))
            await read.until(lambda: len(read.rows) >= 5)
            assert {each.stream for each in read.readings} == {"node/press"}
            assert plant.rebirths == 1  # the one that made sure that the sensor hears

    asyncio.run(play())


def test_as_a_host_application_it_says_whether_it_is_there(tmp_path: Path) -> None:
    async def play() -> None:
        async with (
            scene(tmp_path, host_id="gate") as (_, _, broker),
            listening(broker, "spBv1.0/STATE/gate") as ear,
        ):
            await ear.until(lambda ear: ear.messages)
            assert ear.messages[0].retain
            assert json.loads(ear.messages[0].payload)["online"] is True

    asyncio.run(play())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"group": "a/b"}, "group is 'a/b'"),
        ({"node": ""}, "want a name"),
        ({"stream": "{plant}"}, "stream is"),
        ({"hold_seconds": 0}, "hold_seconds"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plugins.sensor({"kind": "sparkplug", **settings})


def test_a_broker_that_is_away_at_the_start_is_a_sensor_that_is_down() -> None:
    async def play() -> None:
        sensor = Sparkplug(broker=Broker(url="mqtt://127.0.0.1:1"))
        with pytest.raises(SensorDown, match="not reachable"):
            await anext(sensor.batches(around()))

    asyncio.run(play())
