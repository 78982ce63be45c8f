"""What running costs in joules: measured where the machine can, else estimated and said to be.

    meter = EnergyMeter(watts_per_core=1.0)
    account = EnergyAccount(meter)
    account.used("inference", cpu_seconds=0.013, count=64)
    account.settle()                    # every few seconds
    account.per("inference")            # joules for one

What is measured is the whole machine. The part of this process and its children is shared out by
CPU time, as Scaphandre and Kepler do: over each stretch between two readings, measured joules times
our CPU seconds over everybody's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec

from hedgerow.io import clock
from hedgerow.io.children import children_of

Source: TypeAlias = Literal["rapl", "battery", "estimate"]
_MICRO: Final = 1e-6
_STRETCH_SECONDS_MAX: Final = 60.0
"""A battery's power is not taken to have held for longer than this between two readings."""
_PROCESSES_MAX: Final = 256


class EnergySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`watts_per_core` is what one busy core takes on top of an idle machine, for the estimate."""

    watts_per_core: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 2.0


class Reading(NamedTuple):
    """Since the meter was made.

    `joules` of this process and its children. `source` is where the latest of them come from, and
    `estimated` says that some of all came from CPU time and a figure for watts alone.
    `machine_joules` is what was measured of the whole machine (0 where nothing is), `cpu_seconds`
    what this process and its children used.
    """

    joules: float
    source: Source
    estimated: bool
    machine_joules: float
    cpu_seconds: float


class EnergyMeter:
    """Joules since it was made. `reason` says why the machine does not measure, where it does not.

    Looks for RAPL (`/sys/class/powercap`, packages and the memory beside them), then for a battery
    that drains (`/sys/class/power_supply`). Read it at least every minute: a battery tells its
    power of the moment, and RAPL's counters start over after some minutes to hours.
    """

    def __init__(
        self,
        *,
        watts_per_core: float = EnergySettings().watts_per_core,
        root: Path = Path("/"),
        process: int | None = None,
        monotonic: Callable[[], float] = clock.monotonic,
        ticks_per_second: float | None = None,
    ) -> None:
        """`root` is where `proc` and `sys` are; `process` the number of the process, ours if none.

        Linux; elsewhere the estimate, from the CPU time that the system tells of this process.
        """
        self._watts = watts_per_core
        self._root = root
        self._process = os.getpid() if process is None else process
        self._monotonic = monotonic
        self._hz = os.sysconf("SC_CLK_TCK") if ticks_per_second is None else ticks_per_second
        self._rapl, self.reason = _find_rapl(root / "sys/class/powercap")
        self._counters = self._read_counters()
        self._power: float | None = self._battery_watts()
        self._seconds = monotonic()
        self._cpu, self._busy = self._cpu_seconds(), self._busy_seconds()
        self._joules = self._machine = self._used = 0.0
        self._estimated = False
        self._source: Source = "estimate"
        if self._rapl:
            self._source = "rapl"
        elif self._power is not None:
            self._source = "battery"

    def joules(self) -> Reading:
        """Takes a reading; the machine's counters are read now."""
        now = self._monotonic()
        seconds, self._seconds = now - self._seconds, now
        cpu, busy = self._cpu_seconds(), self._busy_seconds()
        # Children that ended uncounted make the sum fall: then they cost nothing more.
        used, all_used = max(0.0, cpu - self._cpu), max(0.0, busy - self._busy)
        self._cpu, self._busy = cpu, busy
        measured = self._measured(seconds)
        if measured is None:
            self._source, self._estimated = "estimate", self._estimated or used > 0
            self._joules += used * self._watts
        else:
            self._source, joules = measured
            self._machine += joules
            # The two clocks tick on their own, so a share may come out above all of it.
            self._joules += joules * (min(1.0, used / all_used) if all_used > 0 else 0.0)
        self._used += used
        estimated = self._estimated or self._source == "estimate"  # 0 joules of it are one, too
        return Reading(self._joules, self._source, estimated, self._machine, self._used)

    def _measured(self, seconds: float) -> tuple[Source, float] | None:
        """What the whole machine took in the last `seconds`."""
        if self._rapl:
            before, self._counters = self._counters, self._read_counters()
            if not before.keys() == self._counters.keys() == set(self._rapl):
                return None
            joules = 0.0
            for zone, value in self._counters.items():
                joules += (value - before[zone]) % zone.range * _MICRO
            return "rapl", joules
        watts, self._power = self._power, self._battery_watts()
        if watts is None or self._power is None or seconds > _STRETCH_SECONDS_MAX:
            return None
        return "battery", (watts + self._power) / 2 * seconds

    def _read_counters(self) -> dict[_Zone, float]:
        """Microjoules by zone, of those that can be read."""
        values = {zone: _number(zone.counter) for zone in self._rapl}
        return {zone: value for zone, value in values.items() if value is not None}

    def _battery_watts(self) -> float | None:
        """What the batteries give now; None when none drains or tells."""
        watts: float | None = None
        for battery in sorted((self._root / "sys/class/power_supply").glob("BAT*")):
            if _text(battery / "status") != "Discharging":
                continue
            power = _number(battery / "power_now")
            if power is None:
                current, voltage = (
                    _number(battery / "current_now"),
                    _number(battery / "voltage_now"),
                )
                if current is None or voltage is None:
                    continue
                power = current * voltage * _MICRO
            watts = (watts or 0.0) + abs(power) * _MICRO  # some drivers give it a minus sign
        return watts

    def _cpu_seconds(self) -> float:
        """CPU time of the process, of children that ended, and of those that live."""
        own = _stat(self._root, self._process)
        if own is None:
            return sum(os.times()[:4])
        ticks = sum(own[11:15])
        waiting, seen = children_of(self._process, self._root), {self._process}
        while waiting and len(seen) < _PROCESSES_MAX:
            child = waiting.pop()
            if child not in seen:
                seen.add(child)
                ticks += sum((_stat(self._root, child) or [0] * 15)[11:15])
                waiting += children_of(child, self._root)
        return ticks / self._hz

    def _busy_seconds(self) -> float:
        """CPU time that everybody used: user, nice, system, interrupts, and none of the idle."""
        fields = _text(self._root / "proc/stat").partition("\n")[0].split()
        if len(fields) < 8 or fields[0] != "cpu":
            return 0.0
        user, nice, system, _, _, hard, soft = map(int, fields[1:8])
        return (user + nice + system + hard + soft) / self._hz


