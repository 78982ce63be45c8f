"""The group of commands: lazy, complete, and plain about what went wrong."""

import importlib
import pkgutil
import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

import hedgerow.cli
from hedgerow import __version__
from hedgerow.cli import COMMANDS, main
from hedgerow.core.errors import PeerError, UsageError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_table_names_every_command_module_and_no_other() -> None:
    names = [module.name for module in pkgutil.iter_modules(hedgerow.cli.__path__)]
    modules = {name: importlib.import_module(f"hedgerow.cli.{name}") for name in names}
    assert {name for name in names if hasattr(modules[name], "command")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = importlib.import_module(f"hedgerow.cli.{name}").command
    assert command.name == name
    assert command.get_short_help_str(limit=100).rstrip(".") == COMMANDS[name].rstrip(".")
    assert run(name, "--help").exit_code == 0


def test_help_lists_the_commands_in_order() -> None:
    result = run("--help")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


def test_version() -> None:
    assert run("--version").output == f"hedgerow, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("hedge")
    assert result.exit_code == 2
    assert "No such command 'hedge'" in result.output


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such file; name another"), 2, "hedgerow: no such file; name another\n"),
        (PeerError("forged", "not signed"), 1, "hedgerow: forged: not signed\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch.nn"),
            2,
            "hedgerow: this command needs the extra 'author': pip install 'hedgerow[author]'"
            " (torch is not installed)\n",
        ),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    install(monkeypatch, error)
    result = run("fails")
    assert (result.exit_code, result.stderr, result.stdout) == (code, line, "")


@pytest.mark.parametrize("error", [ValueError("a bug"), ModuleNotFoundError("x", name="nowhere")])
def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    install(monkeypatch, error)
    assert run("fails").exception is error


def install(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Add a command `fails` that raises `error`."""

    @click.command("fails")
    def command() -> None:
        raise error

    module = ModuleType("hedgerow.cli.fails")
    module.__dict__["command"] = command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "fails", "Fail.")
