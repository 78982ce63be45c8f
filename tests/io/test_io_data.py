"""Data sets: pinned, converted once, whole when read; and the sensor that plays them."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.cli import main
from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.io.data.cache import install, write
from hedgerow.io.data.packages import Wheel
from hedgerow.io.data.sources import members

MEMBER = "seglearn/data/watch_dataset.npy"


def raw_watch() -> dict[str, Any]:
    """As the package's file, but short; wearer, label and side stand in the samples."""
    x, y, subject, side = [], [], [], []
    for wearer in data.WATCH_WEARERS:
        for label in range(7):
            for arm in (0.0, 1.0):
                x.append(np.full((60, 6), wearer * 100 + label * 10 + arm))
                y.append(label)
                subject.append(wearer)
                side.append(arm)
    return {
        "X": x,
        "y": np.array(y),
        "subject": np.array(subject),
        "side": np.array(side),
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
    }


def pack(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MEMBER, member)
    return buffer.getvalue()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel, pinned in place of the real one; the cache is empty."""
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path / "cache"))
    buffer = io.BytesIO()
    np.save(buffer, np.array(raw_watch(), dtype=object), allow_pickle=True)
    path = tmp_path / "small.whl"
    path.write_bytes(pack(buffer.getvalue()))
    pinned = replace(
        data.SOURCES["watch"],
        package=Wheel("seglearn", "1.2.5", hashlib.sha256(path.read_bytes()).hexdigest()),
        members={MEMBER: hashlib.sha256(buffer.getvalue()).hexdigest()},
    )
    monkeypatch.setattr(data, "SOURCES", {"watch": pinned})
    return path


def no_download(*_args: object, **_kwargs: object) -> Path:
    raise AssertionError("went to the registry")


def pip_answers(code: int, error: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        assert "--no-deps" in command and "seglearn==1.2.5" in command
        return subprocess.CompletedProcess(command, code, "", error)

    return answer


def test_fetch_converts_once_and_reads_back(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not data.is_fetched("watch")
    home = data.fetch("watch", package=wheel)
    assert data.is_fetched("watch")
    monkeypatch.setattr(Wheel, "download", no_download)
    assert data.fetch("watch") == home  # whole and there: nothing is fetched again

    everybody = data.load_watch()
    assert list(everybody) == list(data.WATCH_WEARERS)
    third = everybody[3]
    assert len(third) == 14
    assert third[5].samples.dtype == np.float32 and third[5].samples.shape == (60, 6)
    assert third[5].samples[0, 0] == 321 and third[5].label == 2 and third[5].side == "right"
    assert third[4].side == "left"
    assert sorted(path.name for path in home.iterdir()) == [
        "meta.json",
        *(f"wearer-{wearer:02d}.npz" for wearer in data.WATCH_WEARERS),
    ]
    assert [path.name for path in home.parent.iterdir()] == ["watch"]  # no scratch left


def test_a_wearer_is_read_without_the_others(wheel: Path) -> None:
    home = data.fetch("watch", package=wheel)
    for path in home.glob("wearer-*.npz"):
        if path.name != "wearer-07.npz":
            path.unlink()
    assert len(data.load_wearer(7)) == 14
    with pytest.raises(UsageError, match=r"wearer-01\.npz cannot be read.*data fetch watch"):
        data.load_wearer(1)
    with pytest.raises(UsageError, match="no wearer 11"):
        data.load_wearer(11)


def test_a_damaged_file_is_refused_and_mended(wheel: Path) -> None:
    home = data.fetch("watch", package=wheel)
    path = home / "wearer-02.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UsageError, match="is damaged"):
        data.load_wearer(2)
    assert not data.is_fetched("watch")
    data.fetch("watch", package=wheel)
    assert path.read_bytes() == whole
    (home / "meta.json").write_text("{")
    with pytest.raises(UsageError, match=r"meta\.json is damaged"):
        data.load_wearer(2)
    data.fetch("watch", package=wheel)
    assert data.is_fetched("watch")


def test_nothing_is_unpickled_before_its_hash_is_checked(wheel: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (trap.touch, ())

    wheel.write_bytes(pack(pickle.dumps(Trap())))
    with pytest.raises(UsageError, match="was not opened"):
        data.fetch("watch", package=wheel)
    # The same when only the wheel's own hash was mended.
    source = data.SOURCES["watch"]
    package = Wheel("seglearn", "1.2.5", hashlib.sha256(wheel.read_bytes()).hexdigest())
    mended = replace(source, package=package)
    data.SOURCES["watch"] = mended  # type: ignore[index]  # the fixture's plain dict
    with pytest.raises(UsageError, match=r"watch_dataset\.npy has SHA-256"):
        data.fetch("watch", package=wheel)
    assert not trap.exists()
    assert not data.is_fetched("watch")


def test_a_failed_fetch_says_what_to_do(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip_answers(1, "ERROR: No matching distribution\n"))
    with pytest.raises(UsageError, match=r"No matching distribution.*--package FILE"):
        data.fetch("watch")
    monkeypatch.setattr(subprocess, "run", pip_answers(0, ""))
    with pytest.raises(UsageError, match=r"0 files .*whl came"):
        data.fetch("watch")

    def hang(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UsageError, match="longer than 5 s"):
        data.fetch("watch", seconds_max=5)
    with pytest.raises(UsageError, match="no data set 'clock'; wanted one of: watch"):
        data.fetch("clock")


def test_an_unwritable_cache_says_so(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_DATA", str(wheel / "below-a-file"))
    with pytest.raises(UsageError, match="HEDGEROW_DATA"):
        data.fetch("watch", package=wheel)


def test_who_comes_second_keeps_the_first(wheel: Path, tmp_path: Path) -> None:
    home = data.fetch("watch", package=wheel)
    before = (home / "meta.json").stat().st_ino
    source = data.SOURCES["watch"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = source.convert(members(source, scratch, wheel, 1.0))
    write(scratch / "fresh", data.meta_of(home), files)
    install(scratch / "fresh", home, scratch)
    assert (home / "meta.json").stat().st_ino == before


def test_the_commands_fetch_and_list(wheel: Path) -> None:
    runner = CliRunner()

    def run(*words: str) -> Result:
        return runner.invoke(main, ["data", *words])

    assert "BSD-3-Clause; not fetched" in run("list").output
    done = run("fetch", "watch", "--wheel", str(wheel))
    assert done.exit_code == 0 and "licence BSD-3-Clause" in done.output
    assert "BSD-3-Clause; fetched" in run("list").output
    listed = json.loads(run("list", "--json").output)
    assert [(one["name"], one["fetched"]) for one in listed["sets"]] == [("watch", True)]
    shown = json.loads(run("show", "watch", "--json").output)
    assert shown["files"]["wearer-03.npz"]["x_0"] == "float32 [60, 6]"
    assert "wearer-10.npz" in run("show", "watch").output
    failed = run("fetch", "clock")
    assert failed.exit_code == 2 and "wanted one of: watch" in failed.output


@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=4),
    share=st.floats(0.01, 0.99),
)
def test_a_split_in_time_loses_and_shares_nothing(lengths: list[int], share: float) -> None:
    whole = [
        data.Recording(np.arange(n * 6, dtype=np.float32).reshape(n, 6), index, "left")
        for index, n in enumerate(lengths)
    ]
    first, rest = data.split_in_time(whole, share)
    for both, a, b in zip(whole, first, rest, strict=True):
        assert len(a.samples) == int(share * len(both.samples))
        np.testing.assert_array_equal(np.concatenate([a.samples, b.samples]), both.samples)
        assert a.label == b.label == both.label


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        data.split_in_time([], 1.0)