class EnergyAccount:
    """Shares the meter's joules out over what the process does: "inference", "round", "learning".

    Whoever works says how much CPU time it took; a CPU second costs what a CPU second cost this
    process over the stretch between two settlements. What nobody claims is "other".
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self._last = meter.joules()
        self._pending: dict[str, float] = {}
        self._joules: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def used(self, what: str, *, cpu_seconds: float, count: int = 0) -> None:
        """`what` took so much CPU time, to finish `count` more of its kind."""
        self._pending[what] = self._pending.get(what, 0.0) + cpu_seconds
        self._counts[what] = self._counts.get(what, 0) + count

    def settle(self) -> Reading:
        """Reads the meter and shares out what was used since the last time."""
        reading = self._meter.joules()
        joules = reading.joules - self._last.joules
        cpu = reading.cpu_seconds - self._last.cpu_seconds
        claimed = sum(self._pending.values())
        if joules == 0:  # so short that the kernel saw nothing yet: it comes to the next one
            return reading
        # The kernel counts in hundredths of a second, so claims may exceed what it saw.
        whole = max(cpu, claimed)
        shares = {what: seconds / whole for what, seconds in self._pending.items()}
        shares["other"] = shares.get("other", 0.0) + (whole - claimed) / whole
        for what, share in shares.items():
            self._joules[what] = self._joules.get(what, 0.0) + joules * share
        self._pending.clear()
        self._last = reading
        return reading

    def joules(self, what: str) -> float:
        """Joules that `what` took so far, as of the last settlement."""
        return self._joules.get(what, 0.0)

    def per(self, what: str) -> float | None:
        """Joules for one of `what`; None before the first."""
        count = self._counts.get(what, 0)
        return self._joules.get(what, 0.0) / count if count else None

    def all(self) -> Mapping[str, float]:
        """Joules by what they were for; they add up to those of the meter."""
        return dict(self._joules)


class _Zone(NamedTuple):
    """A RAPL counter, in microjoules, that starts over after `range`."""

    counter: Path
    range: float


def _find_rapl(powercap: Path) -> tuple[list[_Zone], str]:
    """The counters that add up to packages and memory, and why there are none if so."""
    # Cores and graphics are inside the package; memory is beside it. "psys" would hold all of it,
    # but many firmwares leave it at nonsense.
    zones = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if _text(zone / "name").startswith(("package", "dram"))
    ]
    if not zones:
        return [], "the machine has no RAPL counters"
    found = []
    for zone in zones:
        counter, most = zone / "energy_uj", _number(zone / "max_energy_range_uj")
        if _number(counter) is None or most is None:
            return [], f"{counter} cannot be read; it takes root, or a rule that lets this user"
        found.append(_Zone(counter, most))
    return found, ""


def _stat(root: Path, process: int) -> list[int] | None:
    """The numbers of `/proc/PID/stat` from the third on as they stand there, 0 where none is."""
    fields = _text(root / f"proc/{process}/stat").rpartition(")")[2].split()
    if len(fields) < 15:
        return None
    return [int(field) if field.lstrip("-").isdigit() else 0 for field in fields]


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return float(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
