"""A fleet while it runs: the live picture in a terminal, a line for each round elsewhere."""

import asyncio
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from hedgerow.cli.fleet_terminal import plain_line, render
from hedgerow.protocol.view import FleetView

LOOK_SECONDS = 0.25


async def show(snapshot: Callable[[], FleetView], *, plain: bool) -> None:
    """Show the fleet on standard error until cancelled."""
    console = Console(stderr=True)
    if console.is_terminal and not plain:
        with Live(render(snapshot()), console=console, auto_refresh=False) as live:
            while True:
                live.update(render(snapshot()), refresh=True)
                await asyncio.sleep(LOOK_SECONDS)
    shown = 0
    while True:
        view = snapshot()
        if view.rounds and view.rounds[-1].round != shown:
            shown = view.rounds[-1].round
            console.print(plain_line(view), soft_wrap=True)
        await asyncio.sleep(LOOK_SECONDS)
