"""Writes `docs/commands.md` from the commands themselves: `python -m tools.commands`."""

from collections.abc import Iterator
from pathlib import Path

import click

from hedgerow.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

HEAD = """\
# Commands

This page is written by `make docs` from the commands themselves. Every command also answers to
`--help`. An error is one line on the standard error stream; the exit code is 2 where the caller can
mend it, 1 where something else failed, and 130 after Ctrl-C.
"""


def page() -> str:
    """The whole page, as Markdown."""
    context = click.Context(main, info_name="hedgerow", **main.context_settings)
    return "\n".join([HEAD, *_sections(main, context)])


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    if context.parent is not None:
        yield _section(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _sections(child, click.Context(child, info_name=name, parent=context))


def _section(command: click.Command, context: click.Context) -> str:
    level = "#" * min(context.command_path.count(" ") + 1, 4)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
    ]
    rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in records]
    text = (command.help or "").replace("\b\n", "").strip()
    table = ["| option | meaning |", "|---|---|", *rows]
    return "\n".join(
        [f"{level} {context.command_path}", "", f"`{usage}`", "", text, "", *table, ""]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
