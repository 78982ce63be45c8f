"""`hedgerow device` as a service manager runs it: ready, alive, asked for its status, ended."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_SECONDS = 60.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def hedgerow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hedgerow", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def test_a_device_is_ready_alive_asked_and_ended(tmp_path: Path, listener: socket.socket) -> None:
    state = tmp_path / "state"
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "400000",
        "HEDGEROW_LOG_FORMAT": "json",
        "HEDGEROW_STATE": str(state),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "hedgerow", "device", "--verbose", "--name", "hall 3"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--set", "console.port=0"], env=environment, stderr=log, stdout=log
        )
    try:
        assert b"READY=1" in listener.recv(4096)
        beats = [listener.recv(4096) for _ in range(3)]
        assert all(beat == b"WATCHDOG=1" for beat in beats if not beat.startswith(b"STATUS="))
        told = json.loads(hedgerow("status", "--state", str(state), "--json").stdout)
        assert (told["running"], told["name"]) == (True, "hall 3")
        process.send_signal(signal.SIGTERM)
        while listener.recv(4096) != b"STOPPING=1":
            pass
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text().splitlines()
    assert any(line.startswith("console: http://127.0.0.1:") for line in said)
    lines = [json.loads(line) for line in said if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    gone = hedgerow("status", "--state", str(state))
    assert gone.returncode == 1
    assert "no console answers" in gone.stdout
