"""When a device can be reached: always, by the hours of its day, by chance, or as a file says.

Each model answers two questions about one device, and answers the same whenever it is asked:
is it there at this moment, and when does that change next?
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.sim import draws

DAY = 86_400.0
HOUR = 3_600.0
STEP = 1e-3
"""A change lies at least so far ahead, so that rounding cannot make a clock stand still."""
Hour: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=24)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Presence(Protocol):
    """One fleet's availability."""

    def online(self, device: int, moment: float) -> bool:
        """Whether the device can be reached at `moment` seconds."""

    def change_after(self, device: int, moment: float) -> float:
        """The first moment later than `moment` at which that is different; infinity: never."""


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    """Base of the settings."""


class Always(_Settings, frozen=True, kw_only=True, tag="always"):
    """Every device can be reached at any time."""

    def presence(self, seed: int) -> Presence:
        """The model."""
        return _AlwaysThere()


class Diurnal(_Settings, frozen=True, kw_only=True, tag="diurnal"):
    """Reachable from `from_hour` to `to_hour` of the local day (phones at night, on the charger).

    A device lies in one of the time `zones` (hours ahead of the simulation's clock, which begins at
    midnight), and its hours are shifted by up to `spread_hours` either way.
    """

    from_hour: Hour = 22.0
    to_hour: Hour = 7.0
    zones: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=64)] = (0.0,)
    spread_hours: Hour = 1.0

    def presence(self, seed: int) -> Presence:
        """The model."""
        return _Daily(self, draws.key(seed, "diurnal"))


class Churn(_Settings, frozen=True, kw_only=True, tag="churn"):
    """Comes and goes: `on_seconds` and `off_seconds` are the means of exponential times."""

    on_seconds: Seconds = 3_600.0
    off_seconds: Seconds = 3_600.0

    def presence(self, seed: int) -> Presence:
        """The model."""
        return _ComesAndGoes(self, draws.key(seed, "churn"))


class Trace(_Settings, frozen=True, kw_only=True, tag="trace"):
    """As recorded: a CSV `file` with the columns `device,from_seconds,to_seconds`.

    `device` is a number from 0; a device without a line is never there. `repeat_seconds` above 0
    plays the trace again and again.
    """

    file: str
    repeat_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0

    def presence(self, seed: int) -> Presence:
        """The model.

        Raises:
            UsageError: the file cannot be read, or a line does not fit.
        """
        return Recorded(read_trace(Path(self.file)), self.repeat_seconds)


AnyAvailability: TypeAlias = Always | Diurnal | Churn | Trace


def day_phase(seconds: float, from_hour: float) -> float:
    """Seconds since the last `from_hour` o'clock of a local time."""
    return (seconds - from_hour * HOUR) % DAY


def window_seconds(from_hour: float, to_hour: float) -> float:
    """How long a daily window is; the same hour twice means the whole day."""
    return (to_hour - from_hour) * HOUR % DAY or DAY


class _AlwaysThere:
    def online(self, device: int, moment: float) -> bool:
        return True

    def change_after(self, device: int, moment: float) -> float:
        return math.inf


class _Daily:
    def __init__(self, settings: Diurnal, key: int) -> None:
        self._settings, self._key = settings, key
        self._length = window_seconds(settings.from_hour, settings.to_hour)

    def online(self, device: int, moment: float) -> bool:
        return self._phase(device, moment) < self._length

    def change_after(self, device: int, moment: float) -> float:
        if self._length >= DAY:
            return math.inf
        phase = self._phase(device, moment)
        left = self._length - phase if phase < self._length else DAY - phase
        return moment + max(left, STEP)

    def _phase(self, device: int, moment: float) -> float:
        settings = self._settings
        zone = settings.zones[int(draws.uniform(self._key, device, 0) * len(settings.zones))]
        shift = settings.spread_hours * (2 * draws.uniform(self._key, device, 1) - 1)
        return day_phase(moment + (zone + shift) * HOUR, settings.from_hour)


