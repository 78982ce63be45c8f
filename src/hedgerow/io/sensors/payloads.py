"""From the payload of one message to samples: JSON by paths, SenML, raw little-endian blocks."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io import senml
from hedgerow.io.json_path import Path
from hedgerow.io.sensors.base import Block
from hedgerow.io.sensors.timeline import blocks_of

PAYLOAD_BYTES_MAX: Final = 4 * 2**20
"""Of JSON and SenML, which grow a lot when they are read."""
_NUMBERS: Final = frozenset({int, float, type(None)})
UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DTYPES: Final = {
    "float32": "<f4",
    "float64": "<f8",
    "int8": "<i1",
    "uint8": "<u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
}
STAMPS: Final = {
    "uint64_ns": ("<u8", 1e-9),
    "uint64_us": ("<u8", 1e-6),
    "uint64_ms": ("<u8", 1e-3),
    "uint32_s": ("<u4", 1.0),
    "float64_s": ("<f8", 1.0),
}


class Decoded(NamedTuple):
    """Samples f32 `[n, channels]` of one payload.

    `time_seconds` is the stamp the payload bears (`stamped`), or when it arrived. `steady`: taken
    at the model's rate, so that only the beginning is to be told; otherwise each has its own time,
    and these are consecutive.
    """

    stream: str
    time_seconds: float
    samples: NDArray[np.float32]
    stamped: bool
    steady: bool = True

    def block(self, stream: str, time_seconds: float) -> Block:
        """As a reading of `stream` that begins at `time_seconds`."""
        return Block(stream, time_seconds, self.samples)


class Decoder(Protocol):
    """Makes samples of a payload. Raises PeerError when it holds none that can be used."""

    def decode(self, stream: str, payload: bytes, arrived: float) -> Sequence[Decoded]:
        """`stream` as the topic names it; `arrived` in Unix seconds."""


class RawLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How raw blocks are laid out: a header, then numbers, little-endian.

    `order` is `samples` (x y z x y z …) or `channels` (all x, all y, all z). A sample is the number
    times `scale`. The stamp of the first sample, if there is one, begins at byte `time_at`.
    """

    dtype: Literal["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"] = (
        "float32"
    )
    order: Literal["samples", "channels"] = "samples"
    scale: float = 1.0
    header_bytes: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    time: Literal["none", "uint64_ns", "uint64_us", "uint64_ms", "uint32_s", "float64_s"] = "none"
    time_at: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise UsageError(f"raw.scale is {self.scale}; wanted a finite number other than 0")
        if self.time != "none":
            size = np.dtype(STAMPS[self.time][0]).itemsize
            if self.time_at + size > self.header_bytes:
                raise UsageError(
                    f"raw.time ends at byte {self.time_at + size} and raw.header_bytes is "
                    f"{self.header_bytes}; the time is part of the header"
                )


class RawDecoder:
    """Blocks of numbers, for sensors of many samples: it costs a copy of nothing for float32."""

    def __init__(self, layout: RawLayout, channels: int) -> None:
        self._layout = layout
        self._channels = channels
        self._dtype = np.dtype(DTYPES[layout.dtype])
        self._row_bytes = channels * self._dtype.itemsize

    def decode(self, stream: str, payload: bytes, arrived: float) -> Sequence[Decoded]:
        """As `Decoder.decode`."""
        layout = self._layout
        size = len(payload) - layout.header_bytes
        if size <= 0 or size % self._row_bytes:
            raise PeerError(
                "raw",
                f"{len(payload)} bytes; wanted {layout.header_bytes} and then a multiple of "
                f"{self._row_bytes}, {self._channels} channels of {layout.dtype}",
            )
        numbers = np.frombuffer(payload, self._dtype, offset=layout.header_bytes)
        if layout.order == "samples":
            table = numbers.reshape(-1, self._channels)
        else:
            table = numbers.reshape(self._channels, -1).T
        samples = table.astype(np.float32, copy=False)
        if layout.scale != 1.0:
            samples = samples * np.float32(layout.scale)
        if layout.time == "none":
            return [Decoded(stream, arrived, samples, stamped=False)]
        kind, unit = STAMPS[layout.time]
        stamp = float(np.frombuffer(payload, kind, count=1, offset=layout.time_at)[0]) * unit
        if not math.isfinite(stamp):
            raise PeerError("time", f"the header's time is {stamp}")
        return [Decoded(stream, stamp, samples, stamped=True)]


