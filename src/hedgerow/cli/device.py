"""`hedgerow device`: one device agent."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.cli.roles import flags_of, role_options, run_until_signal, start_logging

if TYPE_CHECKING:
    from hedgerow.protocol.owner import Owner
    from hedgerow.serve.settings import DeviceSettings


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
    from hedgerow.io.supervise import Supervisor
    from hedgerow.serve.agent import DeviceAgent
    from hedgerow.serve.settings import (
        DeviceSettings,
        check_connections,
        environment,
        load_settings,
    )

    start_logging(verbose)
    flags = flags_of((), state=state, name=name, join=join)
    if wearer is not None:
        flags["sensors"] = [{"kind": "replay", "wearer": wearer}]
    flags |= flags_of(pairs)  # after the sensor they may say more of
    settings = load_settings(DeviceSettings, config, environment(), flags)
    check_connections(settings, config)

    async def work(stop: asyncio.Event) -> None:
        agent = DeviceAgent(settings)
        click.echo(f"device {agent.name} ({agent.identity.public}), state in {settings.state}")
        supervisor = Supervisor.of(environment())
        async with contextlib.AsyncExitStack() as stack:
            await _console(stack, agent.owner, settings)
            supervisor.ready(f"sensing with {len(agent.home.sensors)} sensors")
            watch = asyncio.create_task(supervisor.watch(agent.healthy))
            stack.callback(watch.cancel)
            stack.callback(supervisor.stopping)
            await agent.run(stop)

    run_until_signal(work)


async def _console(
    stack: contextlib.AsyncExitStack, owner: "Owner", settings: "DeviceSettings"
) -> None:
    """Serve the owner's page; a device that cannot goes on without, and says why."""
    from hedgerow.core.errors import UsageError

    chosen = settings.console
    if not chosen.enabled:
        return
    try:
        from hedgerow.web.console import serve_console

        serving = serve_console(
            owner,
            settings.state,
            host=chosen.host,
            port=chosen.port,
            hosts=chosen.hosts,
            pair=chosen.pair,
            certificate=chosen.certificate,
            key=chosen.key,
        )
        url = await stack.enter_async_context(serving)
    except ModuleNotFoundError as error:
        click.echo(
            f"no console: {error.name} is not installed; pip install 'hedgerow[console]', or set "
            "console.enabled to false",
            err=True,
        )
    except UsageError as error:
        click.echo(f"no console: {error}; set console.port, or console.enabled to false", err=True)
    else:
        click.echo(f"console: {url}")
