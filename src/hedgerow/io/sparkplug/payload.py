"""Sparkplug B payloads as plain structs (Sparkplug 3.0.0, section 6.4).

    payload = Payload(1_700_000_000_000, 0, (Metric("Speed", 12.5, DataType.DOUBLE),))
    decode(encode(payload)) == payload

Types are needed to read a value (an Int8 travels as an unsigned number of 32 bits), and data
messages may leave them out: `decode` takes what births said.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from hedgerow.core.errors import PeerError
from hedgerow.io.sparkplug.messages import DecodeError, PayloadMessage

PAYLOAD_BYTES_MAX: Final = 16 * 2**20
METRICS_MAX: Final = 20_000


class DataType(enum.IntEnum):
    """Types of metrics (section 6.4.16)."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATE_TIME = 13
    TEXT = 14
    UUID = 15
    DATA_SET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19
    INT8_ARRAY = 22
    INT16_ARRAY = 23
    INT32_ARRAY = 24
    INT64_ARRAY = 25
    UINT8_ARRAY = 26
    UINT16_ARRAY = 27
    UINT32_ARRAY = 28
    UINT64_ARRAY = 29
    FLOAT_ARRAY = 30
    DOUBLE_ARRAY = 31
    BOOLEAN_ARRAY = 32
    STRING_ARRAY = 33
    DATE_TIME_ARRAY = 34


Value: TypeAlias = int | float | bool | str | bytes | list[Any] | None
"""What a metric holds: a number, a text, bytes; a list for arrays; None where it is null."""

