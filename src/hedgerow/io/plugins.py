"""Sensors and actuators by their `kind`: those that ship, then those that packages bring."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.io.actuators.base import Actuator
from hedgerow.io.sensors.base import Sensor

SENSORS: dict[str, str] = {
    "audio": "hedgerow.io.sensors.audio:Audio",
    "ble": "hedgerow.io.sensors.ble:Ble",
    "modbus": "hedgerow.io.sensors.modbus:Modbus",
    "mqtt": "hedgerow.io.sensors.mqtt:Mqtt",
    "opcua": "hedgerow.io.sensors.opcua:OpcUa",
    "recordings": "hedgerow.io.sensors.recordings:Recordings",
    "replay": "hedgerow.io.sensors.replay:Replay",
    "serial": "hedgerow.io.sensors.serial:Serial",
    "sparkplug": "hedgerow.io.sensors.sparkplug:Sparkplug",
    "system": "hedgerow.io.sensors.system:System",
    "video": "hedgerow.io.sensors.video:Video",
}
ACTUATORS: dict[str, str] = {
    "command": "hedgerow.io.actuators.command:Command",
    "home_assistant": "hedgerow.io.actuators.home_assistant:HomeAssistant",
    "mqtt": "hedgerow.io.actuators.mqtt:Mqtt",
    "sparkplug": "hedgerow.io.actuators.sparkplug:Sparkplug",
    "webhook": "hedgerow.io.actuators.webhook:Webhook",
}
"""Kind → where its class is; imported only when a setting names it."""

S = TypeVar("S", bound=msgspec.Struct)


def sensor(table: Mapping[str, Any]) -> Sensor:
    """The sensor of one `[[sensors]]` table.

    Raises:
        UsageError: no `kind`, one that nobody brings, or settings that do not fit it.
    """
    return _made(table, Sensor, SENSORS, "hedgerow.sensors")


def actuator(table: Mapping[str, Any]) -> Actuator:
    """The actuator of one `[[actuators]]` table; raises like `sensor`."""
    return _made(table, Actuator, ACTUATORS, "hedgerow.actuators")


def _made(table: Mapping[str, Any], base: type[S], shipped: Mapping[str, str], group: str) -> S:
    settings = dict(table)
    kind = settings.pop("kind", None)
    what = base.__name__.lower()
    brought = {point.name: point.value for point in metadata.entry_points(group=group)}
    known = {**brought, **shipped}
    if not isinstance(kind, str) or kind not in known:
        raise UsageError(
            f"{what} has kind {kind!r}; wanted one of {', '.join(sorted(known))}, or one that an "
            f"installed package brings by the entry point group {group}"
        )
    module, _, name = known[kind].partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{what} {kind!r} is {known[kind]}, which has gone: {error}") from error
    if not (isinstance(made, type) and issubclass(made, base)):
        raise UsageError(f"{what} {kind!r} is {known[kind]}, which is no {base.__name__}")
    try:
        return msgspec.convert(settings, made, strict=False)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{what} {kind!r}: {error}; docs/{what}s.md lists its settings") from error
