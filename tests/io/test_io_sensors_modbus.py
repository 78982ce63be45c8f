"""Modbus sensors against a real Modbus TCP server."""

from __future__ import annotations

import asyncio
import math
import os
import select
import termios
import threading
import tty
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

import numpy as np
import pytest
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Gone, Reading, SensorDown
from hedgerow.io.sensors.modbus import Register, Span, plan
from tests.io.industrial import free_port, modbus_server
from tests.io.sensing import Clock, around, blocks, first, gaps, joined, sensor

CHANNELS = ["pressure", "temperature"]
REGISTERS = {
    "temperature": {"address": 100, "type": "float32"},
    "pressure": {"address": 102, "type": "int16", "scale": 0.1, "offset": 1.0},
}


def pump(unit: int, celsius: float) -> SimDevice:
    return SimDevice(
        unit,
        [
            SimData(100, values=[celsius], datatype=DataType.FLOAT32),
            SimData(102, values=[-300], datatype=DataType.INT16),
        ],
    )


def test_two_pumps_on_one_line_become_two_streams() -> None:
    async def run() -> list[Reading]:
        port = free_port()
        given = sensor(
            "modbus",
            host="127.0.0.1",
            tcp_port=port,
            devices={"pump 1": 1, "pump 2": 2},
            registers=REGISTERS,
            block_seconds=0.1,
        )
        async with modbus_server([pump(1, 21.5), pump(2, -4.25)], port):
            return await first(given, around(CHANNELS, 50, clock=Clock()), 8)

    readings = asyncio.run(run())
    for stream, celsius in (("pump 1", 21.5), ("pump 2", -4.25)):
        ours = blocks(readings, stream)
        assert all(block.samples.dtype == np.float32 for block in ours)
        assert [row.tolist() for row in np.unique(joined(ours), axis=0)] == [[-29.0, celsius]]
        assert max(map(abs, gaps(ours, 50))) < 0.5  # even ticks: no gap for a windower
        assert ours[0].time_seconds == Clock().now()


def test_a_device_that_falls_silent_is_gone_and_the_other_goes_on() -> None:
    clock = Clock()

    async def run() -> list[Reading]:
        port = free_port()
        given = sensor(
            "modbus",
            host="127.0.0.1",
            tcp_port=port,
            devices={"pump 1": 1, "pump 9": 9},
            registers=REGISTERS,
            timeout_seconds=0.05,
            retries=0,
            retry_seconds=10,
        )
        # A server that leaves requests for unknown units unanswered, as a line does.
        async with modbus_server([pump(1, 20.0)], port, ignore_missing=True):
            return await first(given, around(CHANNELS, 1, clock=clock), 21)

    readings = asyncio.run(run())
    gone = [reading for reading in readings if isinstance(reading, Gone)]
    assert [each.stream for each in gone] == ["pump 9"]
    assert "unit 9" in gone[0].reason
    assert len(blocks(readings, "pump 1")) == 20
    assert blocks(readings, "pump 9") == []


def test_a_server_that_stops_is_down_and_one_that_never_was_too() -> None:
    async def run() -> None:
        port = free_port()
        given = sensor(
            "modbus",
            host="127.0.0.1",
            tcp_port=port,
            devices={"pump": 1},
            registers=REGISTERS,
            timeout_seconds=0.2,
            retries=0,
        )
        with pytest.raises(SensorDown, match=r"no Modbus at 127\.0\.0\.1.*cable"):
            await first(given, around(CHANNELS, 10))
        async with asyncio.timeout(90), aclosing(given.batches(around(CHANNELS, 50))) as batches:
            async with modbus_server([pump(1, 20.0)], port):
                await anext(batches)
            taken: list[Reading] = []
            with pytest.raises(SensorDown, match="nobody answers"):
                await _take_all(batches, taken)
            assert isinstance(taken[-1], Gone) and "unit 1" in taken[-1].reason

    asyncio.run(run())


async def _take_all(batches: AsyncGenerator[Sequence[Reading], None], taken: list[Reading]) -> None:
    async for batch in batches:
        taken += batch


def test_a_register_that_is_not_there_is_the_settings_fault() -> None:
    async def run() -> None:
        port = free_port()
        given = sensor(
            "modbus",
            host="127.0.0.1",
            tcp_port=port,
            devices={"pump": 1},
            registers={"x": {"address": 900}},
        )
        async with modbus_server([pump(1, 20.0)], port):
            await first(given, around(["x"], 10))

    with pytest.raises(UsageError, match=r"refuses holding 900 to 900: no such address.*from 1"):
        asyncio.run(run())


