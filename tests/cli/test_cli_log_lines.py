"""Log lines: for people, for the journal, and as JSON."""

import json
import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hedgerow.cli.log_lines import JournalLines, JsonLines, PlainLines, log_formatter
from hedgerow.cli.roles import role_options, start_logging


def record(message: str = "took %d s", *arguments: object, **extra: object) -> logging.LogRecord:
    arguments = arguments or (3,)
    made = logging.LogRecord("hedgerow.io", logging.WARNING, "x.py", 1, message, arguments, None)
    vars(made).update(extra)
    return made


def test_a_json_line_has_time_level_logger_and_message() -> None:
    line = JsonLines().format(record())
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == (
        *("warning", "hedgerow.io", "took 3 s"),
    )
    moment = datetime.fromisoformat(told["time"])
    assert moment.utcoffset() is not None
    assert told["time"].endswith("Z")


def test_what_has_many_lines_is_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record("%s", "a\nb")
        made.exc_info = sys.exc_info()
    line = JsonLines().format(made)
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "a\nb"
    assert "ValueError: two\nlines" in told["error"]


def test_extras_are_fields_whatever_they_are() -> None:
    told = json.loads(JsonLines().format(record(stream="press 3", path=Path("x"), score=2.5)))
    assert (told["stream"], told["path"], told["score"]) == ("press 3", "x", 2.5)


def test_the_journal_gets_a_priority_on_every_line_and_no_time() -> None:
    formatter = JournalLines("%(name)s: %(message)s")
    assert formatter.format(record("%s", "a\nb")) == "<4>hedgerow.io: a\n<4>b"


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        own = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert isinstance(log_formatter("human", stream, own), JournalLines)
        other = log_formatter("human", stream, {"JOURNAL_STREAM": "8:1"})
        assert not isinstance(other, JournalLines)
        assert isinstance(log_formatter("json", stream, own), JsonLines)


@pytest.mark.parametrize(
    ("arguments", "environment", "kind"),
    [
        ([], {}, PlainLines),
        (["--log-format", "json"], {}, JsonLines),
        ([], {"HEDGEROW_LOG_FORMAT": "json"}, JsonLines),
        (["--log-format", "human"], {"HEDGEROW_LOG_FORMAT": "json"}, PlainLines),
    ],
)
def test_every_role_takes_the_format_as_a_flag_or_from_the_environment(
    arguments: list[str],
    environment: dict[str, str],
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **config: given.update(config))

    @click.command()
    @role_options
    def role(**values: object) -> None:
        assert "log_format" not in values
        start_logging(verbose=True)

    result = CliRunner().invoke(role, arguments, env=environment, catch_exceptions=False)
    assert result.exit_code == 0
    assert given["level"] == logging.INFO
    (handler,) = given["handlers"]
    assert type(handler.formatter) is kind


def test_another_format_is_a_usage_error() -> None:
    @click.command()
    @role_options
    def role(**values: object) -> None: ...

    assert CliRunner().invoke(role, ["--log-format", "xml"]).exit_code == 2


@pytest.mark.parametrize("formatter", [PlainLines("%(message)s"), JournalLines("%(message)s")])
def test_what_came_from_elsewhere_cannot_steer_a_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record("left out a message of %s", "a\x1b]0;mine\x07\x9bb\r\tc"))
    assert line.removeprefix("<4>") == (r"left out a message of a\x1b]0;mine\x07\x9bb\x0d" + "\tc")
