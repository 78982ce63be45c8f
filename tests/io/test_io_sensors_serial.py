"""Lines from a serial port: a pair of pseudo terminals, and a port on the network."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Reading, SensorDown
from hedgerow.io.sensors.serial import LineTimes
from tests.io.sensing import around, blocks, gaps, joined, sensor


class Line:
    """A microcontroller's end of a line; `port` is ours."""

    def __init__(self) -> None:
        self.end, self._other = os.openpty()
        tty.setraw(self._other)
        self.port = os.ttyname(self._other)

    def send(self, text: str) -> None:
        os.write(self.end, text.encode())

    def unplug(self) -> None:
        for end in (self.end, self._other):
            if end >= 0:
                os.close(end)
        self.end = self._other = -1


@pytest.fixture
def line() -> Iterator[Line]:
    opened = Line()
    yield opened
    opened.unplug()


async def enough(batches: AsyncGenerator[Sequence[Reading], None], samples: int) -> list[Block]:
    taken: list[Block] = []
    async with asyncio.timeout(90):
        async for batch in batches:
            taken += blocks(batch)
            if sum(len(block.samples) for block in taken) >= samples:
                break
    return taken


async def spoken(line: Line, texts: list[str], samples: int, **settings: object) -> list[Block]:
    """What the sensor makes of texts sent one after the other."""
    given = sensor("serial", port=line.port, block_seconds=0.02, **settings)
    async with aclosing(given.batches(around(["x", "y"], 100))) as batches:
        taking = asyncio.create_task(enough(batches, samples))
        await asyncio.sleep(0.2)
        for text in texts:
            line.send(text)
            await asyncio.sleep(0.02)
        return await taking


def test_lines_of_csv_are_samples_and_half_of_one_at_the_start_is_left_out(line: Line) -> None:
    texts = ["9,9\n1,2\n3,", "4\n# calibrated\n\nhello\n5,6,7\r\n8\n7,8\n"]
    ours = asyncio.run(spoken(line, texts, 4))
    assert joined(ours).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert ours[0].stream == "press 4" and 1.7e9 < ours[0].time_seconds < 1e11


def test_json_columns_inside_and_a_scale(line: Line) -> None:
    texts = ["\n", '{"a": {"x": 100}, "y": null}\n{"a": {"x": 200}, "y": true, "z": []}\n']
    ours = asyncio.run(
        spoken(line, texts, 2, format="json", columns={"x": "a.x", "y": "y"}, scale={"x": 0.01})
    )
    assert str(joined(ours).tolist()) == str([[1.0, float("nan")], [2.0, 1.0]])


def timed(seconds: list[list[float]], arrived: list[float]) -> list[Block]:
    """Blocks of packets with times of the sensor's own, by when each arrived."""
    times = LineTimes(around(["x"], 100))
    return [
        Block("line", when, rows)
        for given, now in zip(seconds, arrived, strict=True)
        for when, rows in times.blocks(given, np.zeros((len(given) or 10, 1), np.float32), now)
    ]


def test_samples_without_times_come_evenly_though_they_arrive_in_spurts() -> None:
    spurts = np.random.default_rng(1).uniform(0, 0.05, 100)
    ours = timed([[]] * 100, [1e9 + 0.1 * at + late for at, late in enumerate(spurts.tolist())])
    assert max(map(abs, gaps(ours, 100))) <= 1.0  # less than what a windower takes for a gap


def test_times_since_switching_on_are_put_on_our_clock() -> None:
    ticks = [*range(0, 500, 10), *range(800, 1300, 10)]  # milliseconds; 300 of them are missing
    late = np.random.default_rng(2).exponential(0.003, len(ticks)).tolist()
    ours = timed(
        [[tick / 1000] for tick in ticks],
        [1e9 + tick / 1000 + each for tick, each in zip(ticks, late, strict=True)],
    )
    jumps = [gap for gap in gaps(ours, 100) if abs(gap) > 1.0]
    assert len(jumps) == 1 and jumps[0] == pytest.approx(30, abs=1)
    assert ours[-1].time_seconds == pytest.approx(1e9 + 1.29, abs=0.005)


def test_a_sensor_that_starts_again_is_timed_anew() -> None:
    ours = timed([[50.0], [50.01], [0.0], [0.01]], [1e9, 1e9 + 0.01, 1e9 + 60, 1e9 + 60.01])
    assert [round(block.time_seconds - 1e9, 2) for block in ours] == [0.0, 0.01, 60.0, 60.01]


def test_unix_times_are_taken_as_they_are(line: Line) -> None:
    texts = ["\n", "1700000000.00,1,2\n1700000000.01,3,4\n1700000005.00,5,6\n"]
    columns = {"x": 1, "y": 2}
    ours = asyncio.run(spoken(line, texts, 3, time=0, columns=columns))
    assert [(block.time_seconds, len(block.samples)) for block in ours] == [
        (1_700_000_000.0, 2),
        (1_700_000_005.0, 1),
    ]


def test_a_flood_without_an_end_of_line_is_bounded(line: Line) -> None:
    texts = ["\n", *("x" * 1000 for _ in range(10)), "\n", "1,2\n3,4\n"]
    assert joined(asyncio.run(spoken(line, texts, 1))).tolist()[-1] == [3, 4]


def test_a_port_on_the_network() -> None:
    async def run() -> list[Block]:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\n1,2\n3,4\n")
            await writer.drain()
            await asyncio.sleep(0.5)
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        given = sensor("serial", port=f"socket://127.0.0.1:{port}")
        async with server, aclosing(given.batches(around(["x", "y"], 10))) as batches:
            ours = await enough(batches, 2)
            with pytest.raises(SensorDown, match="is gone"):
                await enough(batches, 1)
        return ours

    assert joined(asyncio.run(run())).tolist() == [[1, 2], [3, 4]]


def test_a_line_that_is_unplugged_or_silent_is_down(line: Line) -> None:
    async def run(**settings: object) -> None:
        given = sensor("serial", port=line.port, **settings)
        async with aclosing(given.batches(around(["x"], 100))) as batches:
            taking = asyncio.create_task(enough(batches, 1))
            await asyncio.sleep(0.3)
            if not settings:
                line.unplug()
            await taking

    with pytest.raises(SensorDown, match=r"said nothing for 0\.5 s.*115200 baud"):
        asyncio.run(run(silence_seconds=0.5))
    with pytest.raises(SensorDown, match="is gone"):
        asyncio.run(run())


def test_a_port_that_is_not_there_and_settings_that_cannot_work_say_so() -> None:
    with pytest.raises(SensorDown, match=r"cannot open /dev/none.*dialout"):
        asyncio.run(enough(sensor("serial", port="/dev/none").batches(around(["x"], 1)), 1))
    with pytest.raises(UsageError, match="wanted keys"):
        sensor("serial", port="a", format="json", columns={"x": 0})
    with pytest.raises(UsageError, match="numbers of columns"):
        sensor("serial", port="a", time="t")
    given = sensor("serial", port="a", scale={"z": 1})
    with pytest.raises(UsageError, match="scale names z"):
        asyncio.run(enough(given.batches(around(["x"], 1)), 1))
