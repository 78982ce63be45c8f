"""`hedgerow bench`: measurements on this machine."""

from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow.cli.roles import start_logging


@click.group("bench")
def command() -> None:
    """Measurements on this machine."""


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


@command.command("outbox")
@click.option("--kills", type=click.IntRange(0, 1_000_000), default=1000, show_default=True)
@click.option(
    "--messages",
    type=click.IntRange(1000),
    default=200_000,
    show_default=True,
    help="Of the timing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def outbox_command(kills: int, messages: int, as_json: bool) -> None:
    """Messages lost or counted twice by a device that is killed again and again; and their rate."""
    from hedgerow.bench.outbox import bench_outbox

    start_logging(False)
    _print(bench_outbox(kills, messages, lambda line: click.echo(line, err=True)), as_json)


@command.command("gateway")
@click.option("--machines", type=click.IntRange(1, 100_000), default=2000, show_default=True)
@click.option("--rate", "rate_hz", type=click.FloatRange(2048.0), default=12_000.0)
@click.option("--seconds", type=click.IntRange(4, 3600), default=20, show_default=True)
@click.option("--mqtt", is_flag=True, help="Through a Mosquitto broker, in blocks of a second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gateway_command(machines: int, rate_hz: float, seconds: int, mqtt: bool, as_json: bool) -> None:
    """Watch many vibrating machines: how much faster than real time, how soon after the sample."""
    from hedgerow.bench.gateway import bench_gateway

    start_logging(False)
    say = lambda line: click.echo(line, err=True)  # noqa: E731
    _print(bench_gateway(machines, rate_hz, seconds, mqtt=mqtt, say=say), as_json)


@command.command("anomaly")
@click.option("--machines", type=click.IntRange(1, 10_000), default=40, show_default=True)
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 1000),
    default=0.6,
    show_default=True,
    help="Of each synthetic machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def anomaly_command(machines: int, hours: float, as_json: bool) -> None:
    """Faults of real bearings found without a label, and false alarms of synthetic machines."""
    from hedgerow.bench.anomaly import bench_anomaly, table

    result = bench_anomaly(machines, hours, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    click.echo(table(result))


@command.command("simulation")
@click.option("--clients", type=click.IntRange(1, 10**8), default=1000, show_default=True)
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True)
@click.option("--features", type=click.IntRange(1), default=64, show_default=True, help="Of mlp.")
@click.option("--hidden", type=click.IntRange(1), default=64, show_default=True, help="Of mlp.")
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True, help="Of mlp.")
@click.option("--batch", type=click.IntRange(1, 4096), default=16, show_default=True)
@click.option(
    "--model", type=click.Choice(["mlp", "cnn1d", "cnn2d"]), default="mlp", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulation_command(as_json: bool, **asked: Any) -> None:
    """Client updates a second in simulation, against bare matrix products and eager PyTorch."""
    from hedgerow.bench.simulation import Workload, bench_simulation

    _print(bench_simulation(Workload(**asked)), as_json)


@command.command("compression")
@click.option(
    *("--dataset", "datasets"),
    type=click.Choice(["watch", "fashion"]),
    multiple=True,
    default=["watch", "fashion"],
    show_default=True,
    help="May be given more than once.",
)
@click.option(
    *("--trial", "trials"), multiple=True, help="Only trials of this name, and plain FedAvg."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads. [default: all processors]")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
def compression_command(
    datasets: list[str], trials: list[str], seed: int, workers: int | None, as_json: bool
) -> None:
    """Accuracy against bytes for each codec, up and down, by federated training."""
    from hedgerow.bench.compression import Row, bench_compression

    def told(row: Row, seconds: float) -> None:
        click.echo(
            f"{row.dataset:8} {row.name:22} accuracy {row.accuracy:.3f}  "
            f"{row.bytes_up:>10,} B up, {row.bytes_down:>10,} B down a device  "
            f"{row.up_ratio:>7.1f}× up, {row.both_ratio:>6.1f}× both  {seconds:.0f} s",
            err=as_json,
        )

    result = bench_compression(list(dict.fromkeys(datasets)), trials, seed, workers, told)
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    for name, best in result.best.items():
        click.echo(
            f"best on {name}: {best.name}, {best.up_ratio:g}× fewer bytes up and "
            f"{best.both_ratio:g}× both ways to the same accuracy, "
            f"{best.accuracy_loss_points:g} points lost in the end"
        )


@command.command("asynchronous")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def asynchronous_command(seeds: int, as_json: bool) -> None:
    """Virtual time to a target accuracy, in rounds and without, in a fleet with a tail."""
    from hedgerow.bench.asynchronous import bench_asynchronous

    result = bench_asynchronous(seeds, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    for case in result.cases:
        click.echo(f"{case.name:>32}  {case.seconds:>7.0f} s  {case.updates:.0f} updates")
    click.echo(
        f"{result.target:.0%} is reached {result.ratio:.1f}× sooner without rounds "
        f"({result.plain_ratio:.1f}× sooner than in plain rounds; with a third more devices at "
        f"work {result.third_ratio:.1f}×, with twice as many {result.twice_ratio:.1f}×)"
    )


@command.command("noniid")
@click.option("--datasets", default="", help="Some of watch,fashion,digits (all).")
@click.option("--algorithms", default="", help="Some of the catalogue, and default (all).")
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option(
    "--epochs", type=click.FloatRange(0.01, 1000), help="A round's work in place of ours."
)
@click.option("--strangers/--no-strangers", default=True, help="Leave each wearer out, too.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Keep runs here and go on."
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Threads (0: all processors).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def noniid_command(as_json: bool, datasets: str, algorithms: str, **asked: Any) -> None:
    """Accuracy of every algorithm where devices differ; about half an hour on two cores."""
    from hedgerow.bench.noniid import TRIALS, Ask, bench_noniid, kept_runs, table

    start_logging(False)
    ask = Ask(datasets=_some(datasets) or tuple(TRIALS), algorithms=_some(algorithms), **asked)
    result = bench_noniid(ask, kept_runs(ask, lambda line: click.echo(line, err=True)))
    if not as_json:
        click.echo(table(result))
    click.echo(msgspec.json.encode(result).decode())


def _some(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _print(result: msgspec.Struct, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    for name, value in msgspec.structs.asdict(result).items():
        click.echo(f"{name:>22}  {value}")
