"""What the machine says of its power: the charge of its batteries, and whether it drains them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

SUPPLIES = Path("/sys/class/power_supply")
STATUS = {"Charging": True, "Full": True, "Not charging": True, "Discharging": False}


class Power(NamedTuple):
    """`battery` is the charge from 0 to 1, the mean of several; None: nobody can tell."""

    battery: float | None = None
    on_power: bool | None = None


def read_power(supplies: Path = SUPPLIES) -> Power:
    """What the batteries under `supplies` say (Linux, `BAT*/capacity` and `BAT*/status`).

    A device without one, or whose files cannot be read, tells nothing. One battery that drains is
    enough to be off power.
    """
    charges: list[float] = []
    states: list[bool] = []
    for battery in sorted(supplies.glob("BAT*")):
        capacity, status = _line(battery / "capacity"), _line(battery / "status")
        if capacity.isascii() and capacity.isdigit():
            charges.append(min(int(capacity), 100) / 100)
        if status in STATUS:
            states.append(STATUS[status])
    return Power(float(np.mean(charges)) if charges else None, all(states) if states else None)


def _line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):  # a battery was taken out, or its driver fails
        return ""
