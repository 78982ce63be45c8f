"""Bluetooth: what sensors say, decoded; scanning and connecting over a stand-in for the adapter.

No machine that runs the tests has a Bluetooth adapter. The stand-in is a backend of `bleak`: its
own scanner and client run, and what they ask of the operating system is answered here.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, ClassVar

import bleak
import pytest
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Gone, Reading, SensorDown
from hedgerow.io.sensors.beacons import BTHOME_NAMES, BTHOME_SERVICE, bthome, ruuvi
from tests.io.sensing import Clock, around, blocks, first, gaps, joined, sensor

ADDRESS = "AA:BB:CC:DD:EE:01"
UUID = "0000fff1-0000-1000-8000-00805f9b34fb"


def test_bthome_as_its_page_gives_it() -> None:
    assert bthome(bytes.fromhex("4002CA0903BF13")) == {
        "temperature": pytest.approx(25.06),
        "humidity": pytest.approx(50.55),
    }


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("4001610213FF", {"battery": 97, "temperature": -2.37}),
        ("4004138A01", {"pressure": 1008.83}),
        ("40450111", {"temperature": 435.3}),
        ("4058EA", {"temperature": -7.7}),
        ("402101", {"motion": 1}),
        ("401500", {"battery_low": 0}),
        ("402D01", {"window": 1}),
        ("400F01", {"on": 1}),
        (
            "4051871251000051FFFF",
            {"acceleration": 4.743, "acceleration_2": 0, "acceleration_3": 65.535},
        ),
        ("405C02FBFFFF", {"power": -12.78}),
        ("40026400F0123456", {"temperature": 1.0}),  # what follows nobody knows
        ("44026400", {"temperature": 1.0}),  # sent when something happened
    ],
)
def test_bthome_numbers(data: str, found: dict[str, float]) -> None:
    assert bthome(bytes.fromhex(data)) == {
        name: pytest.approx(value) for name, value in found.items()
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [("", "version"), ("2002CA09", "version"), ("4102CA09", "encrypted"), ("4002CA", "cut off")],
)
def test_what_is_no_bthome(data: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bthome(bytes.fromhex(data))


def test_ruuvi_as_its_page_gives_it() -> None:
    """The three vectors of the page of data format 5: valid, maximal, and no values."""
    assert ruuvi(bytes.fromhex("0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F")) == {
        "temperature": pytest.approx(24.3),
        "humidity": pytest.approx(53.49),
        "pressure": pytest.approx(1000.44),
        "acceleration_x": pytest.approx(0.004),
        "acceleration_y": pytest.approx(-0.004),
        "acceleration_z": pytest.approx(1.036),
        "voltage": pytest.approx(2.977),
        "movement": 66,
        "sequence": 205,
    }
    most = ruuvi(bytes.fromhex("057FFFFFFEFFFE7FFF7FFF7FFFFFDEFEFFFECBB8334C884F"))
    assert most["temperature"] == pytest.approx(163.835)
    assert most["pressure"] == pytest.approx(1155.34)
    assert most["voltage"] == pytest.approx(3.646)
    none = ruuvi(bytes.fromhex("058000FFFFFFFF800080008000FFFFFFFFFFFFFFFFFFFFFF"))
    assert all(map(math.isnan, none.values()))
    with pytest.raises(ValueError, match="no Ruuvi"):
        ruuvi(b"\x03" + bytes(17))


class Air:
    """What is in the air: advertisements and notifications, and who listens."""

    def __init__(self) -> None:
        self.scanners: set[Any] = set()
        self.clients: dict[str, Any] = {}
        self.off = False

    def advertise(
        self,
        address: str,
        *,
        service: dict[str, bytes] | None = None,
        company: dict[int, bytes] | None = None,
    ) -> None:
        data = AdvertisementData(None, company or {}, service or {}, [], None, -60, ())
        for scanner in self.scanners:
            scanner.call_detection_callbacks(BLEDevice(address, None, None), data)


class Scanner(BaseBleakScanner):
    """Scans in `air`."""

    air: ClassVar[Air]

    def __init__(self, callback: Any, uuids: Any, *_: object, **__: object) -> None:
        super().__init__(callback, uuids)

    async def start(self) -> None:
        if self.air.off:
            raise BleakError("No Bluetooth adapters found.")
        self.air.scanners.add(self)

    async def stop(self) -> None:
        self.air.scanners.discard(self)


class Client(BaseBleakClient):
    """Connects to whatever address there is in `air`."""

    air: ClassVar[Air]
    notified: Callable[[bytearray], None]

    @property
    def name(self) -> str:
        return self.address

    @property
    def mtu_size(self) -> int:
        return 247

    async def connect(self, *_: object, **__: object) -> None:
        if self.air.off:
            raise BleakError("not found")
        self.services = SimpleNamespace(  # type: ignore[assignment]
            get_characteristic=lambda uuid: SimpleNamespace(
                uuid=uuid, properties=["notify"], handle=1, descriptors=[]
            )
        )
        self.air.clients[self.address] = self

    async def disconnect(self) -> None:
        self.air.clients.pop(self.address, None)

    @property
    def is_connected(self) -> bool:
        return self.address in self.air.clients

    async def start_notify(self, characteristic: object, callback: Any, **_: object) -> None:
        self.notified = callback

    def lose(self) -> None:
        self.air.clients.pop(self.address)
        assert self._disconnected_callback is not None
        self._disconnected_callback()

    async def pair(self, *_: object, **__: object) -> None: ...
    async def unpair(self) -> None: ...
    async def read_gatt_char(self, *_: object, **__: object) -> bytearray:
        return bytearray()

    async def read_gatt_descriptor(self, *_: object, **__: object) -> bytearray:
        return bytearray()

    async def write_gatt_char(self, *_: object, **__: object) -> None: ...
    async def write_gatt_descriptor(self, *_: object, **__: object) -> None: ...
    async def stop_notify(self, *_: object) -> None: ...


@pytest.fixture
def air(monkeypatch: pytest.MonkeyPatch) -> Air:
    """Puts the stand-in in place of the operating system's Bluetooth."""
    Scanner.air = Client.air = made = Air()
    monkeypatch.setattr(bleak, "get_platform_scanner_backend_type", lambda: (Scanner, "test"))
    monkeypatch.setattr(bleak, "get_platform_client_backend_type", lambda: (Client, "test"))
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0)


