"""Registers of devices that speak Modbus, over TCP or a serial line, asked at the model's rate.

Source: *MODBUS Application Protocol Specification* V1.1b3 (2012), 4.4 and 6.1 to 6.4.
"""

from __future__ import annotations

import logging
import termios
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.sensors.base import Gone, Reading, Sensor, SensorDown
from hedgerow.io.sensors.grid import Gather, in_order, ticks
from hedgerow.io.surroundings import Surroundings

if TYPE_CHECKING:
    from pymodbus.client.base import ModbusBaseClient
    from pymodbus.pdu import ModbusPDU

_log = logging.getLogger(__name__)

Table: TypeAlias = Literal["holding", "input", "coil", "discrete"]
_AT_ONCE: Final[Mapping[Table, int]] = {
    "holding": 125,
    "input": 125,
    "coil": 2000,
    "discrete": 2000,
}
"""Most registers or bits that one request may ask for (6.1 to 6.4)."""
_TYPES: Final = {
    "int16": ">i2",
    "uint16": ">u2",
    "int32": ">i4",
    "uint32": ">u4",
    "int64": ">i8",
    "uint64": ">u8",
    "float32": ">f4",
    "float64": ">f8",
}
_SETTINGS_AT_FAULT: Final = {1: "function", 2: "address", 3: "count"}
"""Exception codes by which a device says that it has no such thing (7)."""
_ABSENT_AFTER: Final = 3


class Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one channel stands, and what the number there means: `raw × scale + offset`.

    `address` counts from 0, as on the wire (register 40001 of a manual is holding 0). `words` and
    `bytes` say which comes first in a number of several registers. `bit`: one bit of a register, 0
    the least. `invalid` is the raw number by which the device says that it has no value.
    """

    address: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    table: Table = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"] = (
        "uint16"
    )
    words: Literal["big", "little"] = "big"
    bytes: Literal["big", "little"] = "big"
    bit: Annotated[int, msgspec.Meta(ge=0, le=15)] | None = None
    scale: float = 1.0
    offset: float = 0.0
    invalid: float | None = None

    @property
    def count(self) -> int:
        """How many registers, or bits, it takes."""
        if self.table in {"coil", "discrete"} or self.bit is not None:
            return 1
        return np.dtype(_TYPES[self.type]).itemsize // 2

    def value(self, raw: Sequence[int | bool]) -> float:
        """What `count` registers or bits as they came say, in the channel's unit."""
        if self.table in {"coil", "discrete"}:
            number = float(raw[0])
        else:
            words = np.array(raw, ">u2" if self.bytes == "big" else "<u2")
            if self.bit is not None:
                number = float(int.from_bytes(words.tobytes(), "big") >> self.bit & 1)
            else:
                ordered = words if self.words == "big" else words[::-1]
                number = float(np.frombuffer(ordered.tobytes(), _TYPES[self.type])[0])
        if self.invalid is not None and number == self.invalid:
            return float("nan")
        return number * self.scale + self.offset


@dataclass
class Span:
    """One request: `count` from `address` of `table`."""

    table: Table
    address: int
    count: int


def plan(registers: Sequence[Register], skip: int) -> tuple[list[Span], list[tuple[int, int]]]:
    """As few requests as read all `registers`, over gaps of up to `skip` that nobody wants.

    Returns:
        the requests, and for each register the request and the place in its answer.
    """
    spans: list[Span] = []
    places = [(0, 0)] * len(registers)
    order = sorted(
        range(len(registers)), key=lambda at: (registers[at].table, registers[at].address)
    )
    for at in order:
        register = registers[at]
        end = register.address + register.count
        last = spans[-1] if spans else None
        if (
            last is None
            or last.table != register.table
            or register.address > last.address + last.count + skip
            or end - last.address > _AT_ONCE[register.table]
        ):
            last = Span(register.table, register.address, 0)
            spans.append(last)
        last.count = max(last.count, end - last.address)
        places[at] = (len(spans) - 1, register.address - last.address)
    return spans, places


