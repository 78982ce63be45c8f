"""Sensor Measurement Lists (RFC 8428), as JSON and as CBOR.

    pack = [Record("urn:dev:mac:0024befffe804ff1:temp", 21.5, unit="Cel", time_seconds=1.7e9)]
    decode(encode_json(pack), now=1.7e9) == pack

Records come out resolved (section 4.6): with their full name, value and absolute time.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io.extras import needs

VERSION: Final = 10
"""The version that RFC 8428 defines; a pack of a higher one may mean something else."""

RELATIVE_BELOW_SECONDS: Final = 2**28
"""A time below is relative to now (section 4.5.3)."""

RECORDS_MAX: Final = 200_000
DEPTH_MAX: Final = 4
"""A pack, its records, and in them a tag (decimal fraction, big number) with two numbers."""
REFUSED_TAGS: Final = (*range(2), *range(6, 128), *range(256, 280), 1004, 43000, 55799)
"""What the library knows besides big numbers (2, 3), decimal fractions (4) and bigfloats (5); among
them references (25, 28, 29), by which a hundred bytes stand for a billion values.
"""
NAME_CHARACTERS_MAX: Final = 1024

LABELS: Final[dict[int, str]] = {
    -1: "bver",
    -2: "bn",
    -3: "bt",
    -4: "bu",
    -5: "bv",
    -6: "bs",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
"""CBOR's integers for the fields (table 4)."""

_NUMBERS: Final = {text: number for number, text in LABELS.items()}
_BASE64URL: Final = str.maketrans("-_", "+/")
_VALUES: Final = ("v", "vs", "vb", "vd")