class _ComesAndGoes:
    """Walks along each device's own sequence of spells; asked about the past, it starts over."""

    def __init__(self, settings: Churn, key: int) -> None:
        self._settings, self._key = settings, key
        self._spells: dict[int, tuple[int, float, float, bool]] = {}

    def online(self, device: int, moment: float) -> bool:
        return self._spell(device, moment)[3]

    def change_after(self, device: int, moment: float) -> float:
        return max(self._spell(device, moment)[2], moment + STEP)

    def _spell(self, device: int, moment: float) -> tuple[int, float, float, bool]:
        spell = self._spells.get(device)
        if spell is None or moment < spell[1]:
            mean = self._settings
            share = mean.on_seconds / (mean.on_seconds + mean.off_seconds)
            there = draws.uniform(self._key, device, 0) < share
            spell = (1, 0.0, self._length(device, 1, there), there)
        number, start, end, there = spell
        while moment >= end:
            number, start, there = number + 1, end, not there
            end = start + self._length(device, number, there)
        self._spells[device] = spell = (number, start, end, there)
        return spell

    def _length(self, device: int, number: int, there: bool) -> float:
        mean = self._settings.on_seconds if there else self._settings.off_seconds
        return max(draws.exponential(self._key, device, number, mean), STEP)


class Recorded:
    """Spells by device, each a sorted list of `(from, to)` in seconds, played once or again."""

    def __init__(
        self, spells: dict[int, list[tuple[float, float]]], repeat_seconds: float = 0.0
    ) -> None:
        self._edges = {device: _edges(listed) for device, listed in spells.items()}
        self._repeat = repeat_seconds
        last = max((edges[-1] for edges in self._edges.values() if edges), default=0.0)
        if repeat_seconds and last > repeat_seconds:
            raise UsageError(
                f"the trace runs to {last:g} s and is to repeat after {repeat_seconds:g} s; "
                "set repeat_seconds to its length or more"
            )

    def online(self, device: int, moment: float) -> bool:
        """Whether `moment` lies in a spell of the device."""
        local = moment % self._repeat if self._repeat else moment
        return bisect_right(self._edges.get(device, []), local) % 2 == 1

    def change_after(self, device: int, moment: float) -> float:
        """The next edge of a spell."""
        edges = self._edges.get(device, [])
        if not edges:
            return math.inf
        local = moment % self._repeat if self._repeat else moment
        start = moment - local
        place = bisect_right(edges, local)
        if place < len(edges):
            at = start + edges[place]
        elif self._repeat:
            at = start + self._repeat + edges[0]
        else:
            return math.inf
        return max(at, moment + STEP)


def _edges(spells: list[tuple[float, float]]) -> list[float]:
    """Starts and ends in turn; spells that touch or overlap are one."""
    edges: list[float] = []
    for start, end in sorted(spells):
        if edges and start <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += [start, end]
    return edges


def read_trace(path: Path) -> dict[int, list[tuple[float, float]]]:
    """The spells of a CSV file with the columns `device,from_seconds,to_seconds`.

    Raises:
        UsageError: it cannot be read, or a line does not fit; the message names the line.
    """
    spells: dict[int, list[tuple[float, float]]] = {}
    wanted = ["device", "from_seconds", "to_seconds"]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not set(wanted) <= set(rows.fieldnames):
                raise UsageError(
                    f"{path} has the columns {rows.fieldnames}; a trace wants {','.join(wanted)}"
                )
            for row in rows:
                try:
                    device, start, end = int(row["device"]), *(float(row[n]) for n in wanted[1:])
                except (TypeError, ValueError):
                    device, start, end = -1, 0.0, 0.0
                if device < 0 or not 0 <= start < end < math.inf:
                    raise UsageError(
                        f"line {rows.line_num} of {path} is no spell; wanted a device's number "
                        "and 0 ≤ from_seconds < to_seconds"
                    )
                spells.setdefault(device, []).append((start, end))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the trace {path}: {error}") from error
    return spells
