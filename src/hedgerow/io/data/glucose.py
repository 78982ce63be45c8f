"""Glucose of nineteen people, about every five minutes: the people are the natural clients.

H. Hall and others, "Glucotypes reveal new patterns of glucose dysregulation", PLoS Biology 16(7),
2018.
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
from hedgerow.io.data.packages import SourceArchive
from hedgerow.io.data.sources import Source

_MEMBER = "iglu_python-0.4.3/tests/data/example_data_hall.csv"
_COLUMNS = ("id", "time", "gl", "diagnosis")


@dataclass(frozen=True)
class Person:
    """One person's readings: `seconds` int64 `[n]` since 1970, local; `level` f32 `[n]`, mg/dL."""

    name: str
    diagnosis: str
    seconds: NDArray[np.int64]
    level: NDArray[np.float32]


def load_glucose() -> list[Person]:
    """The nineteen people, readings in order of time.

    Needs `fetch("glucose", accept_licence=True)` before, or raises UsageError.
    """
    arrays = arrays_of("glucose", "glucose.npz")
    pairs = zip(arrays["names"].tolist(), arrays["diagnoses"].tolist(), strict=True)
    return [
        Person(name, diagnosis, arrays[f"seconds_{at}"], arrays[f"level_{at}"])
        for at, (name, diagnosis) in enumerate(pairs)
    ]


def _convert(members: Mapping[str, bytes]) -> dict[str, bytes]:
    rows = list(csv.reader(io.StringIO(members[_MEMBER].decode("utf-8-sig"))))
    header, body = rows[0], [row for row in rows[1:] if row]
    if any(name not in header for name in _COLUMNS):
        raise UsageError(f"glucose has columns {header}; wanted {', '.join(_COLUMNS)}")
    who, when, level, diagnosis = (
        np.array([row[header.index(name)] for row in body]) for name in _COLUMNS
    )
    seconds = when.astype("datetime64[s]").astype(np.int64)
    names, first = np.unique(who, return_index=True)
    arrays = {"names": names, "diagnoses": diagnosis[first]}
    for at, name in enumerate(names):
        own = np.flatnonzero(who == name)
        own = own[np.argsort(seconds[own], kind="stable")]
        arrays[f"seconds_{at}"] = seconds[own]
        arrays[f"level_{at}"] = level[own].astype(np.float32)
    return {"glucose.npz": packed(arrays)}


SOURCE = Source(
    name="glucose",
    about="glucose of 19 people about every 5 minutes, 34,890 readings",
    licence="unclear",
    package=SourceArchive(
        "iglu-python", "0.4.3", "7ece97cd50fbf0eae95572c830908225cbfecc37d2ef4475a8cf02d3462bf4dd"
    ),
    members={_MEMBER: "c81aea52eb04b9936c95f0e41e99df61e0ef2860b42618c8d84c615f38f04892"},
    convert=_convert,
    terms=(
        "It came with a study of people in 2018; the package it lies in is under the GPL 2, and "
        "whether that covers the readings is not said. Look at them, and do not pass them on."
    ),
)
