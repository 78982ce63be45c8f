"""`hedgerow device`: one device agent."""

import asyncio
from pathlib import Path

import click

from hedgerow.cli.roles import flags_of, role_options, run_until_signal, start_logging


@click.command("device")
@role_options
@click.option("--name", help="What people call this device.")
@click.option(
    "--join",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The fleet's join file, which the coordinator writes into its state directory.",
)
@click.option("--wearer", help="Replay this wearer's recordings (1 to 10) as the sensor.")
def command(
    config: Path | None,
    state: Path | None,
    pairs: tuple[str, ...],
    verbose: bool,
    name: str | None,
    join: Path | None,
    wearer: str | None,
) -> None:
    """Run one device agent."""
    from hedgerow.serve.agent import DeviceAgent
    from hedgerow.serve.settings import DeviceSettings, environment, load_settings

    start_logging(verbose)
    flags = flags_of(pairs, state=state, name=name, join=join, sensor__wearer=wearer)
    if wearer is not None:
        flags.setdefault("sensor.kind", "replay")
    settings = load_settings(DeviceSettings, config, environment(), flags)

    async def work(stop: asyncio.Event) -> None:
        agent = DeviceAgent(settings)
        click.echo(f"device {agent.name} ({agent.identity.public}), state in {settings.state}")
        await agent.run(stop)

    run_until_signal(work)
