"""Joules: what a device spends on computing and sending, and the battery it spends them from."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.sim.availability import DAY, HOUR, Hour, day_phase, window_seconds

Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class EnergySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What things cost, and the battery.

    `compute_watts` while training, `idle_watts` always (from the battery alone, not in the bill),
    joules for each byte sent and received. `capacity_joules` 0 means mains: never empty. A device
    starts with a random share of charge from `start_share` to full, is charged at `charge_watts`
    from `charge_from_hour` to `charge_to_hour` of the day, and trains only while its charge is
    above `reserve_share`.
    """

    compute_watts: Amount = 2.0
    idle_watts: Amount = 0.0
    up_joules_per_byte: Amount = 5e-6
    down_joules_per_byte: Amount = 2e-6
    capacity_joules: Amount = 0.0
    start_share: Share = 0.5
    reserve_share: Share = 0.2
    charge_watts: Amount = 10.0
    charge_from_hour: Hour = 22.0
    charge_to_hour: Hour = 7.0


class Batteries:
    """One fleet's charge and bill. `spent [N]`: joules each device has spent on learning."""

    def __init__(self, settings: EnergySettings, devices: int, rng: np.random.Generator) -> None:
        self.settings = settings
        self.spent: NDArray[np.float64] = np.zeros(devices)
        self.level: NDArray[np.float64] = np.zeros(devices if settings.capacity_joules else 0)
        self.since: NDArray[np.float64] = np.zeros(len(self.level))
        self.total = 0.0
        if settings.capacity_joules:
            start = settings.start_share + (1 - settings.start_share) * rng.random(devices)
            self.level = start * settings.capacity_joules

    def compute(self, device: int, seconds: float, moment: float) -> None:
        """Book so many seconds of training."""
        self._book(device, seconds * self.settings.compute_watts, moment)

    def carry(self, device: int, bytes_up: int, bytes_down: int, moment: float) -> None:
        """Book bytes sent and received."""
        costs = self.settings
        joules = bytes_up * costs.up_joules_per_byte + bytes_down * costs.down_joules_per_byte
        self._book(device, joules, moment)

    def carry_all(
        self,
        devices: NDArray[np.int64],
        bytes_up: NDArray[np.float64],
        bytes_down: NDArray[np.float64],
        moment: float,
    ) -> None:
        """The same for devices `[K]`, each once."""
        costs = self.settings
        joules = bytes_up * costs.up_joules_per_byte + bytes_down * costs.down_joules_per_byte
        if len(self.level):
            for device, spent in zip(devices.tolist(), joules.tolist(), strict=True):
                self._book(device, spent, moment)
        else:
            self.spent[devices] += joules
            self.total += float(joules.sum())

    def share(self, device: int, moment: float) -> float:
        """Charge from 0 to 1; on the mains always 1."""
        if not len(self.level):
            return 1.0
        self._catch_up(device, moment)
        return float(self.level[device] / self.settings.capacity_joules)

    def on_power(self, moment: float) -> bool:
        """Whether devices charge now, or need no charge."""
        settings = self.settings
        length = window_seconds(settings.charge_from_hour, settings.charge_to_hour)
        return not len(self.level) or day_phase(moment, settings.charge_from_hour) < length

    def may_train(self, device: int, moment: float) -> bool:
        """Whether there is more charge than the reserve."""
        return self.share(device, moment) > self.settings.reserve_share or not len(self.level)

    def _book(self, device: int, joules: float, moment: float) -> None:
        self.spent[device] += joules
        self.total += joules
        if len(self.level):
            self._catch_up(device, moment)
            self.level[device] = max(self.level[device] - joules, 0.0)

    def _catch_up(self, device: int, moment: float) -> None:
        """Charging and idling since the last look; within one look their order is not kept."""
        settings, since = self.settings, float(self.since[device])
        if moment <= since:
            return
        charged = settings.charge_watts * charging_seconds(settings, since, moment)
        idled = settings.idle_watts * (moment - since)
        level = self.level[device] + charged - idled
        self.level[device] = min(max(level, 0.0), settings.capacity_joules)
        self.since[device] = moment


def charging_seconds(settings: EnergySettings, start: float, end: float) -> float:
    """Seconds between `start` and `end` that lie within the daily charging hours."""
    length = window_seconds(settings.charge_from_hour, settings.charge_to_hour)
    return _elapsed(settings, length, end) - _elapsed(settings, length, start)


def _elapsed(settings: EnergySettings, length: float, moment: float) -> float:
    """Seconds of charging up to `moment`, counted from a window on day 0."""
    phase = day_phase(moment, settings.charge_from_hour)
    days = round((moment - phase - settings.charge_from_hour * HOUR) / DAY)
    return days * length + min(phase, length)
