"""Energy: RAPL, batteries and estimates, from a root of the test's and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerow.io.energy import EnergyAccount, EnergyMeter, EnergySettings

HZ = 100.0


class Machine:
    """`/proc` and `/sys` of a machine whose energy is what the test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds = 0.0
        self.work(0, 0)

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def work(self, ours: float, everybody: float, child: float = 0.0) -> None:
        """CPU seconds since the start."""
        for process, name, seconds in ((7, "edge (x) y", ours), (8, "worker", child)):
            ticks = round(seconds * HZ)
            fields = ["S", *["0"] * 10, str(ticks), "0", "0", "0", *["0"] * 30]
            self.write(f"proc/{process}/stat", f"{process} ({name}) {' '.join(fields)}")
        self.write("proc/7/task/7/children", "8")
        self.write("proc/8/task/8/children", "")
        self.write("proc/stat", f"cpu  {round(everybody * HZ)} 0 0 5000 70 0 0 0 0 0")

    def rapl(self, zone: str, name: str, microjoules: int, most: int = 10**9) -> None:
        at = f"sys/class/powercap/{zone}"
        self.write(f"{at}/name", name)
        self.write(f"{at}/energy_uj", microjoules)
        self.write(f"{at}/max_energy_range_uj", most)

    def battery(self, status: str, **numbers: int) -> None:
        self.write("sys/class/power_supply/BAT0/status", status)
        for name, number in numbers.items():
            self.write(f"sys/class/power_supply/BAT0/{name}", number)

    def meter(self, watts: float = 2.0) -> EnergyMeter:
        return EnergyMeter(
            watts_per_core=watts,
            root=self.root,
            process=7,
            monotonic=lambda: self.seconds,
            ticks_per_second=HZ,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_meter_it_is_cpu_time_by_watts_and_says_so(machine: Machine) -> None:
    meter = machine.meter(watts=3.0)
    machine.work(4.0, 100.0, child=1.0)
    reading = meter.joules()
    assert reading.joules == pytest.approx(15.0)
    assert (reading.source, reading.estimated, reading.machine_joules) == ("estimate", True, 0.0)
    assert "no RAPL" in meter.reason


def test_rapl_is_shared_out_by_cpu_time(machine: Machine) -> None:
    machine.rapl("intel-rapl:0", "package-0", 1_000_000)
    machine.rapl("intel-rapl:0:0", "core", 5_000_000)  # inside the package: not twice
    machine.rapl("intel-rapl:0:1", "dram", 2_000_000)
    machine.rapl("intel-rapl:1", "psys", 77_000_000)
    machine.work(10, 100)
    meter = machine.meter()
    machine.rapl("intel-rapl:0", "package-0", 41_000_000)
    machine.rapl("intel-rapl:0:0", "core", 30_000_000)
    machine.rapl("intel-rapl:0:1", "dram", 12_000_000)
    machine.rapl("intel-rapl:1", "psys", 99_000_000)
    machine.work(11, 110, child=1)
    reading = meter.joules()
    assert reading.machine_joules == pytest.approx(50.0)
    assert reading.joules == pytest.approx(10.0)  # two of ten CPU seconds
    assert (reading.source, reading.estimated, meter.reason) == ("rapl", False, "")


def test_a_counter_that_starts_over_is_followed(machine: Machine) -> None:
    machine.rapl("intel-rapl:0", "package-0", 990, most=1000)
    meter = machine.meter()
    machine.rapl("intel-rapl:0", "package-0", 15, most=1000)
    machine.work(1, 1)
    assert meter.joules().machine_joules == pytest.approx(25e-6)


def test_a_counter_that_only_root_may_read_is_named(machine: Machine) -> None:
    machine.rapl("intel-rapl:0", "package-0", 1)
    (machine.root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()  # root reads anything
    meter = machine.meter()
    assert "energy_uj cannot be read; it takes root" in meter.reason
    machine.work(1, 1)
    assert meter.joules().estimated


def test_a_counter_that_fails_for_a_while_is_estimated_meanwhile(machine: Machine) -> None:
    machine.rapl("intel-rapl:0", "package-0", 0)
    meter = machine.meter(watts=2.0)
    machine.write("sys/class/powercap/intel-rapl:0/energy_uj", "busy")
    machine.work(1, 1)
    assert meter.joules().joules == pytest.approx(2.0)
    machine.rapl("intel-rapl:0", "package-0", 9_000_000)
    machine.work(2, 2)
    assert meter.joules().joules == pytest.approx(4.0)  # where it starts from nobody knows
    machine.rapl("intel-rapl:0", "package-0", 10_000_000)
    machine.work(3, 3)
    reading = meter.joules()
    assert reading.joules == pytest.approx(5.0)
    assert reading.source == "rapl" and reading.estimated  # some of it was


def test_a_battery_that_drains_is_measured_and_one_that_charges_is_not(machine: Machine) -> None:
    machine.battery("Discharging", power_now=4_000_000)
    meter = machine.meter(watts=1.0)
    machine.seconds = 10
    machine.battery("Discharging", power_now=6_000_000)
    machine.work(5, 10)
    reading = meter.joules()
    assert reading.machine_joules == pytest.approx(50.0)  # 5 W for 10 s
    assert reading.joules == pytest.approx(25.0) and reading.source == "battery"
    assert not reading.estimated
    machine.seconds = 20
    machine.battery("Charging", power_now=20_000_000)
    machine.work(6, 20)
    reading = meter.joules()
    assert reading.joules == pytest.approx(26.0)
    assert (reading.source, reading.estimated) == ("estimate", True)


def test_a_battery_that_tells_current_and_voltage_and_its_sign(machine: Machine) -> None:
    machine.battery("Discharging", current_now=-500_000, voltage_now=4_000_000)
    meter = machine.meter()
    machine.seconds = 5
    machine.work(1, 1)
    assert meter.joules().machine_joules == pytest.approx(10.0)


def test_a_battery_is_not_taken_to_have_drained_alike_for_hours(machine: Machine) -> None:
    machine.battery("Discharging", power_now=4_000_000)
    meter = machine.meter(watts=1.0)
    machine.seconds = 3600
    machine.work(2, 10)
    reading = meter.joules()
    assert reading.joules == pytest.approx(2.0)
    assert (reading.source, reading.estimated) == ("estimate", True)


def test_joules_are_shared_out_over_what_was_done(machine: Machine) -> None:
    machine.rapl("intel-rapl:0", "package-0", 0)
    account = EnergyAccount(machine.meter())
    account.used("inference", cpu_seconds=2.0, count=1000)
    account.used("learning", cpu_seconds=4.0)
    machine.rapl("intel-rapl:0", "package-0", 20_000_000)
    machine.work(8, 10)
    account.settle()
    assert account.joules("inference") == pytest.approx(4.0)
    assert account.joules("learning") == pytest.approx(8.0)
    assert account.all() == pytest.approx({"inference": 4.0, "learning": 8.0, "other": 4.0})
    assert account.per("inference") == pytest.approx(0.004)
    assert account.per("round") is None
    account.used("round", cpu_seconds=1.0, count=1)
    machine.rapl("intel-rapl:0", "package-0", 30_000_000)
    machine.work(9, 11)
    reading = account.settle()
    assert account.per("round") == pytest.approx(10.0)
    assert sum(account.all().values()) == pytest.approx(reading.joules)


def test_more_claimed_than_the_kernel_counted_is_not_more_than_there_was(machine: Machine) -> None:
    account = EnergyAccount(machine.meter(watts=2.0))
    account.used("inference", cpu_seconds=0.004, count=1)
    account.settle()  # nothing counted yet: it comes to the next one
    account.used("inference", cpu_seconds=0.016, count=1)
    machine.work(0.01, 1)
    reading = account.settle()
    assert account.all() == pytest.approx({"inference": 0.02, "other": 0.0})
    assert reading.joules == pytest.approx(0.02)


def test_this_machine_and_the_children_of_this_process() -> None:
    meter = EnergyMeter()
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", busy + "\ntime.sleep(60)"])
    try:
        for _ in range(600):
            reading = meter.joules()
            if reading.cpu_seconds >= 0.5:  # it lives, and counts
                break
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert reading.cpu_seconds >= 0.5 and reading.joules > 0
    after = meter.joules()  # it ended, and counts on
    assert after.joules >= reading.joules and after.cpu_seconds >= reading.cpu_seconds
    assert reading.estimated == bool(meter.reason) or reading.source == "battery"


def test_elsewhere_than_on_linux_it_is_the_processs_own_time(tmp_path: Path) -> None:
    meter = EnergyMeter(root=tmp_path, process=os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert meter.joules().joules >= 0.08 * EnergySettings().watts_per_core