class JsonDecoder:
    """JSON: each channel a number or an array, by its path; a time for all or for each."""

    def __init__(self, paths: Sequence[str], time: str, unit: str, rate_hz: float) -> None:
        """Raises UsageError when something is no path."""
        self._paths = [Path(text) for text in paths]
        self._time = Path(time) if time else None
        self._unit = UNITS[unit]
        self._rate_hz = rate_hz

    def decode(self, stream: str, payload: bytes, arrived: float) -> Sequence[Decoded]:
        """As `Decoder.decode`."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise PeerError("json", f"{len(payload)} bytes; the most is {PAYLOAD_BYTES_MAX}")
        try:
            document = msgspec.json.decode(payload)
            columns = [path.find(document) for path in self._paths]
            stamp = None if self._time is None else self._time.find(document)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PeerError("json", str(error)) from None
        except LookupError as error:
            raise PeerError("path", str(error.args[0])) from None
        samples = _table(columns)
        if stamp is None:
            return [Decoded(stream, arrived, samples, stamped=False)]
        if not isinstance(stamp, list):
            return [Decoded(stream, self._seconds(stamp), samples, stamped=True)]
        if len(stamp) != len(samples):
            raise PeerError("time", f"{len(stamp)} times for {len(samples)} samples")
        return self._each(stream, stamp, samples)

    def _each(
        self, stream: str, stamps: list[Any], samples: NDArray[np.float32]
    ) -> Sequence[Decoded]:
        """Samples that bear a time each: consecutive where the times say so."""
        times = np.array([self._seconds(stamp) for stamp in stamps])
        order = np.argsort(times, kind="stable")
        return [
            Decoded(stream, block.time_seconds, block.samples, stamped=True, steady=False)
            for block in blocks_of(stream, times[order], samples[order], self._rate_hz)
        ]

    def _seconds(self, given: Any) -> float:
        """A time as Unix seconds: a number in the unit set, or text of ISO 8601."""
        if isinstance(given, str):
            try:
                parsed = dt.datetime.fromisoformat(given)
            except ValueError:
                raise PeerError("time", f"{given[:64]!r} is no time of ISO 8601") from None
            if parsed.tzinfo is None:
                parsed = parsed.replace(tzinfo=dt.UTC)
            return parsed.timestamp()
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise PeerError("time", f"{senml.shown(given)} is no time")
        try:
            seconds = float(given) * self._unit
        except OverflowError:
            seconds = math.inf
        if not math.isfinite(seconds):
            raise PeerError("time", f"{senml.shown(given)} is no finite time")
        return seconds


def _table(columns: Sequence[Any]) -> NDArray[np.float32]:
    """Samples `[n, channels]` of columns that are each a number or an array of n numbers."""
    made = []
    for column in columns:
        # Of one long text among many short ones NumPy makes as many long ones.
        if isinstance(column, list) and not _NUMBERS.issuperset(map(type, column)):
            raise PeerError("values", "a channel holds something else than numbers")
        try:
            # Booleans and texts that look like numbers are neither: NumPy would take them.
            array = np.asarray(column)
        except (ValueError, OverflowError):
            raise PeerError("values", "a channel holds arrays of several lengths") from None
        if array.dtype.kind not in "fiu":
            array = _with_gaps(column)
        if array.ndim > 1 or array.size == 0:
            raise PeerError("values", f"a channel has shape {array.shape}; wanted numbers in a row")
        made.append(np.atleast_1d(array))
    lengths = {len(array) for array in made}
    if len(lengths) != 1:
        raise PeerError("values", f"channels hold {sorted(lengths)} samples; wanted as many each")
    with np.errstate(over="ignore"):
        return np.column_stack(made).astype(np.float32)


def _with_gaps(column: Any) -> NDArray[np.float64]:
    """Numbers among which `null` says that the sensor had none; it becomes NaN."""
    values = column if isinstance(column, list) else [column]
    if any(
        isinstance(value, bool) or not isinstance(value, int | float | None) for value in values
    ):
        raise PeerError("values", "a channel holds something else than numbers")
    try:
        return np.array([math.nan if value is None else value for value in values], np.float64)
    except OverflowError:
        raise PeerError("values", "a channel holds a number beyond all bounds") from None


class SenmlDecoder:
    """SenML packs: records whose names end with those of the channels.

    What comes before, less its last `:`, `/`, `.`, `_` or `-`, names the stream where the topic
    does not. A sample is what all channels have at one time; a time that misses one is left out.
    """

    def __init__(self, names: Sequence[str], rate_hz: float) -> None:
        self._names = tuple(names)
        self._rate_hz = rate_hz

    def decode(self, stream: str, payload: bytes, arrived: float) -> Sequence[Decoded]:
        """As `Decoder.decode`."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise PeerError("senml", f"{len(payload)} bytes; the most is {PAYLOAD_BYTES_MAX}")
        rows: dict[str, dict[float, list[float]]] = {}
        places: dict[str, tuple[str, int] | None] = {}
        for record in senml.decode(payload, arrived):
            name, value = record.name, record.value
            if name not in places:
                places[name] = self._place(name)
            place = places[name]
            if place is None or isinstance(value, str | bytes) or value is None:
                continue
            owner, channel = place
            table = rows.setdefault(owner, {})
            row = table.get(record.time_seconds)
            if row is None:
                row = table[record.time_seconds] = [math.nan] * len(self._names)
            row[channel] = float(value)
        made = [
            one for owner, table in rows.items() for one in self._blocks(owner or stream, table)
        ]
        if not made:
            raise PeerError("senml", f"no record ends with {', '.join(self._names)}")
        return made

    def _place(self, name: str) -> tuple[str, int] | None:
        """Whose and which channel a record's name is; the longest channel's name wins."""
        best: tuple[str, int] | None = None
        length = 0
        for channel, ending in enumerate(self._names):
            if len(ending) <= length or not name.endswith(ending):
                continue
            before = name[: len(name) - len(ending)]
            if not before or before[-1] in ":/._-":
                best, length = (before[:-1], channel), len(ending)
        return best

    def _blocks(self, stream: str, table: dict[float, list[float]]) -> list[Decoded]:
        times = np.array(sorted(table))
        values = np.array([table[time] for time in times.tolist()], np.float64)
        whole = ~np.isnan(values).any(axis=1)
        samples = values[whole].astype(np.float32)
        return [
            Decoded(stream, block.time_seconds, block.samples, stamped=True, steady=False)
            for block in blocks_of(stream, times[whole], samples, self._rate_hz)
        ]
