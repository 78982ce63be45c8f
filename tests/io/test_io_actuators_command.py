"""Commands: real programs, run for each notice."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io import plugins
from hedgerow.io.actuators.base import Actuator, ActuatorDown
from tests.io.sensing import Egress, around, notice


def command(*argv: str, **settings: object) -> Actuator:
    return plugins.actuator({"kind": "command", "argv": list(argv), **settings})


def python(program: str, *arguments: str, **settings: object) -> Actuator:
    return command(sys.executable, "-c", program, *arguments, **settings)


def told(given: Actuator, notices: Sequence[Notice]) -> Egress:
    egress = Egress()

    async def run() -> None:
        async with asyncio.timeout(90), given.open(around(["x"], 1, egress=egress)) as act:
            await act(notices)

    asyncio.run(run())
    return egress


KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def test_each_notice_comes_as_json_on_standard_input(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    egress = told(
        python(KEEP, str(kept)), [notice(alert=True), notice(second=1), notice("pump", second=2)]
    )
    said = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [each["time_seconds"] for each in said if each["stream"] == "press 4"] == [
        1_700_000_000.0,
        1_700_000_001.0,
    ]
    assert sorted(each["stream"] for each in said) == ["press 4", "press 4", "pump"]
    assert sum(left.size for left in egress.all) == kept.stat().st_size
    assert {left.to for left in egress.all} == {f"command {Path(sys.executable).name}"}
    assert sorted(left.kind for left in egress.all) == ["alert", "state", "state"]


def test_arguments_are_no_shells(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    program = "import sys; open(sys.argv[1], 'w').write('|'.join(sys.argv[2:]))"
    told(python(program, str(kept), "$HOME", "; touch x", "*"), [notice()])
    assert kept.read_text() == "$HOME|; touch x|*"


def test_a_command_sees_no_settings_or_secrets_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDGEROW_TOKEN", "secret")
    monkeypatch.setenv("SECRET", "secret")
    kept = tmp_path / "kept"
    program = "import os, sys; open(sys.argv[1], 'w').write('|'.join([os.getcwd(), *os.environ]))"
    told(python(program, str(kept), environment={"ROOM": "4"}, directory=str(tmp_path)), [notice()])
    directory, *names = kept.read_text().split("|")
    assert directory == str(tmp_path.resolve())
    assert (
        {"PATH", "ROOM"}
        <= set(names)
        <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "ROOM"}
    )


def test_streams_run_side_by_side_but_no_more_than_allowed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time, os\n"
        "at = pathlib.Path(sys.argv[1]) / str(os.getpid()); at.touch()\n"
        "time.sleep(0.3); n = len(list(at.parent.iterdir())); at.unlink()\n"
        "open(sys.argv[2], 'a').write(f'{n} ')"
    )
    running, kept = tmp_path / "running", tmp_path / "kept"
    running.mkdir()
    notices = [notice(f"press {at}") for at in range(6)]
    told(python(program, str(running), str(kept), at_once=3), notices)
    counts = list(map(int, kept.read_text().split()))
    assert len(counts) == 6 and max(counts) <= 3


def test_a_command_that_hangs_is_killed_with_all_it_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(600)"
    )
    told(python(program, str(kept), timeout_seconds=3), [notice()])
    assert "'press 4': it did not end within 3 s and was killed" in caplog.text
    assert _ended(int(kept.read_text()))


def _ended(process: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_failure_is_logged_with_what_it_said_and_nothing_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "kept"
    program = (
        "import sys\ntext = sys.stdin.read()\n"
        "open(sys.argv[1], 'a').write(text)\n"
        "if 'pump' in text: print('no paper'); sys.exit(3)"
    )
    told(python(program, str(kept)), [notice("pump"), notice(), notice(second=1)])
    assert len(kept.read_text().splitlines()) == 3
    assert "'pump': it ended with 3 and said 'no paper'" in caplog.text


def test_one_that_reads_nothing_and_says_too_much_does_no_harm() -> None:
    told(python("import sys; sys.stdout.write('x' * 10**7)"), [notice()])
    told(command("true"), [notice()] * 3)


def test_a_program_that_cannot_be_run_is_the_settings_fault(tmp_path: Path) -> None:
    file = tmp_path / "notify"
    file.write_text("#!/bin/sh\n")
    for argv in (["none-such"], [str(file)]):
        with pytest.raises(UsageError, match="no program"):
            told(command(*argv), [])
    with pytest.raises(UsageError, match="directory 'none' is none"):
        told(command("true", directory="none"), [])
    with pytest.raises(UsageError, match="argv"):
        command()
    file.write_text("no program at all")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(ActuatorDown, match="cannot be started"):
        told(command(str(file)), [notice()])
    assert os.access(file, os.X_OK)
