"""The devices of a fleet: how fast each computes, its link, its battery, and when it is there.

Everything is drawn from the seed; a fleet of a million takes some forty bytes a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.sim import draws
from hedgerow.sim.availability import HOUR, Always, AnyAvailability, Presence
from hedgerow.sim.energy import Batteries, EnergySettings
from hedgerow.sim.network import Links, NetworkSettings, Spread


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of device: `weight` of the fleet relative to the other tiers.

    It needs `slower` times the seconds a sample, has `bandwidth` times the bytes per second, and
    keeps hours of its own where `availability` is given. `width` is the form of the model that
    it trains, where the algorithm has several (`resource_aware`): 0 is the whole one.
    """

    name: str = ""
    weight: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    slower: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    bandwidth: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    availability: AnyAvailability | None = None
    width: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How devices compute.

    A sample takes `seconds_per_sample` to train on (the median; `spread` of its logarithm from
    device to device), and each round's training `start_seconds` more. `crash_hours` is the mean
    time between two power losses of a device (0: none); it is back after `restart_seconds`.
    """

    seconds_per_sample: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.005
    spread: Spread = 0.0
    start_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.5
    tiers: Annotated[tuple[Tier, ...], msgspec.Meta(max_length=100)] = ()
    check_in_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)] = 30.0
    crash_hours: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    restart_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 60.0


class Surroundings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that surrounds the devices: the tables of an experiment that say so."""

    devices: DeviceSettings = DeviceSettings()
    network: NetworkSettings = NetworkSettings()
    energy: EnergySettings = EnergySettings()
    availability: AnyAvailability = Always()


@dataclass(frozen=True)
class Devices:
    """One fleet of N. `slowness [N]`: seconds a sample; `tier [N]`: places in `tiers`."""

    settings: DeviceSettings
    slowness: NDArray[np.float32]
    tier: NDArray[np.int8]
    links: Links
    batteries: Batteries
    presences: tuple[Presence, ...]
    crash_key: int
    around: AnyAvailability

    @classmethod
    def draw(cls, around: Surroundings, devices: int, seed: int) -> Devices:
        """A fleet of that many.

        Raises:
            UsageError: there are none, or a trace cannot be read.
        """
        if devices < 1:
            raise UsageError(f"a fleet of {devices} devices was asked for; wanted at least one")
        settings = around.devices
        tiers = settings.tiers or (Tier(),)
        rng = stream(seed, "devices")
        shares = np.array([tier.weight for tier in tiers])
        edges = np.cumsum(shares / shares.sum())
        picked = np.searchsorted(edges[:-1], rng.random(devices), side="right").astype(np.int8)
        spread = np.exp(settings.spread * rng.standard_normal(devices, np.float32))
        slower = np.array([tier.slower for tier in tiers], np.float32)[picked]
        factor = np.array([tier.bandwidth for tier in tiers], np.float32)[picked]
        presences = tuple(
            (tier.availability or around.availability).presence(seed) for tier in tiers
        )
        return cls(
            settings,
            np.float32(settings.seconds_per_sample) * spread * slower,
            picked,
            Links(around.network, factor, stream(seed, "links"), seed),
            Batteries(around.energy, devices, stream(seed, "batteries")),
            presences,
            draws.key(seed, "crashes"),
            around.availability,
        )

    def __len__(self) -> int:
        """N."""
        return len(self.slowness)

    def online(self, device: int, moment: float) -> bool:
        """Whether the device can be reached at `moment`."""
        return self.presences[int(self.tier[device])].online(device, moment)

    def present(self, moment: float) -> NDArray[np.int64]:
        """All that can be reached at `moment`, in order."""
        everybody = np.arange(len(self), dtype=np.int64)
        tiers, around = self.settings.tiers or (Tier(),), self.around
        if all(isinstance(tier.availability or around, Always) for tier in tiers):
            return everybody
        here = (self.online(device, moment) for device in range(len(self)))
        return everybody[np.fromiter(here, np.bool_, len(self))]

    def change_after(self, device: int, moment: float) -> float:
        """When that changes next."""
        return self.presences[int(self.tier[device])].change_after(device, moment)

    def train_seconds(
        self, devices: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """How long training over so many samples takes each, `[K]`."""
        seconds = self.slowness[devices].astype(np.float64) * samples
        return seconds + self.settings.start_seconds

    def widths(self) -> NDArray[np.int64]:
        """The form of the model each device trains, `[N]`."""
        tiers = self.settings.tiers or (Tier(),)
        return np.array([tier.width for tier in tiers], np.int64)[self.tier]

    def crash_after(self, device: int, life: int) -> float:
        """Seconds from a device's start number `life` to its power loss."""
        return draws.exponential(self.crash_key, device, life, HOUR * self.settings.crash_hours)

    def kept(self) -> dict[str, Any]:
        """What changes as time goes by."""
        batteries, links = self.batteries, self.links
        charge = (batteries.spent, batteries.level, batteries.since, batteries.total)
        return {"charge": charge, "sent": links.sent, "free": links.free}

    def restore(self, kept: dict[str, Any]) -> None:
        """As `kept` had it."""
        batteries, links = self.batteries, self.links
        batteries.spent, batteries.level, batteries.since, batteries.total = kept["charge"]
        links.sent, links.free = kept["sent"], kept["free"]
