"""What the device stands in: sensors, actuators, the fleet it may reach, and its power."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from hedgerow.core.errors import HedgerowError
from hedgerow.io import plugins
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.energy import EnergyMeter
from hedgerow.serve.doctor.finding import Finding, bad, good, odd
from hedgerow.serve.joining import JoinFile, kept_enrolment
from hedgerow.serve.settings import DeviceSettings, line_within

REACH_SECONDS_MAX = 3.0
PACKAGES: Mapping[str, tuple[str, str]] = {
    "audio": ("sounddevice", "audio"),
    "ble": ("bleak", "ble"),
    "home_assistant": ("paho", "mqtt"),
    "modbus": ("pymodbus", "modbus"),
    "mqtt": ("paho", "mqtt"),
    "opcua": ("asyncua", "opcua"),
    "serial": ("serial", "serial"),
    "sparkplug": ("google.protobuf", "mqtt"),
    "video": ("av", "video"),
}
"""Kind of a sensor or actuator → the package it stands on, and the extra that brings it."""


def things(what: str, tables: Sequence[Mapping[str, Any]], config: str) -> Iterator[Finding]:
    """Whether each `[[sensors]]` or `[[actuators]]` table of the text `config` can be used."""
    if not tables:
        if what == "sensors":
            yield odd("sensors", "none: the device senses nothing", "add a [[sensors]] table")
        else:
            yield good("actuators", "none")
    make = plugins.sensor if what == "sensors" else plugins.actuator
    for number, table in enumerate(tables):
        kind = str(table.get("kind"))
        name = f"{what} {number + 1} ({kind})"
        try:
            make(table)
        except HedgerowError as error:
            place = line_within(config, f"{what}[{number}]", str(error)).removeprefix(", ")
            yield bad(name, f"{place}: {error}" if place else str(error))
            continue
        package, extra = PACKAGES.get(kind, ("", ""))
        if package and not _installed(package):
            remedy = f"pip install 'hedgerow[{extra}]'"
            yield bad(name, f"it needs the package {package}", remedy)
        else:
            yield good(name, "its settings fit")


def _installed(package: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(package) is not None
    return False


async def fleet(settings: DeviceSettings, store: DeviceStore | None) -> Finding:
    """Whether the fleet's server can be reached from here."""
    try:
        enrolled = None if store is None else kept_enrolment(store)
        join = None
        if settings.join is not None and (enrolled is None or settings.join.exists()):
            join = JoinFile.load(settings.join)
    except HedgerowError as error:
        return bad("fleet", str(error), "ask the fleet's owner for its join file")
    found = join or enrolled
    if found is None:
        return good("fleet", "none: the device works by itself")
    place = urlsplit(found.url if "://" in found.url else f"nats://{found.url}")
    host, port = place.hostname or "", place.port or 4222
    state = "enrolled in" if enrolled is not None else "to be enrolled in"
    try:
        async with asyncio.timeout(REACH_SECONDS_MAX):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        why = "no answer" if isinstance(error, TimeoutError) else str(error)
        return odd(
            "fleet",
            f"{state} {found.fleet}, but {host}:{port} cannot be reached ({why})",
            "the device works alone meanwhile; look at the network, a firewall, or the address in "
            "the join file",
        )
    return good("fleet", f"{state} {found.fleet}; {host}:{port} answers")


def energy(settings: DeviceSettings) -> Finding:
    """Where figures for energy come from."""
    meter = EnergyMeter(watts_per_core=settings.energy.watts_per_core)
    reading = meter.joules()
    if reading.source == "estimate":
        return good(
            "energy",
            f"estimated from processor time at {settings.energy.watts_per_core:g} W a core "
            f"({meter.reason})",
        )
    return good("energy", f"measured: {reading.source}")
