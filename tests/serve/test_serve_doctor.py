"""`hedgerow doctor` finds what stands in a device's way, says how to mend it, changes nothing."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hedgerow.io.device_store import DeviceStore, StoredWindow
from hedgerow.io.keys import Identity
from hedgerow.serve.doctor import Diagnosis, Finding, examine
from hedgerow.serve.doctor.state import wall_clock
from hedgerow.serve.joining import JoinFile
from tests.serve.hosting import free_port

NOW = 1_790_000_000.0


def examined(home: Path, config: str = "", **flags: object) -> Diagnosis:
    path = home / "device.toml"
    path.write_text(config)
    state = home / "state"
    return asyncio.run(examine(path, {}, {"state": str(state), **flags}))


def of(found: Diagnosis, what: str) -> list[Finding]:
    return [each for each in found.findings if each.what.startswith(what)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as an agent leaves it."""
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    Identity.load_or_create(place / "device.nk")
    store = DeviceStore(place / "device.db")
    x = np.zeros((6, 100), np.float32)
    store.add_windows([StoredWindow(x, 0, NOW, stream="press 3")], NOW)
    store.close()
    return place


def test_a_fresh_machine_is_well(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert found.good
    assert {each.state for each in found.findings} == {"good", "odd"}
    (sensors,) = of(found, "sensors")
    assert (sensors.state, sensors.remedy) == ("odd", "add a [[sensors]] table")
    assert "runs on cpu" in of(found, "model")[0].says
    assert "all hashes right" in of(found, "bundle")[0].says
    assert not (tmp_path / "state").exists()


def test_it_looks_into_the_state_of_a_running_agent_and_changes_nothing(
    tmp_path: Path, state: Path
) -> None:
    running = DeviceStore(state / "device.db")  # holds the lock
    try:
        before = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}
        found = examined(tmp_path)
        after = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}
    finally:
        running.close()
    assert found.good
    assert "sound, WAL" in of(found, "store")[0].says
    assert of(found, "key")[0].says.startswith("U")
    assert {name: after[name] for name in ("device.nk", "device.db")} == {
        name: before[name] for name in ("device.nk", "device.db")
    }


def test_a_setting_that_does_not_fit_is_named_with_its_line(tmp_path: Path) -> None:
    found = examined(tmp_path, 'name = "shed"\n\n[inference]\ntries = 0\n')
    (settings,) = of(found, "settings")
    assert not found.good and settings.state == "bad"
    assert "line 4" in settings.says and "docs/settings.md" in settings.says
    assert of(found, "model")  # the rest is looked at all the same


def test_a_sensor_that_cannot_be_is_named_with_its_line(tmp_path: Path) -> None:
    config = '[[sensors]]\nkind = "system"\n\n[[sensors]]\nkind = "telepathy"\n'
    found = examined(tmp_path, config)
    good, bad = of(found, "sensors")
    assert (good.what, good.state) == ("sensors 1 (system)", "good")
    assert (bad.what, bad.state) == ("sensors 2 (telepathy)", "bad")
    assert bad.says.startswith("line 4: ")
    assert not found.good


def test_a_key_that_others_may_read(tmp_path: Path, state: Path) -> None:
    (state / "device.nk").chmod(0o644)
    found = examined(tmp_path)
    (key,) = of(found, "key")
    assert key.state == "bad" and "chmod 600" in key.remedy
    assert not found.good
    (state / "device.nk").chmod(0o600)
    state.chmod(0o777)
    assert "chmod 700" in of(examined(tmp_path), "key")[0].remedy


def test_a_damaged_store(tmp_path: Path, state: Path) -> None:
    (state / "device.db").write_bytes(b"no database" * 1000)
    found = examined(tmp_path)
    assert of(found, "store")[0].state == "bad"
    assert not found.good


def test_a_store_without_wal(tmp_path: Path, state: Path) -> None:
    db = sqlite3.connect(state / "device.db")
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    (store,) = of(examined(tmp_path), "store")
    assert store.state == "odd" and "WAL" in store.says


def test_a_fleet_that_answers_and_one_that_does_not(tmp_path: Path) -> None:
    port = free_port()
    seed = Identity.create().seed_text()
    join = JoinFile(
        fleet="meadow",
        url=f"nats://127.0.0.1:{port}",
        coordinator=Identity.create().public,
        jwt="none",
        seed=seed,
    )
    join.save(tmp_path / "join.json")
    away = examined(tmp_path, join=str(tmp_path / "join.json"))
    (fleet,) = of(away, "fleet")
    assert fleet.state == "odd" and f"127.0.0.1:{port} cannot be reached" in fleet.says
    assert away.good  # it works alone meanwhile
    assert all(seed not in each.says for each in away.findings)

    async def with_server() -> Diagnosis:
        server = await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", port
        )
        async with server:
            flags = {"join": str(tmp_path / "join.json"), "state": str(tmp_path / "state")}
            return await examine(None, {}, flags)

    (fleet,) = of(asyncio.run(with_server()), "fleet")
    assert fleet.state == "good" and "answers" in fleet.says


def test_a_clock_that_cannot_be_right(state: Path) -> None:
    assert wall_clock(0.0, None).state == "bad"
    assert wall_clock(NOW, None).state == "good"
    store = DeviceStore.reading(state / "device.db")
    try:
        assert wall_clock(NOW, store).state == "good"
        behind = wall_clock(NOW - 86_400, store)
    finally:
        store.close()
    assert behind.state == "odd" and "2026-09-2" in behind.says


def test_a_model_that_cannot_run(tmp_path: Path) -> None:
    found = examined(tmp_path, '[inference]\nproviders = ["coreml"]\n')
    (model,) = of(found, "model")
    assert model.state == "bad" and "coreml: not in ONNX Runtime" in model.says
    assert not found.good


def test_the_command_says_all_of_it_and_ends_with_one_when_something_is_bad(tmp_path: Path) -> None:
    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hedgerow", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    state = str(tmp_path / "state")
    well = ran("--state", state, "--json")
    assert well.returncode == 0, well.stderr
    told = json.loads(well.stdout)
    assert told["good"] is True
    whats = {each["what"] for each in told["findings"]}
    assert whats >= {
        *("hedgerow", "settings", "disk", "store", "key", "clock", "providers", "bundle"),
        *("model", "sensors", "actuators", "fleet", "energy"),
    }
    ill = ran("--state", state, "--set", "threads=0")
    assert ill.returncode == 1
    assert "✗ settings" in ill.stdout and "threads" in ill.stdout
