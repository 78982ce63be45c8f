"""`hedgerow server`: the fleet's NATS server alone."""

import asyncio
from pathlib import Path

import click

from hedgerow.cli.roles import flags_of, role_options, run_until_signal, start_logging


@click.command("server")
@role_options
@click.option("--fleet", help="Name of the fleet: lower-case letters, digits and hyphens.")
def command(
    config: Path | None,
    state: Path | None,
    pairs: tuple[str, ...],
    verbose: bool,
    fleet: str | None,
) -> None:
    """Run the embedded NATS server."""
    from hedgerow.io import clock
    from hedgerow.io.authority import Authority
    from hedgerow.serve.fleet import authority_path, embedded
    from hedgerow.serve.settings import ServerSettings, environment, load_settings

    start_logging(verbose)
    flags = flags_of(pairs, state=state, fleet=fleet)
    settings = load_settings(ServerSettings, config, environment(), flags)

    async def work(stop: asyncio.Event) -> None:
        keys = authority_path(settings.state)
        authority = Authority.load_or_create(keys, settings.fleet, clock.now())
        with embedded(settings.state, authority, settings.nats) as server:
            click.echo(f"fleet {settings.fleet}: NATS at {server.url}; keys in {keys}")
            await stop.wait()

    run_until_signal(work)
