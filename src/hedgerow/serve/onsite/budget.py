"""What learning may cost: when it may run, how much of the machine it takes, what it took."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec

from hedgerow.io.power import read_power
from hedgerow.io.sensors.system import Machine

_DAY_SECONDS: Final = 86_400


class OnSiteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a device learns by itself, and what that may cost.

    It learns every `every_seconds` once `windows_min` windows are new; sooner when drift asks for
    it, but `pause_seconds` after the last time at least, or when there are new labels. It runs
    while the rest of the machine keeps at most `load_max` of it busy, no sensor tells more than
    `celsius_max`, and it is on mains (or `on_battery` allows); and takes at most `cpu_share` of one
    core, `memory_bytes_max`, `seconds_max` of CPU time for one training and `joules_per_day`.
    """

    enabled: bool = True
    every_seconds: Annotated[float, msgspec.Meta(ge=1)] = 21_600.0
    pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1800.0
    windows_min: Annotated[int, msgspec.Meta(ge=16)] = 512
    epochs: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 3.0
    buffer_bytes_max: Annotated[int, msgspec.Meta(ge=4096)] = 8 * 2**20
    cpu_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    memory_bytes_max: Annotated[int, msgspec.Meta(ge=64 * 2**20)] = 400 * 2**20
    load_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
    celsius_max: float = 75.0
    on_battery: bool = False
    joules_per_day: Annotated[float, msgspec.Meta(ge=0)] = 20_000.0
    seconds_max: Annotated[float, msgspec.Meta(gt=0)] = 1800.0
    check_seconds: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 10.0


class Gauges(msgspec.Struct, frozen=True):
    """The machine at one moment. `busy` is the share of all cores at work, 0 to 1.

    NaN or None: the machine does not tell.
    """

    busy: float = math.nan
    celsius: float = math.nan
    on_power: bool | None = None
    available_bytes: float = math.nan


class MachineGauges:
    """Reads `/proc` and `/sys` below `root`; what is busy, between two readings."""

    def __init__(self, monotonic: Callable[[], float], root: Path = Path("/")) -> None:
        self._machine = Machine(root, root)
        self._monotonic = monotonic
        self._supplies = root / "sys/class/power_supply"
        self()

    def __call__(self) -> Gauges:
        """The machine now."""
        machine = self._machine
        machine.begin(self._monotonic())
        return Gauges(
            busy=machine.read("cpu_percent") / 100,
            celsius=machine.read("temperature"),
            on_power=read_power(self._supplies).on_power,
            available_bytes=self._available(),
        )

    def _available(self) -> float:
        try:
            for line in self._machine.text("proc/meminfo").splitlines():
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return math.nan


class Spent(msgspec.Struct):
    """What learning took on one day (days since 1970)."""

    day: int = 0
    cpu_seconds: float = 0.0
    joules: float = 0.0


@dataclass
class Budget:
    """Says whether learning may run now; keeps what it took today in `file`.

    Joules are CPU seconds times `watts_per_core`: an estimate, and called one.
    """

    settings: OnSiteSettings
    file: Path
    watts_per_core: float = 2.0
    cores: int = 1
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        try:
            self.spent = msgspec.json.decode(self.file.read_bytes(), type=Spent)
        except (OSError, msgspec.MsgspecError):
            self.spent = Spent()  # new, or torn by a power loss: counted anew

    def blocked(self, gauges: Gauges, now: float, *, own_cores: float = 0.0) -> str:
        """Why learning may not run now; empty if it may.

        `own_cores` is how many cores learning itself keeps busy, which is not held against it.
        """
        given = self.settings
        self._turn_day(now)
        busy = gauges.busy - own_cores / max(1, self.cores)
        if self.spent.joules >= given.joules_per_day:
            return f"today's {given.joules_per_day:g} J are spent"
        if gauges.on_power is False and not given.on_battery:
            return "on battery"
        if gauges.celsius > given.celsius_max:
            return f"{gauges.celsius:.0f} °C, over {given.celsius_max:g}"
        if busy > given.load_max:
            return f"the machine is busy ({busy:.0%})"
        if gauges.available_bytes < given.memory_bytes_max:
            return f"only {gauges.available_bytes / 2**20:.0f} MiB of memory are free"
        return ""

    def took(self, cpu_seconds: float, now: float) -> None:
        """Count CPU time."""
        self._turn_day(now)
        self.spent.cpu_seconds += cpu_seconds
        self.spent.joules += cpu_seconds * self.watts_per_core

    def keep(self) -> None:
        """Write down what was spent, whole or not at all; a full disk loses only the count."""
        partial = self.file.with_suffix(".partial")
        try:
            partial.write_bytes(msgspec.json.encode(self.spent))
            partial.replace(self.file)
        except OSError:
            partial.unlink(missing_ok=True)

    def _turn_day(self, now: float) -> None:
        day = int(now // _DAY_SECONDS)
        if day > self.spent.day:  # a clock that was set back gives no second allowance
            self.spent = Spent(day=day)
