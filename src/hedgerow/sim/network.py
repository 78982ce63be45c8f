"""Links: how long bytes take, and how they get lost, copied and cut off."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.sim import draws
from hedgerow.sim.energy import Share

Rate: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Spread: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=5)]


class Partition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time during which a `share` of the devices is cut off from the coordinator."""

    from_seconds: Annotated[float, msgspec.Meta(ge=0)]
    to_seconds: Annotated[float, msgspec.Meta(gt=0)]
    share: Share = 0.5

    def __post_init__(self) -> None:
        if self.to_seconds <= self.from_seconds:
            raise UsageError(
                f"a partition from {self.from_seconds:g} to {self.to_seconds:g} s has no length; "
                "set to_seconds above from_seconds"
            )


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links of the devices.

    Median bandwidth in bytes per second each way, `spread` of its logarithm from device to device
    (0: all the same), `latency_seconds` and up to as much again by chance for each message.
    `overhead_bytes` are added to each message (transport and encryption). A message is lost with
    probability `loss` and comes twice with `duplication`; a model's download fails with `loss` too.
    A `metered_share` of the devices pays for its bytes.
    """

    up_bytes_per_second: Rate = 500_000.0
    down_bytes_per_second: Rate = 2_000_000.0
    spread: Spread = 0.0
    latency_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.05
    overhead_bytes: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    duplication: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    metered_share: Share = 0.0
    partitions: Annotated[tuple[Partition, ...], msgspec.Meta(max_length=1000)] = ()


class Links:
    """One fleet's links. `up [N]`, `down [N]`: bytes per second; `metered [N]`."""

    def __init__(
        self,
        settings: NetworkSettings,
        factor: NDArray[np.float32],
        rng: np.random.Generator,
        seed: int,
    ) -> None:
        self.settings = settings
        devices = len(factor)
        spread = np.exp(settings.spread * rng.standard_normal((2, devices), np.float32)) * factor
        self.up: NDArray[np.float32] = np.float32(settings.up_bytes_per_second) * spread[0]
        self.down: NDArray[np.float32] = np.float32(settings.down_bytes_per_second) * spread[1]
        self.metered: NDArray[np.bool_] = rng.random(devices) < settings.metered_share
        self._key = draws.key(seed, "network")
        self.sent = 0
        self.free: dict[tuple[int, bool], float] = {}

    def arrivals(self, device: int, size: int, *, up: bool, moment: float) -> list[float]:
        """When a message of `size` bytes arrives: never, once, or twice.

        A link carries one message after the other, each way by itself.
        """
        settings = self.settings
        number, self.sent = self.sent, self.sent + 1
        rate = float((self.up if up else self.down)[device])
        start = max(moment, self.free.get((device, up), 0.0))
        end = start + (size + settings.overhead_bytes) / rate
        self.free[device, up] = end
        if self.cut(device, moment):
            return []
        if settings.loss and draws.uniform(self._key, number, 0) < settings.loss:
            return []
        copies = 1
        if settings.duplication and draws.uniform(self._key, number, 1) < settings.duplication:
            copies = 2
        return [end + self._latency(number, copy) for copy in range(copies)]

    def cut(self, device: int, moment: float) -> bool:
        """Whether a partition separates the device from the coordinator now."""
        return any(
            part.from_seconds <= moment < part.to_seconds
            and draws.uniform(self._key, device, 1_000 + index) < part.share
            for index, part in enumerate(self.settings.partitions)
        )

    def seconds(
        self, devices: NDArray[np.int64], up: int, down: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """How long a download of `down` and then an upload of `up` bytes take, `[K]`."""
        extra = self.settings.overhead_bytes
        seconds = (up + extra) / self.up[devices] + (down + extra) / self.down[devices]
        return np.asarray(seconds, np.float64) + 3 * self.settings.latency_seconds

    def _latency(self, number: int, copy: int) -> float:
        return self.settings.latency_seconds * (1 + draws.uniform(self._key, number, 2 + copy))
