"""The machine's own metrics, from a root of the test's and from the real one."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Reading
from hedgerow.io.sensors.system import METRICS, Machine
from tests.io.sensing import Clock, around, blocks, first, joined, sensor


def machine(root: Path) -> Path:
    """A small machine: one disk, one interface, two temperatures."""
    files = {
        "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\n",
        "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"
        "SwapTotal: 200 kB\nSwapFree: 150 kB\n",
        "proc/loadavg": "0.75 0.5 0.25 1/99 4242\n",
        "proc/diskstats": "   8 0 sda 9 0 100 0 9 0 200 0 0 0 0\n   8 1 sda1 9 0 100 0 9 0 200 0\n",
        "proc/net/dev": "Inter-| Receive\n face |bytes\n    lo: 999 0 0 0 0 0 0 0 999 0\n"
        "  eth0: 1000 0 0 0 0 0 0 0 2000 0\n",
        "proc/1/stat": "",
        "proc/42/stat": "",
        "sys/block/sda/device/model": "disk",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/hwmon/hwmon0/temp1_input": "55250\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_what_it_reads(tmp_path: Path) -> None:
    found = Machine(machine(tmp_path), tmp_path)
    found.begin(10.0)
    assert math.isnan(found.read("cpu_percent"))  # a rate takes two
    for name in METRICS:
        found.read(name)
    (tmp_path / "proc/stat").write_text("cpu  150 0 130 870 50 0 0 0 0 0\n")
    (tmp_path / "proc/diskstats").write_text("   8 0 sda 9 0 110 0 9 0 240 0 0 0 0\n")
    (tmp_path / "proc/net/dev").write_text(
        "Inter-| Receive\n face |bytes\n  eth0: 1500 0 0 0 0 0 0 0 2100 0\n"
    )
    found.begin(12.0)
    assert found.read("cpu_percent") == pytest.approx(40.0)  # 80 of 200, waiting is idle
    assert found.read("memory_percent") == pytest.approx(75.0)
    assert found.read("swap_percent") == pytest.approx(25.0)
    assert found.read("disk_read_bytes_per_second") == 10 * 512 / 2
    assert found.read("disk_written_bytes_per_second") == 40 * 512 / 2
    assert found.read("network_received_bytes_per_second") == 250
    assert found.read("network_sent_bytes_per_second") == 50
    assert found.read("temperature") == 55.25
    assert found.read("load") == 0.75
    assert found.read("processes") == 2
    assert 0 < found.read("disk_percent") < 100


def test_samples_come_evenly_and_rates_from_the_first(tmp_path: Path) -> None:
    clock, root = Clock(), machine(tmp_path)

    async def run() -> list[Reading]:
        given = sensor("system", root=str(root), block_seconds=5)
        channels = ["load", "network_sent_bytes_per_second"]
        return await first(given, around(channels, 1, clock=clock), 2)

    (one, two) = blocks(asyncio.run(run()))
    assert one.stream == "press 4" and len(one.samples) == 5
    assert one.time_seconds == clock.wall + 1  # the first reading has no rate yet
    assert two.time_seconds == one.time_seconds + 5
    assert joined([one, two])[:, 0].tolist() == [0.75] * 10
    assert joined([one, two])[:, 1].tolist() == [0.0] * 10


def test_this_machine() -> None:
    given = sensor(
        "system",
        metrics={"a": "cpu_percent", "b": "memory_percent"},
        stream="gateway",
        block_seconds=0.2,
    )
    ours = blocks(asyncio.run(first(given, around(["b", "a"], 20), 2)))
    assert {block.stream for block in ours} == {"gateway"}
    used = joined(ours)
    assert ((used >= 0) & (used <= 100)).all()


def test_a_metric_that_nobody_knows_or_tells_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no metric fan; there are cpu_percent"):
        sensor("system", metrics={"x": "fan"})
    with pytest.raises(UsageError, match=r"metrics names load.*add x"):
        asyncio.run(first(sensor("system"), around(["load", "x"], 1)))
    given = sensor("system", root=str(tmp_path))
    with pytest.raises(UsageError, match="does not tell temperature"):
        asyncio.run(first(given, around(["temperature"], 1)))
