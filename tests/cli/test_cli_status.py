"""`hedgerow status` and `hedgerow pair`, against a console that is served."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hedgerow.cli.pair import command as pair
from hedgerow.cli.status import bytes_in_words, lines_of, span_in_words
from hedgerow.cli.status import command as status
from hedgerow.core.errors import UsageError
from hedgerow.io.device_store import DeviceStore, StoredWindow
from hedgerow.web.access import Access, Running, write_running
from hedgerow.web.console import serve_console
from tests.web import gateways


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(status, [str(argument) for argument in arguments])


def beside_a_console(state: Path, work: Callable[[], Result], **console: object) -> Result:
    async def body() -> Result:
        async with serve_console(gateways.factory(streams=700), state, **console):  # type: ignore[arg-type]
            return await asyncio.to_thread(work)

    return asyncio.run(body())


def test_a_running_device_tells_how_it_does(tmp_path: Path) -> None:
    result = beside_a_console(tmp_path, lambda: run("--state", tmp_path))
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert lines["device"] == "hall 3 gateway, vibration, up 3 days"
    assert lines["streams"].startswith("700: 2 need a look, 4 changed, 3 silent")
    assert lines["model"] == "vibration 2.1, int8 on CPU"
    assert lines["sharing"] == "fleet presses, connected, 3 waiting"
    assert lines["sent"] == "12.5 MB in 4,127 messages, 119 kB today"
    assert lines["energy"] == "0.91 mJ a decision, 3,214,000 J since the start; measured by RAPL"
    assert lines["down"].startswith("sensor opc.tcp://plc-4: no route to host")
    assert lines["console"].startswith("http://127.0.0.1:")
    assert "press 0648" in result.output


def test_as_json_it_is_one_object(tmp_path: Path) -> None:
    result = beside_a_console(tmp_path, lambda: run("--state", tmp_path, "--json"))
    told = json.loads(result.output)
    assert told["running"] is True
    assert told["streams"]["total"] == 700
    assert told["sharing"]["fleet"] == "presses"


def test_a_console_that_asks_for_pairing_answers_its_own_machine(tmp_path: Path) -> None:
    result = beside_a_console(tmp_path, lambda: run("--state", tmp_path), pair="always")
    assert result.exit_code == 0


def test_the_settings_say_where_the_state_is(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'state = "{tmp_path / "state"}"\n')
    (tmp_path / "state").mkdir()
    result = beside_a_console(tmp_path / "state", lambda: run("--config", config, "--json"))
    assert json.loads(result.output)["running"] is True


def test_a_device_that_does_not_run_is_said_with_what_it_keeps(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.db")
    x = np.zeros((4, 8), np.float32)
    store.add_windows([StoredWindow(x, 0, 1.0 + n) for n in range(3)], 10.0)
    store.close()
    # What a kill left behind: nobody listens there any more.
    write_running(tmp_path, Running(url="http://127.0.0.1:9/", token="0" * 64, process=1))
    result = run("--state", tmp_path)
    assert result.exit_code == 1
    assert "no console answers" in result.output
    assert "windows    3 kept, 384 B" in result.output
    told = json.loads(run("--state", tmp_path, "--json").output)
    assert told["running"] is False
    assert told["stored"]["windows"]["count"] == 3


def test_no_device_at_all_is_a_usage_error(tmp_path: Path) -> None:
    result = run("--state", tmp_path / "none")
    assert isinstance(result.exception, UsageError)
    assert "--state" in str(result.exception)


def test_a_file_that_others_may_read_is_not_believed(tmp_path: Path) -> None:
    write_running(tmp_path, Running(url="http://127.0.0.1:9/", token="0", process=1))
    (tmp_path / "console.json").chmod(0o644)
    assert "chmod 600" in str(run("--state", tmp_path).exception)


def test_control_characters_do_not_reach_the_terminal() -> None:
    owner = gateways.factory(streams=8)
    owner.board.tell([gateways.smuggler("\x1b[2Jgone\n")], owner.now)
    text = "\n".join(lines_of(owner.view(), "http://127.0.0.1/"))
    assert "\x1b" not in text
    assert "[2Jgone: [2Jgone" in text


def test_pairing_from_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(pair, ["--state", str(tmp_path)])
    assert result.exit_code == 0
    code = result.output.split()[0]
    assert result.output == f"{code}  good for one browser and 10 minutes\n"
    access = Access(tmp_path, needed=True)
    token = access.pair(code)
    assert token is not None
    assert access.admitted(token)
    forgotten = CliRunner().invoke(pair, ["--state", str(tmp_path), "--forget"])
    assert forgotten.output == "turned out 1 browser\n"
    assert not access.admitted(token)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_960, "100 kB"), (2.5e6, "2.5 MB"),
     (1.2e9, "1.2 GB"), (3e12, "3.0 TB")],
)  # fmt: skip
def test_bytes_in_words(count: float, words: str) -> None:
    assert bytes_in_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3 seconds"), (150, "2 minutes"), (8000, "2 hours"), (3e5, "3 days")]
)
def test_spans_in_words(seconds: float, words: str) -> None:
    assert span_in_words(seconds) == words
