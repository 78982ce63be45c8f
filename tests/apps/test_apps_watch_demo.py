"""`hedgerow demo` as a user runs it, cut to two rounds, and interrupted."""

import json
import os
import signal
from pathlib import Path

import pytest

from hedgerow.io import data
from tests.bench.processes import Command

WEARER = {"wearer", "alone_own", "alone_others", "federated", "personalised", "pooled"}
KEYS = {"wearers", "rounds", "bytes_up", "bytes_down", "bytes_kept", "seconds", "model_hash"}


def test_it_prints_one_json_object_and_leaves_nothing(tmp_path: Path) -> None:
    data.fetch("watch")
    with Command(tmp_path, "demo", "--rounds", "2", "--json", "--port", "0") as command:
        done = command.done(110)
        assert done.code == 0, done.err
        assert command.left_behind() == []
        assert command.files_left() == []
    assert len(done.out.splitlines()) == 1
    found = json.loads(done.out)
    assert set(found) == KEYS
    assert found["rounds"] == 2
    assert len(found["model_hash"]) == 64
    assert found["seconds"] > 0
    assert 2 * 10 * 51_100 < found["bytes_up"] < found["bytes_kept"]
    assert found["bytes_down"] > 0
    assert [row["wearer"] for row in found["wearers"]] == [str(n) for n in range(1, 11)]
    for row in found["wearers"]:
        assert set(row) == WEARER
        assert all(0 <= row[name] <= 1 for name in WEARER - {"wearer"})
    assert "page: http://127.0.0.1:" in done.err


def test_a_watch_that_dies_ends_it_at_once(tmp_path: Path) -> None:
    data.fetch("watch")
    with Command(tmp_path, "demo", "--json", "--port", "0", "--verbose") as command:
        command.wait_for("round_opened", 60)
        watches = [line for line in command.left_behind() if "hedgerow device" in line]
        assert all("--verbose" in line for line in watches)
        (third,) = [line for line in watches if "--wearer 3 " in line]
        os.kill(int(third.partition(" ")[0]), signal.SIGKILL)
        done = command.done(30)
        assert done.code == 1
        assert "watch 3 ended early" in done.err
        assert command.left_behind() == []


@pytest.mark.parametrize("moment", ["page: http", "round "])
def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tmp_path: Path, moment: str) -> None:
    data.fetch("watch")
    with Command(tmp_path, "demo", "--json", "--port", "0") as command:
        command.wait_for(moment, 60)
        command.interrupt()
        done = command.done(30)
        assert done.code == 130, done.err
        assert done.out == ""
        assert command.left_behind() == []
        assert command.files_left() == []
        assert "Traceback" not in done.err
