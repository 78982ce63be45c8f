"""`hedgerow sim`: an experiment in virtual time, over the machines and the graph that ship."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from hedgerow.core.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.bench.experiments import Results
    from hedgerow.sim.experiment import Run
    from hedgerow.sim.results import RoundRow

EXIT_INTERRUPTED = 130


@click.command("sim")
@click.argument("experiment", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of results.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Runs side by side.")
@click.option("--set", "changes", metavar="NAME=VALUE", multiple=True, help="Another setting.")
@click.option("--ray", default="", metavar="ADDRESS", help="Learn on a Ray cluster, or `local`.")
@click.option("--ray-workers", type=click.IntRange(0, 10_000), default=0, help="0: all processors.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="0: all processors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    experiment: Path,
    out: Path | None,
    seeds: int,
    jobs: int,
    changes: tuple[str, ...],
    ray: str,
    ray_workers: int,
    threads: int,
    as_json: bool,
) -> None:
    """Run an experiment in virtual time, over the machines that ship.

    docs/simulation.md explains what an experiment may say.
    Takes up an earlier run from its folder, if there is one there. Ctrl-C stops after the round in
    progress and keeps it.
    """
    from hedgerow.bench.experiments import Asked, run_all
    from hedgerow.sim.experiment import read, runs

    if ray and jobs > 1:
        raise UsageError("--ray spreads each run over all workers; leave --jobs at 1")
    listed = runs(read(experiment, changes), experiment.parent, seeds)
    folder = out or Path(f"{experiment.stem}-results")
    source = experiment.read_text("utf-8") + "".join(f"\n# --set {change}" for change in changes)
    asked = Asked(workers=threads, ray=ray, ray_workers=ray_workers)
    with _stopping() as stop, _progress(listed) as told:
        results = run_all(
            listed,
            experiment.parent,
            folder,
            asked=asked,
            jobs=jobs,
            told=told,
            stop=stop,
            source=source,
        )
    _show(results, folder, as_json)
    if not results.whole:
        click.echo(f"stopped; {folder} keeps it. Go on with the same command again", err=True)
        click.get_current_context().exit(EXIT_INTERRUPTED)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed. A second one ends at once; the last checkpoint stays."""
    asked: list[int] = []

    def heard(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        click.echo("stopping after this round; Ctrl-C again to stop now", err=True)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, heard)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(runs: list[Run]) -> Iterator[Callable[[Run, RoundRow], None]]:
    """Bars on a terminal; elsewhere a line for each tenth of a run."""
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def told(run: Run, row: RoundRow) -> None:
            key = (run.label, run.seed)
            if key not in tasks:
                total = run.experiment.rounds.rounds or None
                name = f"{run.label} · seed {run.seed}"
                tasks[key] = bars.add_task(name, total=total, told="")
            bars.update(tasks[key], completed=row.round, told=_said(row))

        yield told


def _lines(run: Run, row: RoundRow) -> None:
    rounds = run.experiment.rounds.rounds
    if row.round % max(rounds // 10, 1) == 0 or row.round == rounds:
        of = f"/{rounds}" if rounds else ""
        click.echo(f"{run.label}, seed {run.seed}: round {row.round}{of}, {_said(row)}", err=True)


def _said(row: RoundRow) -> str:
    from hedgerow.sim.words import bytes_in_words, seconds_in_words

    accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}, "
    return f"{accuracy}{seconds_in_words(row.seconds)}, {bytes_in_words(row.bytes_up)} up"


def _show(results: Results, folder: Path, as_json: bool) -> None:
    import msgspec

    if as_json:
        shown = {
            "folder": str(folder),
            "whole": results.whole,
            "files": {name: str(path) for name, path in results.files.items()},
            "results": results.summaries,
        }
        click.echo(msgspec.json.encode(shown).decode())
        return
    from rich.console import Console

    from hedgerow.cli.sim_table import summary_table

    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(summary_table(results.summaries))
    if "report" in results.files:
        click.echo(f"report: {results.files['report']}")
