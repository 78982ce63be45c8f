"""Lines from a serial port, CSV or JSON: what most microcontrollers print."""

from __future__ import annotations

import csv
import logging
import math
import termios
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.sensors.base import Block, Reading, Sensor, SensorDown
from hedgerow.io.sensors.grid import SampleClock, in_order
from hedgerow.io.sensors.mailbox import Mailbox, produced
from hedgerow.io.surroundings import Surroundings

if TYPE_CHECKING:
    import serial  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)
_LINE_BYTES_MAX: Final = 4096
_CHUNKS_WAITING: Final = 1024
_POLL_SECONDS: Final = 0.2
_GAP_PERIODS: Final = 1.5
_GATHER_SECONDS: Final = 0.005
"""At 3 Mbaud the kernel's 4 KiB do not fill meanwhile; byte by byte would cost a core."""
_BAD_LINES_SECONDS: Final = 10.0


class _Arrived(NamedTuple):
    seconds: float
    data: bytes


class Serial(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sample a line from `port`, a device or a URL of pySerial (`socket://host:port`).

    `columns`: where each channel stands, a column of CSV (from 0) or a key of the JSON object, with
    dots into objects inside; without it CSV has the model's channels in order, and JSON keys of
    their names. `time`: the column or key of the time, whole numbers or not, in `time_unit`; times
    since the sensor was switched on are put on our clock by when they arrive. Without it samples
    are taken to come at the model's rate.
    """

    port: str
    baud: Annotated[int, msgspec.Meta(ge=50)] = 115_200
    parity: Literal["N", "E", "O"] = "N"
    stop_bits: Literal[1, 2] = 1
    format: Literal["csv", "json"] = "csv"
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    columns: dict[str, int | str] = msgspec.field(default_factory=dict)
    time: int | str | None = None
    time_unit: Literal["s", "ms", "us"] = "s"
    scale: dict[str, float] = msgspec.field(default_factory=dict)
    stream: str = ""
    silence_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    block_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.25

    def __post_init__(self) -> None:
        wanted: type = int if self.format == "csv" else str
        given = [*self.columns.values(), *([] if self.time is None else [self.time])]
        if not all(isinstance(value, wanted) for value in given):
            raise UsageError(
                f"columns and time name {given}; of {self.format} wanted "
                + ("numbers of columns, from 0" if wanted is int else "keys")
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """The samples of the lines that came in about `block_seconds`; see `Sensor.batches`."""
        parse = Lines(self, around)
        times = LineTimes(around)
        stream = self.stream or around.device
        with needs("serial"):
            import serial

        port = self._open()

        silence = max(self.silence_seconds, 3 / around.rate_hz)

        def read(mailbox: Mailbox[_Arrived]) -> None:
            silent = 0.0
            while silent < silence and not mailbox.closed:
                try:
                    data = port.read(1)
                    if data:
                        time.sleep(_GATHER_SECONDS)
                        data += port.read(min(port.in_waiting, 65_536))
                except (serial.SerialException, OSError, TypeError) as error:
                    raise SensorDown(f"{self.port} is gone: {error}") from error
                silent = 0.0 if data else silent + _POLL_SECONDS
                if data:
                    mailbox.put(_Arrived(around.now(), data))
            if mailbox.closed:
                return
            raise SensorDown(
                f"{self.port} said nothing for {silence:g} s; look at its cable, and "
                f"whether it speaks at {self.baud} baud"
            )

        try:
            async with produced(read, size=_CHUNKS_WAITING, lossy=True, name=self.port) as mailbox:
                lost = 0
                while arrived := await mailbox.take():
                    if mailbox.lost > lost:
                        lost = mailbox.lost
                        parse.begin()
                        times.begin()
                    seconds, rows = parse.push(b"".join(chunk.data for chunk in arrived))
                    if len(rows):
                        yield [
                            Block(stream, when, part)
                            for when, part in times.blocks(seconds, rows, arrived[-1].seconds)
                        ]
                    await around.sleep(self.block_seconds)
        finally:
            port.close()

    def _open(self) -> serial.SerialBase:
        import serial

        try:
            return serial.serial_for_url(
                self.port,
                baudrate=self.baud,
                parity=self.parity,
                stopbits=self.stop_bits,
                timeout=_POLL_SECONDS,
            )
        except (serial.SerialException, OSError) as error:
            raise SensorDown(
                f"cannot open {self.port}: {error}; plug it in, or add this user to the group that "
                "owns it (dialout on many systems)"
            ) from error
        except (ValueError, termios.error) as error:  # the latter pySerial lets through
            raise UsageError(
                f"cannot open {self.port} at {self.baud} baud, parity {self.parity}, "
                f"{self.stop_bits} stop bits: {error}"
            ) from error


class Lines:
    """Bytes to samples, line by line; what is no sample is counted and said now and then."""

    def __init__(self, sensor: Serial, around: Surroundings) -> None:
        channels = around.channels
        if sensor.format == "csv":
            default: dict[str, int | str] = {name: at for at, name in enumerate(channels)}
        else:
            default = {name: name for name in channels}
        self._columns = in_order(sensor.columns or default, around, "columns")
        self._time = sensor.time
        self._unit = {"s": 1.0, "ms": 1e-3, "us": 1e-6}[sensor.time_unit]
        self._scale = np.array([sensor.scale.get(name, 1.0) for name in channels])
        unknown = sorted(set(sensor.scale) - set(channels))
        if unknown:
            raise UsageError(f"scale names {', '.join(unknown)}; wanted {', '.join(channels)}")
        self._json = sensor.format == "json"
        self._delimiter = sensor.delimiter
        self._around = around
        self._port = sensor.port
        self._rest = b""
        self._whole = False
        self._bad, self._warned = 0, around.monotonic()

    def begin(self) -> None:
        """Bytes were lost: the next line may be half of one."""
        self._rest, self._whole = b"", False

    def push(self, data: bytes) -> tuple[list[float], NDArray[np.float32]]:
        """Times (seconds of the sensor's, empty without) and samples `[n, channels]`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES_MAX:
            self._rest, self._whole = b"", False
            self._bad += 1
        if not self._whole and lines:  # we may have begun to listen in the middle of it
            self._whole = True
            del lines[0]
        seconds: list[float] = []
        rows: list[list[float]] = []
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if not text or text.startswith("#"):
                continue
            try:
                when, row = self._parse(text)
            except (ValueError, TypeError, LookupError, msgspec.DecodeError, csv.Error):
                self._bad += 1
                last_bad = text
                if self._around.monotonic() - self._warned >= _BAD_LINES_SECONDS:
                    _log.warning("%s: %d bad lines, such as %r", self._port, self._bad, last_bad)
                    self._bad, self._warned = 0, self._around.monotonic()
                continue
            rows.append(row)
            if when is not None:
                seconds.append(when)
        samples = np.array(rows, np.float64).reshape(len(rows), len(self._columns)) * self._scale
        return seconds, samples.astype(np.float32)

    def _parse(self, text: str) -> tuple[float | None, list[float]]:
        if self._json:
            fields: Any = msgspec.json.decode(text)
            row = [_number(_inside(fields, str(column))) for column in self._columns]
            when = None if self._time is None else _number(_inside(fields, str(self._time)))
        else:
            fields = next(csv.reader([text], delimiter=self._delimiter))
            row = [float(fields[int(column)]) for column in self._columns]
            when = None if self._time is None else float(fields[int(self._time)])
        if when is not None and not math.isfinite(when):
            raise ValueError("no time")
        return None if when is None else when * self._unit, row


def _inside(fields: Any, path: str) -> Any:
    for key in path.split("."):
        fields = fields[key]
    return fields


def _number(value: Any) -> float:
    """A number; JSON's null is a reading that the sensor could not take."""
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    raise TypeError("no number")


class LineTimes:
    """Puts samples on our clock: by the sensor's times, or by count where it tells none."""

    _UNIX_SECONDS_LEAST: Final = 1e9
    """Since 2001; less is a time since the sensor was switched on."""

    def __init__(self, around: Surroundings) -> None:
        self._period = 1.0 / around.rate_hz
        self._clock = SampleClock(around.rate_hz)
        self._offset = math.nan

    def begin(self) -> None:
        """Samples were lost."""
        self._clock.lost()

    def blocks(
        self, seconds: list[float], rows: NDArray[np.float32], arrived_seconds: float
    ) -> list[tuple[float, NDArray[np.float32]]]:
        """Stretches without gaps, with the time of their first sample."""
        if not seconds:
            return [(self._clock.stamp(len(rows), arrived_seconds), rows)]
        if seconds[-1] < self._UNIX_SECONDS_LEAST:
            seconds = self._on_our_clock(seconds, arrived_seconds)
        edges = [
            at + 1
            for at, (left, right) in enumerate(pairwise(seconds))
            if not 0 < right - left <= _GAP_PERIODS * self._period
        ]
        return [
            (seconds[first], rows[first:last]) for first, last in pairwise([0, *edges, len(rows)])
        ]

    def _on_our_clock(self, seconds: list[float], arrived_seconds: float) -> list[float]:
        """The quickest delivery so far tells the offset; a restart of the sensor begins anew."""
        offset = arrived_seconds - seconds[-1]
        if not abs(offset - self._offset) < 5.0:
            self._offset = offset
        self._offset = min(self._offset + 1e-4 * self._period, offset)
        return [when + self._offset for when in seconds]
