import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hedgerow.cli.egress import command
from hedgerow.io.egress import EgressRecord
from hedgerow.io.keys import Identity


@pytest.fixture
def state(tmp_path: Path) -> Path:
    record = EgressRecord(tmp_path / "state" / "egress", Identity.create())
    for number in range(5):
        record.left(to="nats://hub:4222", kind="report", purpose="what it decides", size=number)
    record.left(to="nats://hub:4222", kind="update", purpose="what it learned", size=1_000)
    record.close()
    return tmp_path / "state"


def run(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def test_a_record_is_exported_and_proves_itself(state: Path, tmp_path: Path) -> None:
    exported = tmp_path / "record.jsonl"
    run("export", "--state", state, "-o", exported)
    said = run("verify", exported)
    assert said.startswith("good: 7 entries from number 0, signed 20")
    assert "update" in said
    result = json.loads(run("verify", exported, "--json"))
    assert (result["good"], result["messages"], result["bytes"]) == (True, 6, 1_010)
    assert "good" in run("verify", exported, "--device", result["device"], "--since", exported)


def test_a_changed_record_fails_and_says_where(state: Path, tmp_path: Path) -> None:
    exported = tmp_path / "record.jsonl"
    run("export", "--state", state, "-o", exported)
    exported.write_bytes(exported.read_bytes().replace(b'"size":1000', b'"size":1'))
    assert run("verify", exported, code=1).startswith("NOT good, at entry 7: ")
    assert json.loads(run("verify", exported, "--json", code=1))["good"] is False


def test_what_left_is_listed_newest_first(state: Path) -> None:
    first, second = run("list", "--state", state, "--limit", "2").splitlines()
    assert "update" in first and "1,000 B" in first
    assert "report" in second
    (line,) = run("list", "--state", state, "--kind", "update", "--json").splitlines()
    assert json.loads(line)["purpose"] == "what it learned"


def test_sums_are_by_day_and_class(state: Path) -> None:
    assert "in all      6 messages, 1,010 bytes" in run("total", "--state", state)
    assert json.loads(run("total", "--state", state, "--json"))["kinds"]["report"] == [5, 10]


def test_without_a_record_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["list", "--state", str(tmp_path)])
    assert "no egress record" in str(done.exception)
    assert "--state" in str(done.exception)
    run("export", "--state", tmp_path, "-o", tmp_path / "nothing", code=1)
    assert not (tmp_path / "nothing").exists()


def test_settings_say_where_the_record_is(state: Path, tmp_path: Path) -> None:
    settings = tmp_path / "device.toml"
    settings.write_text(f'state = "{state}"\n')
    assert "6 messages" in run("total", "--config", settings)