class Modbus(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each of `devices` (stream → unit id) on one connection, with the same `registers`.

    Over TCP to `host`, or on the serial line `port`.
    """

    devices: Annotated[
        dict[str, Annotated[int, msgspec.Meta(ge=0, le=255)]], msgspec.Meta(min_length=1)
    ]
    registers: dict[str, Register]
    host: str = ""
    tcp_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 502
    framing: Literal["", "socket", "rtu", "ascii"] = ""
    port: str = ""
    baud: Annotated[int, msgspec.Meta(ge=50)] = 19_200
    parity: Literal["N", "E", "O"] = "E"
    data_bits: Literal[7, 8] = 8
    stop_bits: Literal[1, 2] = 1
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    retry_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    skip: Annotated[int, msgspec.Meta(ge=0, le=124)] = 0
    block_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0

    def __post_init__(self) -> None:
        if (self.host == "") == (self.port == ""):
            raise UsageError(
                "wanted either host, for Modbus TCP, or port, for a serial line such as "
                "/dev/ttyUSB0"
            )
        if self.port and self.framing == "socket":
            raise UsageError("framing is 'socket' on a serial line; wanted 'rtu' or 'ascii'")
        if any(register.address + register.count > 65_536 for register in self.registers.values()):
            raise UsageError("a register goes beyond address 65535; look its type up")

    @property
    def _where(self) -> str:
        return f"{self.host}:{self.tcp_port}" if self.host else self.port

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """A row of every device at each tick, gathered to blocks; see `Sensor.batches`."""
        registers = in_order(self.registers, around, "registers")
        spans, places = plan(registers, self.skip)
        client = self._client()
        gather = Gather(around.rate_hz, self.block_seconds)
        units = [_Unit(stream, unit) for stream, unit in self.devices.items()]
        try:
            await self._open(client)
            async for seconds in ticks(around, 1 / around.rate_hz):
                rows: dict[str, NDArray[np.float32]] = {}
                out: list[Reading] = []
                for unit in units:
                    if around.monotonic() < unit.rests_until:
                        continue
                    answers = await self._ask(client, unit, spans)
                    if answers is not None:
                        rows[unit.stream] = np.array(
                            [
                                register.value(answers[span][at : at + register.count])
                                for register, (span, at) in zip(registers, places, strict=True)
                            ],
                            np.float32,
                        )
                    elif unit.failed >= _ABSENT_AFTER:
                        unit.rests_until = around.monotonic() + self.retry_seconds
                        if unit.failed == _ABSENT_AFTER:
                            out.append(Gone(unit.stream, around.now(), unit.reason))
                out[:0] = gather.add(seconds, rows)
                if out:
                    yield out
                if all(unit.failed >= _ABSENT_AFTER for unit in units):
                    raise SensorDown(f"nobody answers on {self._where}: {units[0].reason}")
        finally:
            client.close()

    async def _open(self, client: ModbusBaseClient) -> None:
        try:
            connected = await client.connect()
        except termios.error as error:  # which pySerial lets through
            raise UsageError(
                f"{self.port} cannot be set to {self.baud} baud, parity {self.parity}, "
                f"{self.data_bits} + {self.stop_bits} bits: {error}"
            ) from error
        if not connected:
            raise SensorDown(
                f"no Modbus at {self._where}: it does not answer within "
                f"{self.timeout_seconds} s; look at the address, the cable and the power"
            )

    async def _ask(
        self, client: ModbusBaseClient, unit: _Unit, spans: Sequence[Span]
    ) -> list[Sequence[int | bool]] | None:
        """The answers of one device to all requests; None, and counted, when one fails.

        Raises:
            UsageError: a device that never answered before says that it has no such registers.
        """
        from pymodbus.exceptions import ModbusException

        answers: list[Sequence[int | bool]] = []
        for span in spans:
            try:
                answer = await _request(client, span, unit.unit)
            except (ModbusException, OSError) as error:
                unit.fail(f"unit {unit.unit} at {self._where} does not answer ({error})")
                return None
            if answer.isError():
                self._refused(unit, span, answer)
                return None
            answers.append(answer.bits if span.table in {"coil", "discrete"} else answer.registers)
            if len(answers[-1]) < span.count:
                unit.fail(f"unit {unit.unit} at {self._where} sent too few registers")
                return None
        unit.failed, unit.heard = 0, True
        return answers

    def _refused(self, unit: _Unit, span: Span, answer: ModbusPDU) -> None:
        code = int(getattr(answer, "exception_code", 0))
        what = f"{span.table} {span.address} to {span.address + span.count - 1}"
        if not unit.heard and code in _SETTINGS_AT_FAULT:
            raise UsageError(
                f"unit {unit.unit} ({unit.stream}) at {self._where} refuses {what}: no such "
                f"{_SETTINGS_AT_FAULT[code]} (exception {code}); look the registers up in its "
                "manual, whose numbers may count from 1, and lower skip if it jumps over any"
            )
        unit.fail(f"unit {unit.unit} at {self._where} refuses {what} (exception {code})")

    def _client(self) -> ModbusBaseClient:
        # A wait of our own follows a failure, so the library's is off.
        with needs("modbus"):
            from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
            from pymodbus.framer import FramerType
        if self.host:
            return AsyncModbusTcpClient(
                self.host,
                port=self.tcp_port,
                framer=FramerType(self.framing or "socket"),
                timeout=self.timeout_seconds,
                retries=self.retries,
                reconnect_delay=0,
            )
        with needs("serial"):
            import serial  # type: ignore[import-untyped]  # noqa: F401 the library looks for it
        return AsyncModbusSerialClient(
            self.port,
            framer=FramerType(self.framing or "rtu"),
            baudrate=self.baud,
            parity=self.parity,
            bytesize=self.data_bits,
            stopbits=self.stop_bits,
            timeout=self.timeout_seconds,
            retries=self.retries,
            reconnect_delay=0,
        )


class _Unit:
    """What is known of one device: how often it failed in a row, and until when it is let be."""

    def __init__(self, stream: str, unit: int) -> None:
        self.stream = stream
        self.unit = unit
        self.failed = 0
        self.heard = False
        self.rests_until = 0.0
        self.reason = ""

    def fail(self, reason: str) -> None:
        if not self.failed:
            _log.warning("%s: %s", self.stream, reason)
        self.failed += 1
        self.reason = reason


async def _request(client: ModbusBaseClient, span: Span, unit: int) -> ModbusPDU:
    if span.table == "holding":
        return await client.read_holding_registers(span.address, count=span.count, device_id=unit)
    if span.table == "input":
        return await client.read_input_registers(span.address, count=span.count, device_id=unit)
    if span.table == "coil":
        return await client.read_coils(span.address, count=span.count, device_id=unit)
    return await client.read_discrete_inputs(span.address, count=span.count, device_id=unit)
