"""All that can be looked at without starting the agent, or beside one that runs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import hedgerow
from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore
from hedgerow.serve.doctor import model, state, surroundings
from hedgerow.serve.doctor.finding import Finding, bad, good
from hedgerow.serve.settings import DeviceSettings, load_settings


class Diagnosis(msgspec.Struct, frozen=True):
    """`good` when nothing is bad; what is odd does not count."""

    good: bool
    findings: tuple[Finding, ...]


async def examine(
    config: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Diagnosis:
    """Look at everything. Where the settings do not fit, the rest goes by the usual ones."""
    version = platform.python_version()
    findings = [
        good("hedgerow", f"{hedgerow.__version__} on Python {version}, {platform.platform()}")
    ]
    try:
        settings = load_settings(DeviceSettings, config, environment, flags)
        findings.append(good("settings", f"all fit{f', {config}' if config else ''}"))
    except UsageError as error:
        findings.append(bad("settings", str(error)))
        settings = load_settings(DeviceSettings, None, {}, {"state": flags.get("state")})
    text = "" if config is None or not config.exists() else config.read_text(errors="replace")
    store = _store(settings)
    try:
        findings += [state.disk(settings), *state.store(settings, store), state.key(settings)]
        findings += [state.wall_clock(clock.now(), store), *model.providers()]
        made, said = model.bundle(settings, store)
        findings.append(said)
        if made is not None:
            findings += await model.model(settings, made)
        findings += surroundings.things("sensors", settings.sensors, text)
        findings += surroundings.things("actuators", settings.actuators, text)
        findings.append(await surroundings.fleet(settings, store))
        findings.append(surroundings.energy(settings))
    finally:
        if store is not None:
            store.close()
    return Diagnosis(all(each.state != "bad" for each in findings), tuple(findings))


def _store(settings: DeviceSettings) -> DeviceStore | None:
    """The store, to look into; None where there is none that can be read."""
    path = settings.state / "device.db"
    try:
        return DeviceStore.reading(path) if path.exists() else None
    except HedgerowError:
        return None
