"""`hedgerow doctor`: what stands in the way of a device on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from hedgerow.cli.roles import flags_of

SIGNS = {"good": ("✓", "green"), "odd": ("!", "yellow"), "bad": ("✗", "red")}


@click.command("doctor")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HEDGEROW_CONFIG",
    help="The device's settings as TOML; docs/settings.md lists them all.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The device's state directory.",
)
@click.option(
    "--set", "pairs", metavar="NAME=VALUE", multiple=True, help="One setting by its dotted name."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config: Path | None, state: Path | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """Check this machine, its settings and its models; say what to mend.

    Starts the model once as an agent would, and changes nothing. Exits with 1 where something
    stops the device.
    """
    from hedgerow.serve.doctor import examine
    from hedgerow.serve.settings import environment

    found = asyncio.run(examine(config, environment(), flags_of(pairs, state=state)))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        for each in found.findings:
            sign, colour = SIGNS[each.state]
            click.echo(f"{click.style(sign, fg=colour)} {each.what:20} {each.says}")
            if each.remedy:
                click.echo(f"{'':22} → {each.remedy}")
    if not found.good:
        raise SystemExit(1)
