"""`hedgerow coordinator`: rounds, models and the fleet's page."""

import asyncio
import contextlib
from pathlib import Path

import click

from hedgerow.cli.roles import flags_of, role_options, run_until_signal, start_logging, unless


@click.command("coordinator")
@role_options
@click.option("--fleet", help="Name of the fleet: lower-case letters, digits and hyphens.")
@click.option("--rounds", type=int, help="Stop after this many rounds; 0: never.")
def command(
    config: Path | None,
    state: Path | None,
    pairs: tuple[str, ...],
    verbose: bool,
    fleet: str | None,
    rounds: int | None,
) -> None:
    """Run the coordinator of a fleet."""
    from hedgerow.cli.fleet_live import show
    from hedgerow.serve.fleet import running_fleet
    from hedgerow.serve.settings import CoordinatorSettings, environment, load_settings
    from hedgerow.web.dashboard import fleet_app, serve_dashboard

    start_logging(verbose)
    flags = flags_of(pairs, state=state, fleet=fleet, rounds__rounds=rounds)
    settings = load_settings(CoordinatorSettings, config, environment(), flags)

    async def work(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            fleet_ = await unless(stop, stack.enter_async_context(running_fleet(settings)))
            if fleet_ is None:
                return
            click.echo(f"fleet {settings.fleet} at {fleet_.url}; join file: {fleet_.join_path}")
            if settings.dashboard.enabled:
                page = await stack.enter_async_context(
                    serve_dashboard(
                        fleet_app(fleet_.view), settings.dashboard.host, settings.dashboard.port
                    )
                )
                click.echo(f"page: {page}")
            picture = asyncio.create_task(show(fleet_.view, plain=verbose))
            stack.callback(picture.cancel)
            await fleet_.run(stop)

    run_until_signal(work)