@contextmanager
def line() -> Iterator[tuple[str, str]]:
    """Two ends of a serial line: what goes in at one comes out at the other."""
    pairs = [os.openpty(), os.openpty()]
    for _, end in pairs:
        tty.setraw(end)
    ours, theirs = pairs[0][0], pairs[1][0]
    unplugged = threading.Event()

    def carry() -> None:
        while not unplugged.is_set():
            for ready in select.select([ours, theirs], [], [], 0.05)[0]:
                os.write(theirs if ready == ours else ours, os.read(ready, 4096))

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield os.ttyname(pairs[0][1]), os.ttyname(pairs[1][1])
    finally:
        unplugged.set()
        thread.join()
        for pair in pairs:
            for end in pair:
                os.close(end)


def test_devices_on_a_serial_line() -> None:
    async def run(ours: str, theirs: str) -> list[Reading]:
        server = ModbusSerialServer([pump(1, 21.5), pump(2, -4.25)], port=theirs, baudrate=19_200)
        await server.serve_forever(background=True)
        given = sensor(
            "modbus",
            port=ours,
            parity="N",
            devices={"a": 1, "b": 2},
            registers=REGISTERS,
            block_seconds=0,
        )
        try:
            return await first(given, around(CHANNELS, 5, clock=Clock()), 4)
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]

    with line() as (ours, theirs):
        readings = asyncio.run(run(ours, theirs))
    assert [block.samples[0].tolist() for block in blocks(readings, "a")] == [[-29.0, 21.5]] * 2
    assert [block.samples[0].tolist() for block in blocks(readings, "b")] == [[-29.0, -4.25]] * 2


def test_a_line_that_cannot_be_set_so_is_the_settings_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise termios.error(22, "Invalid argument")

    monkeypatch.setattr("serial.serial_for_url", refuse)
    given = sensor("modbus", port="/dev/ttyS9", devices={"a": 1}, registers=REGISTERS)
    with pytest.raises(UsageError, match="cannot be set to 19200 baud, parity E"):
        asyncio.run(first(given, around(CHANNELS, 5)))
    with pytest.raises(UsageError, match="at 115200 baud, parity N"):
        asyncio.run(first(sensor("serial", port="/dev/ttyS9"), around(CHANNELS, 5)))


@pytest.mark.parametrize(
    ("register", "raw", "value"),
    [
        (Register(address=0), [65_535], 65_535),
        (Register(address=0, type="int16"), [0xFFFE], -2),
        (Register(address=0, type="uint32"), [1, 2], 65_538),
        (Register(address=0, type="uint32", words="little"), [2, 1], 65_538),
        (Register(address=0, type="int32", bytes="little"), [0xFFFF, 0xFEFF], -2),
        (Register(address=0, type="float32"), [0x41AC, 0x0000], 21.5),
        (Register(address=0, type="float32", words="little"), [0x0000, 0x41AC], 21.5),
        (Register(address=0, type="float64"), [0x4035, 0x8000, 0, 0], 21.5),
        (Register(address=0, type="uint64", words="little"), [5, 0, 0, 0], 5),
        (Register(address=0, bit=3), [0b1000], 1),
        (Register(address=0, bit=2), [0b1000], 0),
        (Register(address=0, table="coil"), [True], 1),
        (Register(address=0, scale=0.1, offset=-40), [655], 25.5),
        (Register(address=0, type="int16", invalid=-32_768), [0x8000], math.nan),
    ],
)
def test_what_registers_say(register: Register, raw: list[int], value: float) -> None:
    assert register.count == len(raw)
    assert register.value(raw) == pytest.approx(value, nan_ok=True)


def test_requests_are_few_and_within_what_the_protocol_allows() -> None:
    near = [Register(address=a, type="float32") for a in (10, 12, 20)]
    assert plan(near, 0) == (
        [Span("holding", 10, 4), Span("holding", 20, 2)],
        [(0, 0), (0, 2), (1, 0)],
    )
    assert plan(near, 6)[0] == [Span("holding", 10, 12)]
    many = [Register(address=a) for a in range(300)]
    spans, places = plan(many[::-1], 0)
    assert [span.count for span in spans] == [125, 125, 50]
    assert places[0] == (2, 49) and places[-1] == (0, 0)
    mixed = [Register(address=5), Register(address=5, table="input"), Register(address=5, bit=1)]
    spans, places = plan(mixed, 0)
    assert spans == [Span("holding", 5, 1), Span("input", 5, 1)] and places[2] == (0, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either host"),
        ({"host": "a", "port": "/dev/ttyUSB0"}, "either host"),
        ({"port": "/dev/ttyUSB0", "framing": "socket"}, "framing"),
        ({"host": "a", "registers": {"x": {"address": 65_535, "type": "float32"}}}, "65535"),
        ({"host": "a", "registers": {"x": {"address": -1}}}, r"registers\[\.\.\.\]\.address"),
        ({"host": "a", "devices": {}}, "devices"),
    ],
)
def test_settings_that_cannot_work_say_so(settings: dict[str, object], said: str) -> None:
    usual: dict[str, object] = {"devices": {"pump": 1}, "registers": {"x": {"address": 0}}}
    with pytest.raises(UsageError, match=said):
        sensor("modbus", **(usual | settings))
