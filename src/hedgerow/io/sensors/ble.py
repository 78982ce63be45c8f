"""Bluetooth Low Energy: what sensors advertise to all, or notify to who connects."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.sensors.base import Block, Gone, Reading, Sensor, SensorDown
from hedgerow.io.sensors.beacons import (
    BTHOME_NAMES,
    BTHOME_SERVICE,
    RUUVI_COMPANY,
    RUUVI_NAMES,
    bthome,
    ruuvi,
)
from hedgerow.io.sensors.grid import Held, SampleClock, in_order
from hedgerow.io.sensors.mailbox import Mailbox
from hedgerow.io.surroundings import Surroundings

if TYPE_CHECKING:
    from bleak.backends.characteristic import BleakGATTCharacteristic
    from bleak.backends.device import BLEDevice
    from bleak.backends.scanner import AdvertisementData

_log = logging.getLogger(__name__)
_NOTES_WAITING: Final = 1024
_Note: TypeAlias = tuple[str, float, bytes]


class Ble(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sensors at the addresses of `devices` (stream → address).

    Without `characteristic` it listens to advertisements; values hold until the next one, for at
    most `stale_seconds`. With it, it connects and takes notifications, each with one or more
    samples that come at the model's rate. `format`: `bthome`, `ruuvi`, or a format of Python's
    `struct` such as `<hhh`. `fields`: for each channel the name of a value, or with `struct` its
    place from 0; `scale` and `offset` turn raw numbers into the channel's unit.
    """

    devices: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    format: str = "bthome"
    fields: dict[str, int | str] = msgspec.field(default_factory=dict)
    scale: dict[str, float] = msgspec.field(default_factory=dict)
    offset: dict[str, float] = msgspec.field(default_factory=dict)
    characteristic: str = ""
    company: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] | None = None
    service: str = ""
    skip: Annotated[int, msgspec.Meta(ge=0, le=512)] = 0
    adapter: str = ""
    passive: bool = False
    stale_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)] = 20.0
    block_seconds: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 1.0

    def __post_init__(self) -> None:
        if self.format in {"bthome", "ruuvi"}:
            if self.characteristic:
                raise UsageError(
                    f"{self.format} is advertised, not notified; take characteristic out"
                )
            return
        if not self.format.startswith(("<", ">")):
            raise UsageError(
                f"format is {self.format!r}; wanted bthome, ruuvi, or numbers such as '<hhh': < "
                "for the least byte first, and a letter of Python's struct for each"
            )
        try:
            size = struct.calcsize(self.format)
        except struct.error as error:
            raise UsageError(
                f"format {self.format!r} is none of Python's struct: {error}"
            ) from error
        if size == 0 or any(letter in self.format for letter in "scp"):
            raise UsageError(f"format {self.format!r} holds what is no number")
        if not self.characteristic and (self.company is None) == (not self.service):
            raise UsageError(
                "wanted one of company (a number) and service (a UUID), whose advertised data "
                "holds the numbers, or characteristic (a UUID) to connect and be notified"
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Blocks every `block_seconds`; see `Sensor.batches`."""
        decode = self._decoder(around)
        with needs("ble"):
            from bleak.exc import BleakError
        mailbox: Mailbox[_Note] = Mailbox(_NOTES_WAITING, lossy=True)
        async with AsyncExitStack() as stack:
            try:
                if self.characteristic:
                    for stream, address in self.devices.items():
                        await self._connect(stack, stream, address, mailbox, around)
                else:
                    await self._scan(stack, mailbox, around)
            except (BleakError, OSError, TimeoutError) as error:
                raise SensorDown(
                    f"no Bluetooth: {str(error) or type(error).__name__}; switch the adapter and "
                    "the sensor on, and let this user speak to bluetoothd"
                ) from error
            taken = self._notified if self.characteristic else self._advertised
            async with aclosing(taken(mailbox, decode, around)) as given:
                async for readings in given:
                    yield readings

    async def _advertised(
        self, mailbox: Mailbox[_Note], decode: _Decode, around: Surroundings
    ) -> AsyncGenerator[list[Reading], None]:
        """Values on the model's grid, each held until the next."""
        stale = max(self.stale_seconds, 1.5 / around.rate_hz)

        def nothing() -> Held:
            return Held(len(around.channels), around.rate_hz, stale_seconds=stale)

        held = {stream: nothing() for stream in self.devices}
        heard = dict.fromkeys(self.devices, False)
        silent: dict[str, float] = {}
        while True:
            await around.sleep(self.block_seconds)
            for stream, seconds, data in mailbox.waiting():
                for row in decode(stream, data):
                    heard[stream] = True
                    silent[stream] = seconds
                    for channel, value in enumerate(row.tolist()):
                        if not math.isnan(value):  # this packet does not say
                            held[stream].put(channel, seconds, value)
            now = around.now()
            out: list[Reading] = []
            for stream, grid in held.items():
                out += [Block(stream, first, samples) for first, samples in grid.until(now)]
                if heard[stream] and now - silent[stream] > stale:
                    heard[stream], held[stream] = False, nothing()
                    out.append(Gone(stream, now, f"not heard for {stale:g} s"))
            if out:
                yield out

    async def _notified(
        self, mailbox: Mailbox[_Note], decode: _Decode, around: Surroundings
    ) -> AsyncGenerator[list[Reading], None]:
        """Samples as they were counted, timed by when their packets came."""
        clocks = {stream: SampleClock(around.rate_hz) for stream in self.devices}
        lost = 0
        while notes := await mailbox.take():
            if mailbox.lost > lost:
                lost = mailbox.lost
                for clock in clocks.values():
                    clock.lost()
            out: list[Reading] = []
            for stream, seconds, data in notes:
                samples = decode(stream, data)
                if len(samples):
                    out.append(Block(stream, clocks[stream].stamp(len(samples), seconds), samples))
            if out:
                yield out
            await around.sleep(self.block_seconds)

    async def _scan(
        self, stack: AsyncExitStack, mailbox: Mailbox[_Note], around: Surroundings
    ) -> None:
        from bleak import BleakScanner

        streams = {address.upper(): stream for stream, address in self.devices.items()}

        def detected(device: BLEDevice, advertised: AdvertisementData) -> None:
            stream = streams.get(device.address.upper())
            data = None if stream is None else self._payload(advertised)
            if stream is not None and data is not None:
                mailbox.put((stream, around.now(), data))

        await stack.enter_async_context(
            BleakScanner(
                detected,
                scanning_mode="passive" if self.passive else "active",
                bluez={"adapter": self.adapter} if self.adapter else {},
            )
        )

    def _payload(self, advertised: AdvertisementData) -> bytes | None:
        company = RUUVI_COMPANY if self.format == "ruuvi" else self.company
        if company is not None:
            return advertised.manufacturer_data.get(company)
        service = BTHOME_SERVICE if self.format == "bthome" else self.service.lower()
        return advertised.service_data.get(service)

    async def _connect(
        self,
        stack: AsyncExitStack,
        stream: str,
        address: str,
        mailbox: Mailbox[_Note],
        around: Surroundings,
    ) -> None:
        from bleak import BleakClient

        def parted(_client: BleakClient) -> None:
            mailbox.close(SensorDown(f"{stream} at {address} went out of reach; it is tried again"))

        def notified(_sender: BleakGATTCharacteristic, data: bytearray) -> None:
            mailbox.put((stream, around.now(), bytes(data)))

        client = BleakClient(
            address,
            disconnected_callback=parted,
            timeout=self.timeout_seconds,
            bluez={"adapter": self.adapter} if self.adapter else {},
        )
        await stack.enter_async_context(client)
        await client.start_notify(self.characteristic, notified)

    def _decoder(self, around: Surroundings) -> _Decode:
        """What turns a packet of a stream into samples `[n, channels]`; none if it cannot be."""
        channels = around.channels
        for setting, given in (("scale", self.scale), ("offset", self.offset)):
            unknown = sorted(set(given) - set(channels))
            if unknown:
                raise UsageError(
                    f"{setting} names {', '.join(unknown)}; wanted {', '.join(channels)}"
                )
        scale = np.array([self.scale.get(channel, 1.0) for channel in channels])
        offset = np.array([self.offset.get(channel, 0.0) for channel in channels])
        numbers: Callable[[bytes], NDArray[np.float64]]
        if self.format in {"bthome", "ruuvi"}:
            numbers = partial(self._by_name, self._names(around))
        else:
            numbers = partial(self._packed, self._places(around))
        bad: dict[str, int] = {}

        def decode(stream: str, data: bytes) -> NDArray[np.float32]:
            try:
                made = numbers(data)
            except (ValueError, struct.error, LookupError) as error:
                bad[stream] = bad.get(stream, 0) + 1
                if bad[stream] & (bad[stream] - 1) == 0:  # 1, 2, 4, 8 …
                    _log.warning("%s: %d packets cannot be used: %s", stream, bad[stream], error)
                return np.empty((0, len(channels)), np.float32)
            samples: NDArray[np.float32] = (made * scale + offset).astype(np.float32)
            return samples

        return decode

    def _names(self, around: Surroundings) -> list[str]:
        given: Mapping[str, int | str] = self.fields or {name: name for name in around.channels}
        names = [str(name) for name in in_order(given, around, "fields")]
        known = BTHOME_NAMES if self.format == "bthome" else frozenset(RUUVI_NAMES)
        for name in names:
            if name not in known and name.rstrip("0123456789").rstrip("_") not in known:
                raise UsageError(
                    f"{self.format} has no value {name!r}; it has {', '.join(sorted(known))}"
                )
        return names

    def _places(self, around: Surroundings) -> list[int]:
        given = self.fields or {name: at for at, name in enumerate(around.channels)}
        count = len(struct.unpack(self.format, bytes(struct.calcsize(self.format))))
        places = in_order(given, around, "fields")
        if not all(isinstance(place, int) and 0 <= place < count for place in places):
            raise UsageError(
                f"fields names places {', '.join(map(str, places))}; format {self.format!r} has "
                f"{count} numbers, 0 to {count - 1}"
            )
        return [int(place) for place in places]

    def _by_name(self, names: Sequence[str], data: bytes) -> NDArray[np.float64]:
        values = (bthome if self.format == "bthome" else ruuvi)(data)
        if not any(name in values for name in names):  # some sensors take turns with two packets
            return np.empty((0, len(names)))
        return np.array([[values.get(name, math.nan) for name in names]])

    def _packed(self, places: Sequence[int], data: bytes) -> NDArray[np.float64]:
        data = data[self.skip :]
        size = struct.calcsize(self.format)
        if not data or len(data) % size:
            raise ValueError(f"{len(data)} bytes after skip; wanted a multiple of {size}")
        rows = np.array(list(struct.iter_unpack(self.format, data)), np.float64)
        return rows[:, places] if self.characteristic else rows[-1:, places]


_Decode: TypeAlias = Callable[[str, bytes], NDArray[np.float32]]
