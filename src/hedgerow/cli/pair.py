"""`hedgerow pair`: let a browser elsewhere in to the console of the device on this machine."""

from pathlib import Path

import click


@click.command("pair")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HEDGEROW_CONFIG",
    help="The device's settings, which say where its state is.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The device's state directory.",
)
@click.option("--forget", is_flag=True, help="Turn out every browser that was let in.")
def command(config: Path | None, state: Path | None, forget: bool) -> None:
    """Let a browser elsewhere in to the device's page."""
    from hedgerow.cli.status import state_of
    from hedgerow.io import clock
    from hedgerow.web.access import CODE_SECONDS, forget_paired, new_code

    directory = state_of(config, state)
    if forget:
        count = forget_paired(directory)
        click.echo(f"turned out {count} {'browser' if count == 1 else 'browsers'}")
        return
    code = new_code(directory, clock.now())
    click.echo(f"{code}  good for one browser and {CODE_SECONDS / 60:.0f} minutes")
