"""What learning may cost: every reason against it, the day's account, a share of a core."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from hedgerow.io import clock
from hedgerow.serve.onsite.budget import Budget, Gauges, MachineGauges, OnSiteSettings
from hedgerow.serve.onsite.pace import TICK_SECONDS, Pace

DAY = 86_400.0
FREE = Gauges(busy=0.2, celsius=50, on_power=True, available_bytes=2**31)


def budget(tmp_path: Path, **settings: float) -> Budget:
    given = msgspec.convert(settings, OnSiteSettings)
    return Budget(given, tmp_path / "spent.json", watts_per_core=2.0, cores=2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"busy": 0.9}, "the machine is busy (90%)"),
        ({"celsius": 80.0}, "80 °C, over 75"),
        ({"on_power": False}, "on battery"),
        ({"available_bytes": 2.0**20}, "only 1 MiB of memory are free"),
        # What the machine does not tell speaks against nothing.
        ({"busy": math.nan, "celsius": math.nan}, ""),
        ({"on_power": None, "available_bytes": math.nan}, ""),
    ],
)
def test_each_reason_against_learning(tmp_path: Path, change: dict[str, float], why: str) -> None:
    gauges = msgspec.structs.replace(FREE, **change)
    assert budget(tmp_path).blocked(gauges, DAY) == why


def test_its_own_work_is_not_held_against_it(tmp_path: Path) -> None:
    busy = msgspec.structs.replace(FREE, busy=0.9)
    assert budget(tmp_path).blocked(busy, DAY, own_cores=1.0) == ""
    assert "40%" in budget(tmp_path, load_max=0.3).blocked(busy, DAY, own_cores=1.0)


def test_a_battery_may_be_allowed(tmp_path: Path) -> None:
    gauges = msgspec.structs.replace(FREE, on_power=False)
    assert budget(tmp_path, on_battery=True).blocked(gauges, DAY) == ""


def test_joules_of_a_day_are_counted_over_restarts_and_begin_again(tmp_path: Path) -> None:
    first = budget(tmp_path, joules_per_day=100)
    first.took(40, 10 * DAY)  # 80 J
    first.keep()
    again = budget(tmp_path, joules_per_day=100)
    assert again.blocked(FREE, 10 * DAY + 5) == ""
    again.took(10, 10 * DAY + 6)
    again.keep()
    last = budget(tmp_path, joules_per_day=100)
    assert last.blocked(FREE, 10.9 * DAY) == "today's 100 J are spent"
    assert last.blocked(FREE, 3 * DAY) == "today's 100 J are spent"  # the clock was set back
    assert last.blocked(FREE, 11 * DAY) == "" and last.spent.cpu_seconds == 0


def test_a_torn_account_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "spent.json").write_text('{"day": 3, "cpu_')
    assert budget(tmp_path).spent.joules == 0


def test_the_machine_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/stat", "cpu 100 0 100 800 0 0 0 0 0 0\n")
    write("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 1024 kB\n")
    write("sys/class/thermal/thermal_zone0/temp", "61500\n")
    write("sys/class/power_supply/BAT0/capacity", "80\n")
    write("sys/class/power_supply/BAT0/status", "Discharging\n")
    gauges = MachineGauges(clock.monotonic, tmp_path)
    write("proc/stat", "cpu 130 0 130 840 0 0 0 0 0 0\n")
    got = gauges()
    assert got.busy == pytest.approx(0.6)
    assert (got.celsius, got.on_power, got.available_bytes) == (61.5, False, 2**20)


def test_a_machine_that_tells_nothing_says_so(tmp_path: Path) -> None:
    got = MachineGauges(clock.monotonic, tmp_path)()
    assert math.isnan(got.busy) and math.isnan(got.celsius) and math.isnan(got.available_bytes)
    assert got.on_power is None


def test_a_process_keeps_to_its_share_of_a_core_and_stops_when_it_must() -> None:
    loop = "\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as child:
        try:
            share = 0.3
            pace = Pace(child.pid, share, clock.monotonic)
            began, spent = clock.monotonic(), 0.0
            while clock.monotonic() - began < 2:
                spent += pace.measure()
                pace.steer()
                time.sleep(0.02)
            elapsed = clock.monotonic() - began
            assert 0 < spent <= share * elapsed + TICK_SECONDS + 0.2
            assert spent == pytest.approx(pace.cpu_seconds)
            pace.held = True
            pace.steer()
            pace.measure()
            before = pace.cpu_seconds
            time.sleep(0.3)
            pace.measure()
            assert pace.cpu_seconds - before <= 0.02
        finally:
            os.kill(child.pid, signal.SIGKILL)
