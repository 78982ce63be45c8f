"""The cache of data sets: safe files, written once, checked whenever they are read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError


class SafeFile(msgspec.Struct, frozen=True):
    """A file of the cache: its length and hash as they were at conversion."""

    size: int
    sha256: str


class Meta(msgspec.Struct, frozen=True):
    """`meta.json` of a cached data set; `source_sha256` of all the files it was made from."""

    name: str
    source: str
    source_sha256: str
    licence: str
    files: dict[str, SafeFile]


def cache_dir() -> Path:
    """Where data sets lie: `HEDGEROW_DATA`, or the user's cache directory."""
    chosen = os.environ.get("HEDGEROW_DATA", "")
    return Path(chosen) if chosen else platformdirs.user_cache_path("hedgerow") / "data"


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as one `.npz`. Objects, which would be pickled, are no arrays here."""
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise UsageError(f"array {objects[0]!r} holds Python objects; wanted numbers or text")
    buffer = io.BytesIO()
    values: dict[str, Any] = dict(arrays)
    np.savez(buffer, **values)
    return buffer.getvalue()


def arrays_of(name: str, file: str) -> dict[str, NDArray[Any]]:
    """The arrays of one file of data set `name`, whole and as converted.

    Raises:
        UsageError: the data set is not in the cache, or damaged.
    """
    home = cache_dir() / name
    data = read(home, meta_of(home), file)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def shapes_of(name: str, file: str) -> dict[str, str]:
    """Type and shape of each array in one file of data set `name`, as text; see `arrays_of`."""
    arrays = arrays_of(name, file)
    return {key: f"{array.dtype} {list(array.shape)}" for key, array in arrays.items()}


def meta_of(home: Path) -> Meta:
    """What `meta.json` says, or UsageError."""
    remedy = f"run `hedgerow data fetch {home.name}`"
    try:
        return msgspec.json.decode((home / "meta.json").read_bytes(), type=Meta)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"data set {home.name!r} is not in {home.parent}; {remedy}") from None
    except OSError as error:
        raise UsageError(f"{home / 'meta.json'} cannot be read ({error}); {remedy}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{home / 'meta.json'} is damaged ({error}); {remedy}") from error


def read(home: Path, meta: Meta, name: str) -> bytes:
    """One file, whole and as converted, or UsageError."""
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


def check_all(home: Path) -> None:
    """Raises UsageError unless every file is there and whole."""
    meta = meta_of(home)
    for name in meta.files:
        read(home, meta, name)


def write(home: Path, meta: Meta, files: Mapping[str, bytes]) -> None:
    """Files and then `meta.json` with their hashes, each flushed to the disk."""
    home.mkdir()
    listed = {
        name: SafeFile(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    whole = msgspec.structs.replace(meta, files=listed)
    text = msgspec.json.format(msgspec.json.encode(whole), indent=2)
    for name, data in [*files.items(), ("meta.json", text)]:
        with (home / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def install(fresh: Path, home: Path, scratch: Path) -> None:
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
            check_all(home)
            return
        # What lies there is damaged. Another process may have moved it or mended it meanwhile.
        with contextlib.suppress(OSError):
            home.rename(scratch / f"damaged-{len(list(scratch.iterdir()))}")