def test_advertised_values_hold_until_the_next_and_a_silent_sensor_is_gone(air: Air) -> None:
    clock = Clock()
    given = sensor("ble", devices={"shed": ADDRESS.lower()}, stale_seconds=30)
    surroundings = around(["humidity", "temperature"], 1, clock=clock)

    async def until_gone(batches: AsyncGenerator[Sequence[Reading], None]) -> list[Reading]:
        taken: list[Reading] = []
        async with asyncio.timeout(90), aclosing(batches):
            while not taken or not isinstance(taken[-1], Gone):
                taken += await anext(batches)
        return taken

    async def run() -> list[Reading]:
        task = asyncio.create_task(until_gone(given.batches(surroundings)))
        await until(lambda: bool(air.scanners))
        began = clock.passed
        # Temperature and humidity come in turns; somebody else's sensor is nobody's business.
        air.advertise("AA:BB:CC:DD:EE:99", service={BTHOME_SERVICE: bytes.fromhex("40021111")})
        air.advertise(ADDRESS, service={BTHOME_SERVICE: bytes.fromhex("4002CA09")})
        await until(lambda: clock.passed > began + 5)
        air.advertise(ADDRESS, service={BTHOME_SERVICE: bytes.fromhex("4003BF13")})
        return await task

    readings = asyncio.run(run())
    ours = blocks(readings, "shed")
    rows = joined(ours)
    assert [round(value, 2) for value in rows[0].tolist()] == [50.55, 25.06]
    assert (rows == rows[0]).all() and max(map(abs, gaps(ours, 1)), default=0) < 1e-3
    # Each value holds for 30 s: the temperature was heard 5 s before.
    assert 23 <= len(rows) <= 27
    gone = readings[-1]
    assert isinstance(gone, Gone) and gone.reason == "not heard for 30 s"
    assert not air.scanners  # it stopped to scan


