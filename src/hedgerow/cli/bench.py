"""`hedgerow bench`: measurements on this machine."""

import click
import msgspec

from hedgerow.cli.roles import start_logging


@click.group("bench")
def command() -> None:
    """Measure rounds, inference and footprint."""


@command.command("round")
@click.option("--devices", type=click.IntRange(1, 2000), default=10, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 190), default=30, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def round_command(devices: int, rounds: int, as_json: bool) -> None:
    """Seconds a round with real agents and a local step that does nothing."""
    from hedgerow.bench.round import bench_round

    start_logging(False)
    click.echo(f"{devices} devices, {rounds} rounds …", err=True)
    _print(bench_round(devices, rounds), as_json)


@command.command("inference")
@click.option("--windows", type=click.IntRange(100), default=5000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inference_command(windows: int, as_json: bool) -> None:
    """Sample to decision against the bare model call, on synthetic samples."""
    from hedgerow.bench.inference import bench_inference

    _print(bench_inference(windows), as_json)


@command.command("footprint")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def footprint_command(as_json: bool) -> None:
    """Bytes installed, time to import, memory of agents that infer and that learn."""
    from hedgerow.bench.footprint import bench_footprint

    start_logging(False)
    click.echo("two agents, about 20 s …", err=True)
    _print(bench_footprint(), as_json)


def _print(result: msgspec.Struct, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    for name, value in msgspec.structs.asdict(result).items():
        click.echo(f"{name:>22}  {value}")
