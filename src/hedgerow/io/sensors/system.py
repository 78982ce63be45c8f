"""The machine itself: processor, memory, disk, network, temperature, load (Linux).

Source: Linux's `Documentation/filesystems/proc.rst`, `admin-guide/iostats.rst` and
`driver-api/thermal/sysfs-api.rst`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Reading, Sensor
from hedgerow.io.sensors.grid import Gather, in_order, ticks
from hedgerow.io.surroundings import Surroundings

_SECTOR_BYTES: Final = 512  # whatever the disk's own sectors are (iostats)
_NAN: Final = float("nan")

Counts: TypeAlias = tuple[float, ...]


class System(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Channels are metrics of the same name, or those that `metrics` (channel → metric) says.

    `root` is where `proc` and `sys` are: in a container perhaps where the host's are mounted.
    `disk` is a directory on the file system whose room counts.
    """

    stream: str = ""
    metrics: dict[str, str] = msgspec.field(default_factory=dict)
    root: str = "/"
    disk: str = "/"
    block_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.metrics.values()) - METRICS.keys())
        if unknown:
            raise UsageError(
                f"no metric {', '.join(unknown)}; there are {', '.join(sorted(METRICS))}"
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """One row at each tick, gathered to blocks; see `Sensor.batches`."""
        own = {channel: channel for channel in around.channels if channel in METRICS}
        names = in_order(self.metrics or own, around, "metrics")
        machine = Machine(Path(self.root), Path(self.disk))
        for name in names:
            if np.isnan(machine.read(name)) and not METRICS[name].needs_two:
                raise UsageError(
                    f"this machine does not tell {name}; take it out of the model's channels, or "
                    f"set root to where proc and sys are (it is {self.root})"
                )
        stream = self.stream or around.device
        gather = Gather(around.rate_hz, self.block_seconds)
        begun = False
        async for seconds in ticks(around, 1 / around.rate_hz):
            machine.begin(around.monotonic())
            row = np.array([machine.read(name) for name in names], np.float32)
            if not begun:  # what is a rate has none yet
                begun = True
                continue
            blocks = gather.add(seconds, {stream: row})
            if blocks:
                yield blocks


class Machine:
    """Reads metrics below one root; what is a rate, between `begin` and the `begin` before."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.root = root
        self.disk = disk
        self._seconds = _NAN
        self._passed = _NAN
        self._counts: dict[str, Counts] = {}

    def begin(self, seconds: float) -> None:
        """A new round of readings, at `seconds` that never run backwards."""
        self._passed, self._seconds = seconds - self._seconds, seconds

    def read(self, metric: str) -> float:
        """Its value now; NaN where the machine does not tell, or for a rate the first time."""
        try:
            return METRICS[metric].read(self)
        except (OSError, ValueError, IndexError):
            return _NAN

    def rate(self, name: str, counts: Counts) -> Counts:
        """How fast each count rises, by the second."""
        before = self._since(name, counts)
        if not self._passed > 0:
            return tuple(_NAN for _ in counts)
        return tuple(risen / self._passed for risen in before)

    def rise(self, name: str, counts: Counts) -> Counts:
        """By how much each count rose since the last round."""
        return self._since(name, counts)

    def _since(self, name: str, counts: Counts) -> Counts:
        before, self._counts[name] = self._counts.get(name), counts
        if before is None or len(before) != len(counts):
            return tuple(_NAN for _ in counts)
        return tuple(max(0.0, new - old) for new, old in zip(counts, before, strict=True))

    def text(self, path: str) -> str:
        """The text of a file below the root."""
        return (self.root / path).read_text("utf-8")


class _Metric(msgspec.Struct, frozen=True):
    read: Callable[[Machine], float]
    needs_two: bool = False


def _cpu_percent(machine: Machine) -> float:
    fields = [float(field) for field in machine.text("proc/stat").split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]  # waiting for a disk is idle
    spent, rested = machine.rise("cpu", (sum(fields), idle))
    return 100 * (spent - rested) / spent if spent > 0 else _NAN


def _memory(machine: Machine) -> dict[str, float]:
    lines = machine.text("proc/meminfo").splitlines()
    return {
        name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }


def _memory_percent(machine: Machine) -> float:
    memory = _memory(machine)
    return 100 * (1 - memory.get("MemAvailable", _NAN) / memory.get("MemTotal", _NAN))


def _swap_percent(machine: Machine) -> float:
    memory = _memory(machine)
    total = memory.get("SwapTotal", _NAN)
    return 100 * (1 - memory.get("SwapFree", _NAN) / total) if total else 0.0


def _disk_percent(machine: Machine) -> float:
    room = shutil.disk_usage(machine.disk)
    return 100 * room.used / (room.used + room.free)


def _disks(machine: Machine, column: int, name: str) -> float:
    """Bytes a second over all whole disks; parts, loops and RAM would count twice or not at all."""
    block = machine.root / "sys/block"
    lines = [line.split() for line in machine.text("proc/diskstats").splitlines()]
    sectors = sum(float(line[column]) for line in lines if (block / line[2] / "device").exists())
    return machine.rate(name, (sectors * _SECTOR_BYTES,))[0]


def _network(machine: Machine, column: int, name: str) -> float:
    """Bytes a second over all interfaces but the loopback."""
    lines = [line.partition(":") for line in machine.text("proc/net/dev").splitlines()[2:]]
    count = sum(float(rest.split()[column]) for name, _, rest in lines if name.strip() != "lo")
    return machine.rate(name, (count,))[0]


def _temperature(machine: Machine) -> float:
    """The hottest that any zone or chip tells, in °C."""
    told = []
    for pattern in ("sys/class/thermal/thermal_zone*/temp", "sys/class/hwmon/hwmon*/temp*_input"):
        for path in machine.root.glob(pattern):
            try:
                told.append(float(path.read_text("utf-8")) / 1000)
            except (OSError, ValueError):  # a sensor that sleeps
                continue
    return max(told, default=_NAN)


def _load(machine: Machine) -> float:
    return float(machine.text("proc/loadavg").split()[0])


def _processes(machine: Machine) -> float:
    return float(sum(1 for _ in (machine.root / "proc").glob("[0-9]*")))


METRICS: Final[Mapping[str, _Metric]] = {
    "cpu_percent": _Metric(_cpu_percent, needs_two=True),
    "memory_percent": _Metric(_memory_percent),
    "swap_percent": _Metric(_swap_percent),
    "disk_percent": _Metric(_disk_percent),
    "disk_read_bytes_per_second": _Metric(lambda m: _disks(m, 5, "read"), needs_two=True),
    "disk_written_bytes_per_second": _Metric(lambda m: _disks(m, 9, "written"), needs_two=True),
    "network_received_bytes_per_second": _Metric(
        lambda m: _network(m, 0, "received"), needs_two=True
    ),
    "network_sent_bytes_per_second": _Metric(lambda m: _network(m, 8, "sent"), needs_two=True),
    "load": _Metric(_load),
    "processes": _Metric(_processes),
    "temperature": _Metric(_temperature),
}
"""What can be measured, by name: percent, bytes a second, °C, processes that want to run."""