def test_notified_samples_come_evenly_in_their_unit(air: Air) -> None:
    clock = Clock()
    given = sensor(
        "ble",
        devices={"wrist": ADDRESS},
        characteristic=UUID,
        format="<hhh",
        skip=1,
        scale={"x": 0.001, "y": 0.001, "z": 0.001},
        fields={"x": 0, "y": 1, "z": 2},
        offset={"z": -1.0},
        block_seconds=0.05,
    )

    async def run() -> list[Reading]:
        task = asyncio.create_task(first(given, around(["z", "x", "y"], 50, clock=clock), 10))
        await until(lambda: ADDRESS in air.clients and hasattr(air.clients[ADDRESS], "notified"))
        client = air.clients[ADDRESS]
        client.notified(bytearray(b"\x00\x01"))  # half a packet
        for packet in range(10):
            clock.passed += 0.2
            rows = [(packet, at, 1000) for at in range(10)]
            client.notified(
                bytearray(b"\x07" + b"".join(struct.pack("<hhh", *row) for row in rows))
            )
            await asyncio.sleep(0.01)
        return await task

    ours = blocks(asyncio.run(run()), "wrist")
    rows = joined(ours)
    assert rows.shape == (100, 3)
    assert rows[25].tolist() == pytest.approx([0.0, 0.002, 0.005])
    assert max(map(abs, gaps(ours, 50))) <= 1.001
    assert ADDRESS not in air.clients  # let go of


def test_a_sensor_out_of_reach_or_no_adapter_is_down(air: Air) -> None:
    given = sensor("ble", devices={"a": ADDRESS}, characteristic=UUID, format="<h")

    async def lost() -> None:
        task = asyncio.create_task(first(given, around(["x"], 1)))
        await until(lambda: ADDRESS in air.clients)
        air.clients[ADDRESS].lose()
        await task

    with pytest.raises(SensorDown, match="a at AA:BB:CC:DD:EE:01 went out of reach"):
        asyncio.run(lost())
    air.off = True
    for each, said in (
        (given, "not found"),
        (sensor("ble", devices={"a": ADDRESS}), "No Bluetooth"),
    ):
        with pytest.raises(SensorDown, match=said):
            asyncio.run(first(each, around(["temperature"] if each is not given else ["x"], 1)))


def test_a_ruuvitag_and_a_company_of_ones_own(air: Air) -> None:
    tag = bytes.fromhex("0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F")
    own = sensor("ble", devices={"a": ADDRESS}, format=">Hb", company=0xFFFF, fields={"x": 1})
    for given, channel, company, data, value in (
        (sensor("ble", devices={"a": ADDRESS}, format="ruuvi"), "temperature", 0x0499, tag, 24.3),
        (own, "x", 0xFFFF, b"\x01\x00\xf6", -10),
    ):

        async def run(given: Any = given, channel: str = channel) -> list[Reading]:
            clock = Clock()
            task = asyncio.create_task(first(given, around([channel], 1, clock=clock), 1))
            await until(lambda: bool(air.scanners))
            air.advertise(ADDRESS, company={company: data})  # noqa: B023 run before the next
            return await task

        (block,) = blocks(asyncio.run(run()))
        assert block.samples[0, 0] == pytest.approx(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "hhh"}, "wanted bthome, ruuvi, or numbers"),
        ({"format": "<q?s"}, "no number"),
        ({"format": "<K"}, "none of Python's struct"),
        ({"format": "<h"}, "one of company"),
        ({"format": "<h", "company": 1, "service": "x"}, "one of company"),
        ({"characteristic": UUID}, "bthome is advertised"),
        ({"devices": {}}, "devices"),
    ],
)
def test_settings_that_cannot_work_say_so(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sensor("ble", **({"devices": {"a": ADDRESS}} | settings))


@pytest.mark.parametrize(
    ("settings", "channels", "said"),
    [
        ({}, ["colour"], "bthome has no value 'colour'"),
        ({"format": "<hh", "company": 1}, ["a", "b", "c"], "format '<hh' has 2 numbers, 0 to 1"),
        ({"scale": {"x": 1}}, ["temperature"], "scale names x"),
    ],
)
def test_channels_that_no_packet_holds_are_named(
    settings: dict[str, object], channels: list[str], said: str
) -> None:
    given = sensor("ble", devices={"a": ADDRESS}, **settings)
    with pytest.raises(UsageError, match=said):
        asyncio.run(first(given, around(channels, 1)))


def test_names_of_bthome_are_told_apart() -> None:
    assert {"acceleration", "battery", "battery_low", "window"} <= BTHOME_NAMES
