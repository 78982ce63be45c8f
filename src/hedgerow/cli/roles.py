"""What `device`, `coordinator` and `server` share: settings from flags, and ending on a signal."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from hedgerow.cli.log_lines import FORMATS, log_formatter
from hedgerow.core.errors import UsageError

_LOG_FORMAT = "hedgerow.log_format"

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def role_options(function: F) -> F:
    """Options that every role takes."""
    for option in reversed(
        [
            click.option(
                "--config",
                type=click.Path(path_type=Path, dir_okay=False),
                envvar="HEDGEROW_CONFIG",
                help="Settings as TOML; docs/settings.md lists them all.",
            ),
            click.option(
                "--state",
                type=click.Path(path_type=Path, file_okay=False),
                help="Directory for keys and databases.",
            ),
            click.option(
                "--set",
                "pairs",
                metavar="NAME=VALUE",
                multiple=True,
                help="One setting by its dotted name, as rounds.cohort=5; may be repeated.",
            ),
            click.option("-v", "--verbose", is_flag=True, help="Log what happens."),
            click.option(
                "--log-format",
                type=click.Choice(FORMATS),
                default="human",
                show_default=True,
                envvar="HEDGEROW_LOG_FORMAT",
                expose_value=False,
                callback=_keep_log_format,
                help="Log lines for people, or one JSON object a line.",
            ),
        ]
    ):
        function = option(function)
    return function


def _keep_log_format(context: click.Context, parameter: click.Parameter, value: str) -> None:
    context.meta[_LOG_FORMAT] = value


def flags_of(pairs: tuple[str, ...], **named: Any) -> dict[str, Any]:
    """Flags as dotted settings. Raises UsageError for a pair without `=`."""
    flags = {name.replace("__", "."): value for name, value in named.items()}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} has no '='; wanted NAME=VALUE, as rounds.cohort=5")
        flags[name.strip()] = value.strip()
    return flags


def start_logging(verbose: bool) -> None:
    """Log lines on standard error: warnings, or with `verbose` everything; see `--log-format`."""
    context = click.get_current_context(silent=True)
    format = FORMATS[0] if context is None else context.meta.get(_LOG_FORMAT, FORMATS[0])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log_formatter(format, sys.stderr, os.environ))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `work(stop)`; SIGINT and SIGTERM set `stop`, and what was started is taken down."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(body())


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None when `stop` is set first: then it is ended."""
    from hedgerow.io.tasks import end

    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    await end([working])
    return None
