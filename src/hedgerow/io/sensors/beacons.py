"""What Bluetooth sensors say in their advertisements: BTHome and RuuviTag, as numbers by name.

Sources: *BTHome data format*, version 2; *Ruuvi data format 5 (RAWv2)*.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

BTHOME_SERVICE: Final = "0000fcd2-0000-1000-8000-00805f9b34fb"
RUUVI_COMPANY: Final = 0x0499


class _Object(NamedTuple):
    name: str
    size: int
    scale: float
    signed: bool = False


_NUMBERS: Final[Mapping[int, _Object]] = {
    0x00: _Object("packet", 1, 1),
    0x01: _Object("battery", 1, 1),
    0x02: _Object("temperature", 2, 0.01, True),
    0x03: _Object("humidity", 2, 0.01),
    0x04: _Object("pressure", 3, 0.01),
    0x05: _Object("illuminance", 3, 0.01),
    0x06: _Object("mass_kg", 2, 0.01),
    0x07: _Object("mass_lb", 2, 0.01),
    0x08: _Object("dewpoint", 2, 0.01, True),
    0x09: _Object("count", 1, 1),
    0x0A: _Object("energy", 3, 0.001),
    0x0B: _Object("power", 3, 0.01),
    0x0C: _Object("voltage", 2, 0.001),
    0x0D: _Object("pm2_5", 2, 1),
    0x0E: _Object("pm10", 2, 1),
    0x12: _Object("co2", 2, 1),
    0x13: _Object("tvoc", 2, 1),
    0x14: _Object("moisture", 2, 0.01),
    0x2E: _Object("humidity", 1, 1),
    0x2F: _Object("moisture", 1, 1),
    0x3A: _Object("button", 1, 1),
    0x3C: _Object("dimmer", 2, 1),
    0x3D: _Object("count", 2, 1),
    0x3E: _Object("count", 4, 1),
    0x3F: _Object("rotation", 2, 0.1, True),
    0x40: _Object("distance_mm", 2, 1),
    0x41: _Object("distance_m", 2, 0.1),
    0x42: _Object("duration", 3, 0.001),
    0x43: _Object("current", 2, 0.001),
    0x44: _Object("speed", 2, 0.01),
    0x45: _Object("temperature", 2, 0.1, True),
    0x46: _Object("uv_index", 1, 0.1),
    0x47: _Object("volume", 2, 0.1),
    0x48: _Object("volume_ml", 2, 1),
    0x49: _Object("flow", 2, 0.001),
    0x4A: _Object("voltage", 2, 0.1),
    0x4B: _Object("gas", 3, 0.001),
    0x4C: _Object("gas", 4, 0.001),
    0x4D: _Object("energy", 4, 0.001),
    0x4E: _Object("volume", 4, 0.001),
    0x4F: _Object("water", 4, 0.001),
    0x50: _Object("timestamp", 4, 1),
    0x51: _Object("acceleration", 2, 0.001),
    0x52: _Object("gyroscope", 2, 0.001),
    0x57: _Object("temperature", 1, 1, True),
    0x58: _Object("temperature", 1, 0.35, True),
    0x59: _Object("count", 1, 1, True),
    0x5A: _Object("count", 2, 1, True),
    0x5B: _Object("count", 4, 1, True),
    0x5C: _Object("power", 4, 0.01, True),
    0x5D: _Object("current", 2, 0.001, True),
}
_STATES: Final = (
    *("on", "powered", "opening"),
    *("battery_low", "charging", "carbon_monoxide", "cold", "connected", "door", "garage_door"),
    *("gas_found", "heat", "light", "lock", "wet", "motion", "moving", "occupancy", "plug"),
    *("presence", "problem", "running", "unsafe", "smoke", "sound", "tamper", "vibration"),
    "window",
)
_OBJECTS: Final[Mapping[int, _Object]] = {
    **_NUMBERS,
    # Yes or no: 0x0F to 0x11, then 0x15 to 0x2D.
    **{
        at: _Object(name, 1, 1)
        for at, name in zip((*range(0x0F, 0x12), *range(0x15, 0x2E)), _STATES, strict=True)
    },
}

BTHOME_NAMES: Final = frozenset(each.name for each in _OBJECTS.values())
RUUVI_NAMES: Final = (
    *("temperature", "humidity", "pressure"),
    *("acceleration_x", "acceleration_y", "acceleration_z"),
    *("voltage", "movement", "sequence"),
)


def bthome(data: bytes) -> dict[str, float]:
    """The numbers of BTHome service data; of several with one name, "humidity_2" and so on.

    °C, %, hPa, lx, kg, kWh, W, V, A, m/s², °/s and the like, as the format says.

    Raises:
        ValueError: another version, encrypted, or cut off.
    """
    if not data or data[0] >> 5 != 2:
        raise ValueError("no BTHome of version 2")
    if data[0] & 1:
        raise ValueError("encrypted")
    found: dict[str, float] = {}
    at = 1
    while at < len(data):
        known = _OBJECTS.get(data[at])
        if known is None:
            break  # how long it is nobody knows; objects come in order of their numbers
        raw = data[at + 1 : at + 1 + known.size]
        if len(raw) < known.size:
            raise ValueError("cut off")
        name, repeated = known.name, 1
        while name in found:
            repeated += 1
            name = f"{known.name}_{repeated}"
        found[name] = int.from_bytes(raw, "little", signed=known.signed) * known.scale
        at += 1 + known.size
    return found


def ruuvi(data: bytes) -> dict[str, float]:
    """The numbers of a RuuviTag's manufacturer data; NaN where it says that it has none.

    °C, %, hPa, g, V.

    Raises:
        ValueError: another format than 5, or cut off.
    """
    if len(data) < 18 or data[0] != 5:
        raise ValueError("no Ruuvi data of format 5")
    celsius, humid, pressure, x, y, z, power, moved, number = struct.unpack_from(
        ">hHHhhhHBH", data, 1
    )
    gone = -0x8000
    values = (
        math.nan if celsius == gone else celsius * 0.005,
        math.nan if humid == 0xFFFF else humid * 0.0025,
        math.nan if pressure == 0xFFFF else (pressure + 50_000) / 100,
        *(math.nan if axis == gone else axis / 1000 for axis in (x, y, z)),
        math.nan if power >> 5 == 0x7FF else ((power >> 5) + 1600) / 1000,
        math.nan if moved == 0xFF else float(moved),
        math.nan if number == 0xFFFF else float(number),
    )
    return dict(zip(RUUVI_NAMES, values, strict=True))