Value: TypeAlias = float | str | bool | bytes | None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One measurement. `value` is None where only `sum` is given; times are Unix seconds."""

    name: str
    value: Value
    time_seconds: float = 0.0
    unit: str = ""
    sum: float | None = None


def decode(payload: bytes, now: float) -> list[Record]:
    """The records of a pack in JSON or CBOR, told apart by its first byte.

    `now` is Unix seconds, for times that are relative to it.

    Raises:
        PeerError: `senml`, when this is no pack or a field must be understood and is not.
        UsageError: CBOR came and the extra is not installed.
    """
    # A pack is an array: `[`, perhaps after blanks, in JSON; 0x80 to 0x9f in CBOR.
    if payload[:1] and 0x80 <= payload[0] <= 0x9F:
        return resolve(_from_cbor(payload), now)
    try:
        entries = msgspec.json.decode(payload, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("senml", f"this is no SenML pack: {error}") from None
    return resolve(entries, now)


def _from_cbor(payload: bytes) -> list[Any]:
    with needs("mqtt"):
        import cbor2
    try:
        entries = cbor2.loads(
            payload,
            max_depth=DEPTH_MAX,
            semantic_decoders=dict.fromkeys(REFUSED_TAGS, _refused),
            tag_hook=_refused,
        )
    except Exception as error:  # noqa: BLE001 - cbor2 raises what the bytes make it raise
        raise PeerError("senml", f"this is no SenML pack: {error}") from None
    if not isinstance(entries, list):
        raise PeerError("senml", "the CBOR is no array of records")
    return [
        {LABELS.get(key, key): value for key, value in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in entries
    ]


def _refused(*_given: Any) -> Any:
    raise ValueError("a tag that no pack has")


def resolve(entries: Sequence[Any], now: float) -> list[Record]:
    """Records with their base fields applied; raises like `decode`."""
    if len(entries) > RECORDS_MAX:
        raise PeerError("senml", f"a pack has {len(entries)} records, over {RECORDS_MAX}")
    base: dict[str, Any] = {}
    records = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise PeerError("senml", f"a record is {type(entry).__name__}; wanted a map")
        _check(entry)
        for key in ("bn", "bt", "bu", "bv", "bs"):
            if key in entry:
                base[key] = entry[key]
        record = _resolved(entry, base, now)
        if record is not None:
            records.append(record)
    return records


def _check(entry: Mapping[Any, Any]) -> None:
    for key in entry:
        if isinstance(key, str) and key.endswith("_"):
            raise PeerError("senml", f"the field {key!r} must be understood, and is not known")
    version = entry.get("bver", VERSION)
    if not isinstance(version, int) or not 0 < version <= VERSION:
        raise PeerError("senml", f"version {version!r}; wanted {VERSION} or lower")


def _resolved(entry: Mapping[str, Any], base: Mapping[str, Any], now: float) -> Record | None:
    """The record of one entry, or None where it only sets base fields."""
    given = [key for key in _VALUES if key in entry]
    total = entry.get("s")
    if not given and total is None and "n" not in entry:
        # A base value or sum alone may stand for a measurement only when something names it.
        return None
    if len(given) > 1:
        raise PeerError("senml", f"a record has {' and '.join(given)}; wanted one value")
    name = _text(base.get("bn", "")) + _text(entry.get("n", ""))
    if not name or len(name) > NAME_CHARACTERS_MAX or not name[0].isalnum():
        raise PeerError("senml", f"the name {name[:64]!r} is none; wanted letters and digits first")
    value = _value(entry, given[0] if given else "", base.get("bv"))
    summed = None
    if total is not None or base.get("bs") is not None:
        summed = _number(0 if total is None else total) + _number(base.get("bs") or 0)
    if value is None and summed is None:
        raise PeerError("senml", f"the record {name!r} has neither a value nor a sum")
    seconds = _number(base.get("bt", 0)) + _number(entry.get("t", 0))
    if seconds < RELATIVE_BELOW_SECONDS:
        seconds += now
    return Record(name, value, seconds, _text(entry.get("u", base.get("bu", ""))), summed)


def _value(entry: Mapping[str, Any], kind: str, base: Any) -> Value:
    given = entry.get(kind)
    if kind == "vs":
        return _text(given)
    if kind == "vb":
        if not isinstance(given, bool):
            raise PeerError("senml", f"vb is {shown(given)}; wanted true or false")
        return given
    if kind == "vd":
        return _data(given)
    if kind == "v":
        return _number(given) + (0.0 if base is None else _number(base))
    return None if base is None else _number(base)


def _data(given: Any) -> bytes:
    if isinstance(given, bytes):
        return given
    text = _text(given).translate(_BASE64URL)  # what JSON has, without padding (section 4.3)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("senml", "vd is not base64url") from None


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        try:  # CBOR may bring decimal fractions and big numbers
            if isinstance(given, bool | str | bytes):
                raise TypeError
            given = float(given)
        except (TypeError, ValueError, OverflowError):
            raise PeerError("senml", f"{shown(given)} is no number") from None
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PeerError("senml", f"{shown(given)} is not a finite number")
    return number


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise PeerError("senml", f"{shown(given)} is no text")
    return given


def shown(given: object) -> str:
    """What came, for a message: short, whatever it is."""
    if not isinstance(given, str | bytes | int | float | bool | None):
        return f"a {type(given).__name__}"
    try:
        return repr(given[:64] if isinstance(given, str | bytes) else given)[:64]
    except ValueError:  # an integer of more digits than Python writes out
        return "a number beyond all bounds"


def _entries(records: Sequence[Record], base_name: str) -> list[dict[str, Any]]:
    """Records as maps; the first carries the base name."""
    entries: list[dict[str, Any]] = []
    for record in records:
        if not record.name.startswith(base_name):
            raise UsageError(f"the record {record.name!r} does not begin with {base_name!r}")
        entry: dict[str, Any] = {"bn": base_name} if base_name and not entries else {}
        name = record.name[len(base_name) :]
        if name:
            entry["n"] = name
        if record.unit:
            entry["u"] = record.unit
        value = record.value
        if isinstance(value, bool):
            entry["vb"] = value
        elif isinstance(value, str):
            entry["vs"] = value
        elif isinstance(value, bytes):
            entry["vd"] = value
        elif value is not None:
            entry["v"] = value
        if record.sum is not None:
            entry["s"] = record.sum
        entry["t"] = record.time_seconds
        entries.append(entry)
    return entries


def encode_json(records: Sequence[Record], base_name: str = "") -> bytes:
    """A pack in JSON (`application/senml+json`); `base_name` is said once, for all.

    Raises UsageError when a name does not begin with it.
    """
    entries = _entries(records, base_name)
    for entry in entries:
        if "vd" in entry:
            entry["vd"] = base64.urlsafe_b64encode(entry["vd"]).rstrip(b"=").decode()
    return msgspec.json.encode(entries)


def encode_cbor(records: Sequence[Record], base_name: str = "") -> bytes:
    """A pack in CBOR (`application/senml+cbor`); as `encode_json`."""
    with needs("mqtt"):
        import cbor2
    entries = _entries(records, base_name)
    return cbor2.dumps(
        [{_NUMBERS[key]: value for key, value in entry.items()} for entry in entries]
    )
