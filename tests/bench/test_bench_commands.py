"""What `hedgerow bench … --json` prints, and that nothing of it stays."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from hedgerow.serve.apps import app_bundle
from tests.bench.processes import Command


def printed(home: Path, *arguments: str) -> dict[str, Any]:
    with Command(home, "bench", *arguments, "--json") as command:
        done = command.done(90)
        assert done.code == 0, done.err
        assert command.left_behind() == []
        assert command.files_left() == []
    assert len(done.out.splitlines()) == 1
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_bench_round_prints_its_object_and_leaves_nothing(tmp_path: Path) -> None:
    found = printed(tmp_path, "round", "--devices", "3", "--rounds", "3")
    assert found["devices"] == found["processes"] == found["rounds"] == 3
    assert found["parameters"] == app_bundle("watch").manifest.layout.shared_size
    assert found["update_bytes"] == 4 * found["parameters"]
    assert 0 < found["round_seconds_median"] <= found["round_seconds_worst"]


def test_bench_inference_prints_its_object(tmp_path: Path) -> None:
    found = printed(tmp_path, "inference", "--windows", "200")
    assert {"bare_p50_us", "p50_us", "p99_us", "ratio"} <= set(found)
    assert found["windows"] == 200
    assert found["bare_p50_us"] > 0
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert abs(found["ratio"] - found["p50_us"] / found["bare_p50_us"]) < 0.02


def test_bench_footprint_keeps_to_what_a_device_may_cost(tmp_path: Path) -> None:
    found = printed(tmp_path, "footprint")
    assert set(found) == {
        *("installed_mb", "import_s", "infer_rss_mb", "infer_peak_mb"),
        *("model_rss_mb", "learn_rss_mb"),
    }
    assert 50 < found["installed_mb"] <= 250
    assert found["import_s"] > 0
    assert 10 < found["infer_rss_mb"] <= 70
    assert found["infer_rss_mb"] <= found["infer_peak_mb"] < found["learn_rss_mb"] <= 110
    assert 10 < found["model_rss_mb"] <= 70


def test_bench_round_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with Command(tmp_path, "bench", "round", "--devices", "3", "--rounds", "190") as command:
        command.wait_for("190 rounds", 30)
        wait_for_hosts(command)
        command.interrupt()
        assert command.done(30).code == 130
        assert command.left_behind() == []
        assert command.files_left() == []


def test_bench_round_ends_when_a_process_of_its_devices_does(tmp_path: Path) -> None:
    with Command(tmp_path, "bench", "round", "--devices", "3", "--rounds", "190") as command:
        wait_for_hosts(command)
        hosts = [line for line in command.left_behind() if "bench.round" in line]
        os.kill(int(hosts[0].partition(" ")[0]), signal.SIGKILL)
        done = command.done(30)
        assert done.code == 1
        assert "a process of devices ended with -9" in done.err
        assert command.left_behind() == []


def wait_for_hosts(command: Command) -> None:
    deadline = time.monotonic() + 60
    while sum("bench.round" in line for line in command.left_behind()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
