"""A year of seventeen buildings, hour by hour: the buildings are the natural clients.

Of the CityLearn challenge 2022: single-family houses in Fontana, California, with the weather, the
price of electricity and its carbon, which are the same for all. J. R. Vázquez-Canteli and others,
"CityLearn", 2020, arXiv:2012.10504.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import arrays_of, packed
from hedgerow.io.data.packages import Wheel
from hedgerow.io.data.sources import Source

HOURS = 8760
BUILDINGS = tuple(range(1, 18))
BUILDING_CHANNELS = (
    "load",
    "solar",
    "outdoor temperature",
    "humidity",
    "price",
    "carbon",
    "hour sine",
    "hour cosine",
    "weekend",
)
"""Load of the equipment in kWh; solar generation in W per installed kW; °C; %; $/kWh; kg CO₂/kWh;
where on the clock; 1 on a Saturday or Sunday."""

_FOLDER = "citylearn/data/citylearn_challenge_2022_phase_all/"
_LOAD = "Equipment Electric Power [kWh]"
_SOLAR = "Solar Generation [W/kW]"
_SHARED = {
    "weather": ("Outdoor Drybulb Temperature [C]", "Relative Humidity [%]"),
    "pricing": ("Electricity Pricing [$/kWh]",),
    "carbon_intensity": ("kg_CO2/kWh",),
}


@dataclass(frozen=True)
class Building:
    """One building's year: `hours` f32 `[8760, 9]`, columns as in `BUILDING_CHANNELS`."""

    name: str
    hours: NDArray[np.float32]


def load_buildings() -> list[Building]:
    """The seventeen, each a year long. Needs `fetch("buildings")` before, or raises UsageError."""
    arrays = arrays_of("buildings", "buildings.npz")
    return [Building(str(number), arrays[f"hours_{number}"]) for number in BUILDINGS]


def _convert(members: Mapping[str, bytes]) -> dict[str, bytes]:
    shared = [
        columns[name]
        for file, names in _SHARED.items()
        for columns in [_table(members[f"{_FOLDER}{file}.csv"], names)]
        for name in names
    ]
    arrays = {}
    for number in BUILDINGS:
        names = ("Hour", "Day Type", _LOAD, _SOLAR)
        own = _table(members[f"{_FOLDER}Building_{number}.csv"], names)
        turn = 2 * math.pi * own["Hour"] / 24
        weekend = np.isin(own["Day Type"], (6.0, 7.0))  # Monday is day 1
        columns = [own[_LOAD], own[_SOLAR], *shared, np.sin(turn), np.cos(turn), weekend]
        arrays[f"hours_{number}"] = np.stack(columns, 1).astype(np.float32)
    return {"buildings.npz": packed(arrays)}


def _table(data: bytes, names: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Columns of a CSV file with a header, by name, each of 8,760 hours."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    header, body = rows[0], [row for row in rows[1:] if row]
    if len(body) != HOURS or any(name not in header for name in names):
        raise UsageError(
            f"buildings have {len(body)} hours of {header}; wanted {HOURS} of {', '.join(names)}"
        )
    at = {name: header.index(name) for name in names}
    return {name: np.array([float(row[at[name]]) for row in body]) for name in names}


_SHA256 = {
    "Building_1": "fe1d37a466ac79606270d877b283fb5f84f84f247d5600f88e0d012bf099b9cc",
    "Building_2": "67081cfc1f57ffefc0dfaf739c355a61b3e709934b0efd6edacb682ed160dd87",
    "Building_3": "17442ea0652e631d2483f6d5f11b4879185578fbfbeeb8496e2f65028fc9f3af",
    "Building_4": "3c9dc744a9f95cb688ece5eb184c3e7e5d30a371672c3087f9236c6654509afc",
    "Building_5": "aa38c42611296f7a5b07bf6eadf9d2c8e878b1267fbd734762599dcffa285252",
    "Building_6": "a0db7470d058178d3d70dac1971628daa9f033181ab18202d0be9cd3d80f1253",
    "Building_7": "a3c2c4f5b6ce6219d05ebaa85b6f6bdca65487ce390c666bd68d84de3bc718c4",
    "Building_8": "5cb746bb75c3b0688bcc67f6276b229b5f6013b5c102bf75ccdbf2c629683a79",
    "Building_9": "a0c572c4c11808197fb1819710ed7f472bf1b4c7f950b3d92b4a294c3b0eba36",
    "Building_10": "0f3add6a16e32a8330021afb7edfd87dad1b300ee66b09e84ab91e6cafbcf52a",
    "Building_11": "49c620c01d0cad9ee597c23a16c0145cdd3c58adc384741392d59c4871262bc7",
    "Building_12": "b31125a6296e2210e65cc8205c0b0c243415fc23744a4964f243eff99b8f8881",
    "Building_13": "011eaaa8fdcf985cf27f74bc367dd96195e2f9e2911115bc19a509989edebf10",
    "Building_14": "30b73cc1d057092a83724856e871e36e858da868b9c72dde7b729c51e5ee8e45",
    "Building_15": "b1a3822986769ddb4b1b86b136af51726a3427df450cb742d07ef3e9307d2e98",
    "Building_16": "534e890c453bc639c4e55530f218235cf6127afcc7b7437506a3a68967e36dea",
    "Building_17": "a93f5d2f2507ff736a2002d8f3b183e0e216019f4e0d8e0af99ed6305d6f9f93",
    "weather": "e8f4cbbf90694f672f1595e8b59057fd4e01828e6d180d404cdcbe035ae12815",
    "carbon_intensity": "0fdd1247c5445a22b53a799f38d53e8254c939e8d0a978312107593c6c4c74c8",
    "pricing": "478a42fcc179ba270307b0791bffae0bf83e9d3d297cb6c81dcaa5c317c51231",
}
SOURCE = Source(
    name="buildings",
    about="17 houses over a year: load, solar generation, weather, price and carbon by the hour",
    licence="MIT",
    package=Wheel(
        "CityLearn", "2.1.2", "95730b1deed73b1f5a4d17eb8334be3c99efa4aef8677822378d62d8359511dd"
    ),
    members={f"{_FOLDER}{name}.csv": digest for name, digest in _SHA256.items()},
    convert=_convert,
)
