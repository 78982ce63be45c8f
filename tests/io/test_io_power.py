"""What a machine's batteries say, from folders like those of Linux."""

from pathlib import Path

import pytest

from hedgerow.io.power import Power, read_power


def battery(home: Path, name: str, **files: str) -> None:
    (home / name).mkdir()
    for file, text in files.items():
        (home / name / file).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("status", "on_power"),
    [
        ("Charging", True),
        ("Full", True),
        ("Not charging", True),
        ("Discharging", False),
        ("Unknown", None),
    ],
)
def test_a_battery_tells_its_charge_and_whether_it_drains(
    tmp_path: Path, status: str, on_power: bool | None
) -> None:
    battery(tmp_path, "BAT0", capacity="42", status=status)
    battery(tmp_path, "AC", online="1")
    assert read_power(tmp_path) == Power(0.42, on_power)


def test_of_two_batteries_one_that_drains_is_enough(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", capacity="100", status="Full")
    battery(tmp_path, "BAT1", capacity="50", status="Discharging")
    assert read_power(tmp_path) == Power(0.75, False)


def test_what_cannot_be_read_is_not_told(tmp_path: Path) -> None:
    assert read_power(tmp_path / "nowhere") == Power()
    assert read_power(tmp_path) == Power()
    battery(tmp_path, "BAT0", capacity="many", status="")
    battery(tmp_path, "BAT1")
    assert read_power(tmp_path) == Power()
    battery(tmp_path, "BAT2", capacity="104", status="Full")  # worn out of calibration
    assert read_power(tmp_path) == Power(1.0, True)
