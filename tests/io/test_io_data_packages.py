"""Packages of other kinds than a wheel, and data sets with terms: small ones, made here."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hedgerow.cli import main
from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.io.data import cache, packages
from hedgerow.io.data.packages import DebianPackage, SourceArchive
from hedgerow.io.data.sources import Source

MEMBERS = {"./usr/share/small/a": b"apples", "./usr/share/small/b": b"pears, an odd number"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


WANTED = {name: digest(content) for name, content in MEMBERS.items()}


def tar(members: Mapping[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def ar(members: Mapping[str, bytes]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}".encode()
        parts += [head, b"`\n", content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


def deb(path: Path, members: Mapping[str, bytes] = MEMBERS) -> Path:
    names = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": tar(members, "w:xz"),
    }
    path.write_bytes(ar(names))
    return path


def upper(members: Mapping[str, bytes]) -> dict[str, bytes]:
    text = b"".join(content for _, content in sorted(members.items())).upper().decode()
    return {"small.npz": cache.packed({"text": np.array(text)})}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path / "cache"))
    source = Source(
        name="small",
        about="fruit",
        licence="Expat",
        package=DebianPackage("fruit", "1"),
        members=WANTED,
        convert=upper,
    )
    monkeypatch.setattr(data, "SOURCES", {"small": source})
    return source


def test_a_debian_package_is_read_without_being_installed(small: Source, tmp_path: Path) -> None:
    home = data.fetch("small", package=deb(tmp_path / "fruit.deb"))
    assert str(cache.arrays_of("small", "small.npz")["text"]) == "APPLESPEARS, AN ODD NUMBER"
    meta = data.meta_of(home)
    assert meta.source == "Debian fruit 1"
    listed = "".join(f"{WANTED[name]}  {name}\n" for name in sorted(WANTED))
    assert meta.source_sha256 == digest(listed.encode())


def test_apt_is_asked_for_it_where_it_is_not_installed(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == "apt-get" and command[-2:] == ["download", "fruit"]
        deb(cwd / "fruit_1_all.deb")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", answer)
    data.fetch("small")
    assert data.is_fetched("small")


def test_no_apt_says_what_else_will_do(small: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("apt-get")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(UsageError, match=r"no apt-get here.*apt-get download fruit.*--package"):
        data.fetch("small")


def test_what_debian_has_installed_is_used_and_checked(small: Source, tmp_path: Path) -> None:
    package = small.package
    wanted = {}
    for name, content in MEMBERS.items():
        path = tmp_path / Path(name).name
        path.write_bytes(content)
        wanted[str(path)] = digest(content)
    there = package.installed(wanted)
    assert there is not None and list(there.values()) == list(MEMBERS.values())
    path.write_bytes(b"plums")
    with pytest.raises(UsageError, match="was not opened"):
        package.installed(wanted)
    path.unlink()
    assert package.installed(wanted) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK a wheel", "no Debian package"),
        (ar({"debian-binary": b"2.0\n"}), "holds no data archive"),
        (ar({"data.tar.xz": b"not one"}), "cannot be opened here"),
        (ar({"data.tar.gz": tar({"./etc/passwd": b""}, "w:gz")}), "holds no ./usr/share/small/a"),
        (b"!<arch>\n" + b"x" * 60, "damaged at byte 8"),
        (
            ar({"data.tar.xz": tar({**MEMBERS, "./usr/share/small/b": b"x"}, "w:xz")}),
            "was not opened",
        ),
    ],
)
def test_what_is_no_such_package_is_refused(
    small: Source, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "fruit.deb"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        data.fetch("small", package=path)
    assert not data.is_fetched("small")


def test_a_source_archive_is_demanded_by_its_hash(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(MEMBERS, "w:gz")
    package = SourceArchive("fruit", "1", digest(archive))
    monkeypatch.setattr(data, "SOURCES", {"small": replace(small, package=package)})

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        # pip runs the archive's build backend: it must have been told which archive that may be.
        assert "--require-hashes" in command and "--no-deps" in command
        listed = Path(command[command.index("--requirement") + 1]).read_text("utf-8")
        assert listed == f"fruit==1 --hash=sha256:{digest(archive)}\n"
        (Path(command[command.index("--dest") + 1]) / "fruit-1.tar.gz").write_bytes(archive)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", answer)
    data.fetch("small")
    assert data.is_fetched("small")


def test_another_source_archive_is_not_opened(small: Source, tmp_path: Path) -> None:
    path = tmp_path / "fruit-1.tar.gz"
    path.write_bytes(tar(MEMBERS, "w:gz") + b"!")
    package = SourceArchive("fruit", "1", digest(tar(MEMBERS, "w:gz")))
    with pytest.raises(UsageError, match="was not opened"):
        package.members(path, WANTED)


def test_data_with_terms_wants_them_accepted(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = replace(small, licence="CC BY-NC 4.0", terms="Not for sale.")
    monkeypatch.setattr(data, "SOURCES", {"small": bound})
    package = ["--package", str(deb(tmp_path / "fruit.deb"))]
    runner = CliRunner()
    refused = runner.invoke(main, ["data", "fetch", "small", *package])
    assert refused.exit_code == 2
    assert "CC BY-NC 4.0. Not for sale." in refused.output and "--accept-licence" in refused.output
    assert not data.is_fetched("small")
    done = runner.invoke(main, ["data", "fetch", "small", *package, "--accept-licence"])
    assert done.exit_code == 0 and data.is_fetched("small")
    assert "Not for sale." in runner.invoke(main, ["data", "show", "small"]).output
    data.fetch("small")  # once it is there, it was accepted


def test_objects_are_never_put_in_the_cache() -> None:
    arrays: dict[str, Any] = {"fine": np.zeros(2), "not": np.array([None])}
    with pytest.raises(UsageError, match="'not' holds Python objects"):
        cache.packed(arrays)


def test_a_huge_member_is_not_read(
    small: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MEMBER_BYTES_MAX", 5)
    with pytest.raises(UsageError, match="claims 6 bytes"):
        data.fetch("small", package=deb(tmp_path / "fruit.deb"))
