"""`hedgerow egress`: what left a device, from its own record; proven, on any machine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from hedgerow.io.egress import EgressReader


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which device's record it is."""
    state = click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help="The device's state directory.",
    )
    config = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="HEDGEROW_CONFIG",
        help="The device's settings, which say where its state is.",
    )
    return config(state(function))


@click.group("egress")
def command() -> None:
    """Show, export and verify the record of all that left this device."""


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--device", default="", help="Whose record it must be, by its id (U…).")
@click.option(
    "--since",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An older export: nothing of it may have been changed since.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify_command(file: Path, device: str, since: Path | None, as_json: bool) -> None:
    """Check every hash and every signature in FILE, an exported record. Needs no network.

    Exits with 1 when anything in it was changed, removed or added after it was signed.
    """
    from hedgerow.io.egress import verify_file

    result = verify_file(file, device, since)
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    elif result.good:
        last = "" if result.signed_seconds is None else f", signed {_time(result.signed_seconds)}"
        click.echo(f"good: {result.entries} entries from number {result.first}{last}")
        click.echo(f"device  {result.device}")
        click.echo(f"head    {result.head}")
        for kind, total in result.kinds.items():
            click.echo(f"{kind:>16}  {total.messages:>9,} messages  {total.bytes:>13,} bytes")
        if result.gaps:
            click.echo(f"{'not written':>16}  {result.gaps:>9,} gaps, which say so themselves")
    else:
        click.echo(f"NOT good, at entry {result.bad}: {result.why}")
    if not result.good:
        raise SystemExit(1)


@command.command("list")
@_where
@click.option("--kind", default="", help="Only messages of this class, such as update.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_command(
    config: Path | None, state: Path | None, kind: str, limit: int, as_json: bool
) -> None:
    """The newest messages that left, newest first; the device may be running."""
    for entry in _reader(config, state).entries(limit, kind=kind):
        if as_json:
            click.echo(msgspec.json.encode(entry._asdict()).decode())
        else:
            click.echo(
                f"{entry.number:>9}  {_time(entry.time_seconds)}  {entry.kind:<12} "
                f"{entry.size:>10,} B  {entry.to}  {entry.purpose}"
            )


@command.command("total")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def total_command(config: Path | None, state: Path | None, as_json: bool) -> None:
    """Messages and bytes that left, by class and by day (UTC)."""
    totals = _reader(config, state).totals()
    if as_json:
        click.echo(msgspec.json.encode(totals._asdict()).decode())
        return
    for day, kinds in totals.days.items():
        for kind, total in sorted(kinds.items()):
            click.echo(f"{day}  {kind:<12} {total.messages:>9,} messages {total.bytes:>13,} bytes")
    click.echo(f"in all      {totals.messages:,} messages, {totals.bytes:,} bytes")


@command.command("export")
@_where
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
def export_command(config: Path | None, state: Path | None, output: Path) -> None:
    """Write the record, up to its newest signature, into one file for `hedgerow egress verify`."""
    reader = _reader(config, state)
    with output.open("wb") as file:
        for piece in reader.export():
            file.write(piece)


def _reader(config: Path | None, state: Path | None) -> "EgressReader":
    from hedgerow.cli.status import state_of
    from hedgerow.core.errors import UsageError
    from hedgerow.io.egress import EgressReader

    try:
        return EgressReader(state_of(config, state) / "egress")
    except UsageError as error:
        raise UsageError(
            f"{error}; name the device's state directory by --state, or its settings by --config"
        ) from error


def _time(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
