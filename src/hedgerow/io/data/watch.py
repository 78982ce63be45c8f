"""Smartwatch recordings of shoulder exercises: ten wearers, who are the natural clients.

D. M. Burns and others, "Shoulder physiotherapy exercise recognition", 2018, arXiv:1802.01489.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import arrays_of, packed
from hedgerow.io.data.packages import Wheel
from hedgerow.io.data.sources import Source

WATCH_LABELS = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius extension",
    "upright row",
)
"""The seven shoulder exercises; a recording's `label` is an index into this."""
WATCH_CHANNELS = (
    "acceleration x",
    "acceleration y",
    "acceleration z",
    "turn x",
    "turn y",
    "turn z",
)
WATCH_UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
WATCH_RATE_HZ = 50.0
WATCH_WEARERS = tuple(range(1, 11))

_MEMBER = "seglearn/data/watch_dataset.npy"
_CODES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Recording:
    """One exercise set of one wearer: `samples` f32 `[n, channels]`, `side` left or right."""

    samples: NDArray[np.float32]
    label: int
    side: str


def load_watch() -> dict[int, list[Recording]]:
    """The smartwatch recordings by wearer (1 to 10), 14 each. Needs `fetch("watch")` before."""
    return {wearer: load_wearer(wearer) for wearer in WATCH_WEARERS}


def load_wearer(wearer: int) -> list[Recording]:
    """One wearer's recordings; no other wearer's file is opened.

    Raises:
        UsageError: no such wearer; the data set is not in the cache or damaged.
    """
    if wearer not in WATCH_WEARERS:
        raise UsageError(
            f"no wearer {wearer!r}; wanted one of {WATCH_WEARERS[0]} to {WATCH_WEARERS[-1]}"
        )
    arrays = arrays_of("watch", _wearer_file(wearer))
    return [
        Recording(arrays[f"x_{index}"], int(label), _SIDES[int(side)])
        for index, (label, side) in enumerate(zip(arrays["labels"], arrays["sides"], strict=True))
    ]


TRAIN_SHARE = 0.7
"""The first 70% of each labelled recording is learned from, the rest tells how good that was."""


def split_in_time(
    recordings: Iterable[Recording], share: float
) -> tuple[list[Recording], list[Recording]]:
    """Cut each recording in two: its first `share` to learn from, the rest held out to judge by.

    No sample is in both parts, and what is held out always lies later than what was learned from.
    """
    if not 0.0 < share < 1.0:
        raise UsageError(f"share to learn from is {share}; wanted a number between 0 and 1")
    first, rest = [], []
    for recording in recordings:
        cut = int(share * len(recording.samples))
        first.append(replace(recording, samples=recording.samples[:cut]))
        rest.append(replace(recording, samples=recording.samples[cut:]))
    return first, rest


def _wearer_file(wearer: int) -> str:
    return f"wearer-{wearer:02d}.npz"


def _convert(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The pickled dictionary into one `.npz` a wearer. Only ever called with checked bytes."""
    raw: dict[str, Any] = np.load(io.BytesIO(members[_MEMBER]), allow_pickle=True).item()
    if list(raw["y_labels"]) != _CODES:
        raise UsageError(f"watch data has labels {raw['y_labels']}, wanted {_CODES}")
    files: dict[str, bytes] = {}
    for wearer in WATCH_WEARERS:
        own = np.flatnonzero(np.asarray(raw["subject"]) == wearer)
        arrays: dict[str, NDArray[Any]] = {
            f"x_{index}": np.ascontiguousarray(raw["X"][at], np.float32)
            for index, at in enumerate(own)
        }
        arrays["labels"] = np.asarray(raw["y"], np.int64)[own]
        arrays["sides"] = np.asarray(raw["side"], np.int64)[own]
        files[_wearer_file(wearer)] = packed(arrays)
    return files


SOURCE = Source(
    name="watch",
    about="smartwatch, 10 wearers, 7 shoulder exercises: 140 recordings of 6 channels at 50 Hz",
    licence="BSD-3-Clause",
    package=Wheel(
        "seglearn", "1.2.5", "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
    ),
    members={_MEMBER: "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"},
    convert=_convert,
)