_SIGNED_BITS: Final = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
_FIELDS: Final[dict[DataType, str]] = {
    **dict.fromkeys((DataType.INT8, DataType.INT16, DataType.INT32), "int_value"),
    **dict.fromkeys((DataType.UINT8, DataType.UINT16, DataType.UINT32), "int_value"),
    **dict.fromkeys((DataType.INT64, DataType.UINT64, DataType.DATE_TIME), "long_value"),
    DataType.FLOAT: "float_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    **dict.fromkeys((DataType.STRING, DataType.TEXT, DataType.UUID), "string_value"),
    **dict.fromkeys((DataType.BYTES, DataType.FILE), "bytes_value"),
}
_ARRAYS: Final[dict[DataType, str]] = {
    DataType.INT8_ARRAY: "<i1",
    DataType.INT16_ARRAY: "<i2",
    DataType.INT32_ARRAY: "<i4",
    DataType.INT64_ARRAY: "<i8",
    DataType.UINT8_ARRAY: "<u1",
    DataType.UINT16_ARRAY: "<u2",
    DataType.UINT32_ARRAY: "<u4",
    DataType.UINT64_ARRAY: "<u8",
    DataType.FLOAT_ARRAY: "<f4",
    DataType.DOUBLE_ARRAY: "<f8",
    DataType.DATE_TIME_ARRAY: "<u8",
}


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One value. `timestamp_ms` is when it was acquired (Unix milliseconds), None: the payload's.

    In what `decode` gives, `name` is empty where the message has an alias alone and `aliases` does
    not know it.
    """

    name: str
    value: Value
    datatype: DataType = DataType.UNKNOWN
    timestamp_ms: int | None = None
    alias: int | None = None
    historical: bool = False


class Payload(msgspec.Struct, frozen=True, gc=False):
    """One message. `seq` is None in a death certificate of a node and in commands."""

    timestamp_ms: int | None
    seq: int | None
    metrics: tuple[Metric, ...] = ()


Known: TypeAlias = Callable[[str, int | None], tuple[str, DataType]]
"""Name and type of a metric that came with that name (may be empty) and alias, from its birth."""


def _nothing_known(name: str, _alias: int | None) -> tuple[str, DataType]:
    return name, DataType.UNKNOWN


def decode(data: bytes, known: Known = _nothing_known) -> Payload:
    """The payload in `data`; a metric without a type gets that of its birth.

    Raises:
        PeerError: `sparkplug`, when this is no payload, is over 16 MiB or has over 20,000 metrics.
    """
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PeerError("sparkplug", f"{len(data)} bytes; the most is {PAYLOAD_BYTES_MAX}")
    message = PayloadMessage()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise PeerError("sparkplug", f"this is no Sparkplug payload: {error}") from None
    if len(message.metrics) > METRICS_MAX:
        raise PeerError("sparkplug", f"{len(message.metrics)} metrics; the most is {METRICS_MAX}")
    if message.HasField("seq") and message.seq > 255:
        raise PeerError("sparkplug", f"seq is {message.seq}; wanted 0 to 255")
    return Payload(
        message.timestamp if message.HasField("timestamp") else None,
        message.seq if message.HasField("seq") else None,
        tuple(_metric(metric, known) for metric in message.metrics),
    )


def _metric(given: Any, known: Known) -> Metric:
    alias = given.alias if given.HasField("alias") else None
    name, datatype = known(given.name, alias)
    if given.HasField("datatype"):
        try:
            datatype = DataType(given.datatype)
        except ValueError:
            datatype = DataType.UNKNOWN
    return Metric(
        name,
        None if given.is_null else _value(given, datatype),
        datatype,
        given.timestamp if given.HasField("timestamp") else None,
        alias,
        given.is_historical,
    )


def _value(given: Any, datatype: DataType) -> Value:
    field = given.WhichOneof("value")
    if field is None or field == "dataset_value":
        return None
    value: Value = getattr(given, field)
    bits = _SIGNED_BITS.get(datatype)
    if bits is not None and isinstance(value, int):
        # Two's complement in the lowest bits; some encoders extend the sign, some do not.
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    if isinstance(value, bytes):
        return _array(value, datatype)
    return value


def _array(data: bytes, datatype: DataType) -> Value:
    """Elements of an array (section 6.4.16), or the bytes where the type is no array."""
    dtype = _ARRAYS.get(datatype)
    if dtype is not None:
        if len(data) % np.dtype(dtype).itemsize:
            raise PeerError("sparkplug", f"{len(data)} bytes are no {datatype.name}")
        return list(np.frombuffer(data, dtype).tolist())
    if datatype is DataType.STRING_ARRAY:
        return [text.decode(errors="replace") for text in data.split(b"\0")[:-1]]
    if datatype is DataType.BOOLEAN_ARRAY:
        # The count in 4 bytes, then the bits, the first in the highest place.
        count = int.from_bytes(data[:4], "little")
        bits = np.unpackbits(np.frombuffer(data[4:], np.uint8))
        if len(data) < 4 or count > len(bits):
            raise PeerError("sparkplug", f"{len(data)} bytes are no array of {count} booleans")
        return [bool(bit) for bit in bits[:count]]
    return data


def encode(payload: Payload, *, brief: bool = False) -> bytes:
    """The bytes of a payload. `brief`: metrics that have an alias go without name and type.

    That is for data messages; births say all.
    """
    message = PayloadMessage()
    if payload.timestamp_ms is not None:
        message.timestamp = payload.timestamp_ms
    if payload.seq is not None:
        message.seq = payload.seq
    for metric in payload.metrics:
        _put(message.metrics.add(), metric, brief=brief and metric.alias is not None)
    data: bytes = message.SerializeToString()
    return data


def _put(into: Any, metric: Metric, *, brief: bool) -> None:
    if metric.alias is not None:
        into.alias = metric.alias
    if not brief:
        into.name = metric.name
        into.datatype = metric.datatype
    if metric.timestamp_ms is not None:
        into.timestamp = metric.timestamp_ms
    if metric.historical:
        into.is_historical = True
    value = metric.value
    if value is None:
        into.is_null = True
        return
    bits = _SIGNED_BITS.get(metric.datatype)
    if bits is not None and isinstance(value, int):
        value &= (1 << bits) - 1  # some readers refuse more bits than the type has
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        into.bytes_value = _packed(value, metric.datatype)
    else:
        setattr(into, _FIELDS[metric.datatype], value)


def _packed(values: Sequence[Any], datatype: DataType) -> bytes:
    if datatype is DataType.STRING_ARRAY:
        return b"".join(text.encode() + b"\0" for text in values)
    if datatype is DataType.BOOLEAN_ARRAY:
        return len(values).to_bytes(4, "little") + np.packbits(np.array(values, bool)).tobytes()
    return np.array(values, _ARRAYS[datatype]).tobytes()
