"""Accuracy where devices differ: every algorithm of the catalogue on the same work.

Three data sets: the watch data as ten wearers, Fashion-MNIST and digits dealt by Dirichlet 0.1 over
a hundred devices of which ten take part in a round. All algorithms start at the same weights, ask
the same devices in the same order and have them go through as many samples in as large batches:
little work a round where a step teaches much, more where there is much to learn from.
Plain FedAvg is run at every rate of `GRID` and counts with the best of them, which the others use
too, with their settings as they come. Ours (`hedgerow.algorithms.defaults`) has a rate of its own,
as clipped steps bear a higher one.

Every run is kept in a folder of its own, and a run that is there is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, get_args

import msgspec

from hedgerow.algorithms import defaults
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.resource_aware import ResourceAware
from hedgerow.apps.watch import recipe
from hedgerow.bench.experiments import Asked, Ground, course_of, home_of
from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.io.data import WATCH_WEARERS
from hedgerow.protocol.fleet import RoundRules
from hedgerow.sim.course import finished_rows
from hedgerow.sim.data_settings import DataSettings
from hedgerow.sim.devices import DeviceSettings, Tier
from hedgerow.sim.experiment import Experiment, Measure, ModelSettings, Run
from hedgerow.sim.results import RoundRow, summarise

BATCH = 32
GRID = (0.05, 0.1, 0.2, 0.4)
PLAIN, OURS = "fedavg", "default"
Do: TypeAlias = Callable[[Run], list[RoundRow]]
"""Does a run: its rows, the last of them with every device measured."""
STRANGER_SEED = 0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One data set: what is trained on it and how.

    `epochs` is a round's work. `rate` and `augment` are our plan's. `natural`: accuracy is the mean
    over devices on data of their own. `target` is the accuracy whose price is told, `every` how
    many rounds lie between two measurements.
    """

    source: str
    epochs: float
    rate: float
    target: float
    clients: int = 100
    natural: bool = False
    augment: tuple[str, ...] = ()
    every: int = 1


TRIALS: Mapping[str, Trial] = {
    "watch": Trial(
        source="watch",
        clients=len(WATCH_WEARERS),
        natural=True,
        epochs=0.5,
        rate=0.4,
        augment=("rotate:20",),
        target=0.85,
    ),
    "fashion": Trial(source="fashion", epochs=2.0, rate=0.1, target=0.7, every=2),
    "digits": Trial(source="digits", epochs=0.5, rate=0.8, target=0.7),
}
"""By name; the bundles have the same names."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One algorithm on one data set, means over the seeds.

    `accuracy` is the shared model's on the global test data after the last round (`low` and `high`:
    of the seeds), `device_accuracy` the mean over devices on data of their own as each serves
    itself, `worst_decile` that of the worst tenth of them. `rounds` and `bytes_up` are what it took
    to `target`; None where a seed did not reach it. `failed` says why there are no figures.
    """

    dataset: str
    algorithm: str
    accuracy: float | None = None
    worst_decile: float | None = None
    rounds: float | None = None
    bytes_up: float | None = None
    device_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    target: float | None = None
    rate: float = 0.0
    seeds: int = 0
    failed: str = ""


class NonIidResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `hedgerow bench noniid --json` prints.

    `default_margin_points`: our accuracy less plain FedAvg's at its best rate, in points, after as
    many rounds; on watch data the mean over wearers on held-out time. `leave_one_wearer_out`: mean
    accuracy on a wearer whom nobody trained on, and `strangers` each of the ten. `grid`: plain
    FedAvg's accuracy by data set and rate.
    """

    results: list[Row]
    default_margin_points: dict[str, float]
    leave_one_wearer_out: float | None
    strangers: dict[str, float]
    grid: dict[str, dict[str, float]]
    rounds: int
    seeds: int
    epochs: dict[str, float]
    batch: int


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `algorithms` empty: all; `out` None: nothing is kept; `workers` 0: all cores;
    `epochs` None: each data set's own.
    """

    datasets: tuple[str, ...] = tuple(TRIALS)
    algorithms: tuple[str, ...] = ()
    seeds: int = 3
    rounds: int = 20
    epochs: float | None = None
    strangers: bool = True
    out: Path | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for wanted, there in ((self.datasets, list(TRIALS)), (self.algorithms, names())):
            for name in wanted:
                if name not in there:
                    raise UsageError(f"no {name!r} here; wanted some of: {', '.join(there)}")

    def wants(self, name: str) -> bool:
        """Whether the algorithm was asked for."""
        return not self.algorithms or name in self.algorithms


def names() -> list[str]:
    """Every algorithm there is, ours first."""
    return [OURS, *(str(kind.__struct_config__.tag) for kind in get_args(AnyAlgorithm))]


def bench_noniid(ask: Ask, do: Do) -> NonIidResult:
    """All of `ask`, by `do` (`kept_runs`). A run that fails is told of in its row."""
    grids = {
        name: {rate: row_of(ask, do, name, PLAIN, rate) for rate in GRID} for name in ask.datasets
    }
    plain = {name: max(grid.values(), key=_accuracy) for name, grid in grids.items()}
    ours = {
        name: row_of(ask, do, name, OURS, TRIALS[name].rate)
        for name in ask.datasets
        if ask.wants(OURS)
    }
    strangers = {}
    if ask.strangers and "watch" in ask.datasets:
        ends = {wearer: do(stranger_run(wearer, ask.rounds))[-1] for wearer in WATCH_WEARERS}
        strangers = {str(wearer): round(end.accuracy or 0.0, 4) for wearer, end in ends.items()}
    results = []
    for name in ask.datasets:
        results += [*([ours[name]] if name in ours else []), plain[name]]
        results += [
            row_of(ask, do, name, other, plain[name].rate)
            for other in names()
            if other not in {OURS, PLAIN} and ask.wants(other)
        ]
    return NonIidResult(
        results=results,
        default_margin_points={
            name: round(100 * (_accuracy(row) - _accuracy(plain[name])), 2)
            for name, row in ours.items()
            if not row.failed and not plain[name].failed
        },
        leave_one_wearer_out=_mean(list(strangers.values())),
        strangers=strangers,
        grid={
            name: {str(rate): round(_accuracy(row), 4) for rate, row in grid.items()}
            for name, grid in grids.items()
        },
        rounds=ask.rounds,
        seeds=ask.seeds,
        epochs={name: ask.epochs or TRIALS[name].epochs for name in ask.datasets},
        batch=BATCH,
    )


# What is run --------------------------------------------------------------------------------------


def run_of(ask: Ask, dataset: str, name: str, seed: int, rate: float) -> Run:
    """One algorithm on one data set with one seed."""
    trial = TRIALS[dataset]
    plan = LocalPlan(epochs=ask.epochs or trial.epochs, batch=BATCH, rate=rate)
    if name == OURS:
        plan = defaults.steadied(msgspec.structs.replace(plan, augment=trial.augment))
    algorithm = _algorithm(name)
    cohort = min(10, trial.clients)
    experiment = Experiment(
        mode="fleet" if algorithm.asynchronous else "rounds",
        data=DataSettings(source=trial.source, clients=trial.clients),
        model=ModelSettings(bundle=dataset),
        algorithm=algorithm,
        plan=plan,
        rounds=RoundRules(cohort=cohort, quorum=cohort, rounds=ask.rounds),
        measure=Measure(every=trial.every, devices_every=ask.rounds, target=trial.target),
    )
    if isinstance(algorithm, ResourceAware):
        tiers = tuple(Tier(name=f"width {width}", width=width) for width in range(algorithm.widths))
        experiment = msgspec.structs.replace(experiment, devices=DeviceSettings(tiers=tiers))
    return Run(label=f"{dataset} · {name} · rate {rate:g}", seed=seed, experiment=experiment)


def stranger_run(wearer: int, rounds: int = 20) -> Run:
    """The watch application's own recipe, with one wearer left out and tested on."""
    names = (str(wearer),)
    cohort = len(WATCH_WEARERS) - 1
    experiment = Experiment(
        data=DataSettings(source="watch", leave_out=names),
        model=ModelSettings(bundle="watch"),
        algorithm=recipe.ALGORITHM,
        rounds=RoundRules(cohort=cohort, quorum=cohort, rounds=rounds),
        measure=Measure(every=rounds, devices_every=0),
    )
    return Run(label=f"watch without {wearer}", seed=STRANGER_SEED, experiment=experiment)


def _algorithm(name: str) -> AnyAlgorithm:
    if name == OURS:
        return defaults.ALGORITHM
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(AnyAlgorithm)}
    algorithm: AnyAlgorithm = kinds[name]()
    return algorithm


def kept_runs(ask: Ask, say: Callable[[str], None]) -> Do:
    """Does a run, or finds it done in `ask.out`; `say` hears a line for each."""
    ground, asked = Ground(Path()), Asked(workers=ask.workers)

    def do(run: Run) -> list[RoundRow]:
        home = None if ask.out is None else home_of(run, ask.out)
        rows = None if home is None else finished_rows(home)
        if rows is None:
            with course_of(run, ground, asked, home, _nothing, _never) as course:
                course.go()
            rows = course.rows
        last = rows[-1]
        spread = "" if last.device_mean is None else f", devices {last.device_mean:.3f}"
        say(f"{run.label}, seed {run.seed}: {last.accuracy or 0.0:.3f}{spread}")
        return rows

    return do


def _nothing(run: Run, row: RoundRow) -> None:
    """Rounds are told of at the end of their run."""


def _never() -> bool:
    return False


# What it came to ----------------------------------------------------------------------------------


def row_of(ask: Ask, do: Do, dataset: str, name: str, rate: float) -> Row:
    """One algorithm on one data set, all seeds."""
    row = Row(dataset=dataset, algorithm=name, rate=rate)
    rows: list[RoundRow] = []
    try:
        for seed in range(ask.seeds):
            rows += do(run_of(ask, dataset, name, seed, rate))
    except HedgerowError as error:
        return msgspec.structs.replace(row, failed=str(error))
    return measured(row, rows)


def measured(row: Row, rows: Sequence[RoundRow]) -> Row:
    """The result of one configuration, with the figures of all rows of all its seeds."""
    trial = TRIALS[row.dataset]
    (summary,) = summarise(rows, trial.target)
    ends = [one for one in rows if one.device_mean is not None]
    last = max((one.round for one in ends), default=0)
    return msgspec.structs.replace(
        row,
        accuracy=_rounded(summary.accuracy),
        worst_decile=_rounded(summary.worst_decile),
        rounds=_rounded(summary.rounds_to_target),
        bytes_up=_rounded(summary.bytes_up_to_target),
        device_accuracy=_mean([one.device_mean or 0.0 for one in ends if one.round == last]),
        low=_rounded(summary.accuracy_min),
        high=_rounded(summary.accuracy_max),
        target=trial.target,
        seeds=summary.seeds,
    )


def _accuracy(row: Row) -> float:
    """What algorithms are compared by; 0 for a run that failed."""
    value = row.device_accuracy if TRIALS[row.dataset].natural else row.accuracy
    return value or 0.0


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(result: NonIidResult) -> str:
    """The rows for people to read."""
    head = ("data", "algorithm", "accuracy", "devices", "worst tenth", "rounds", "MB up")
    lines: list[tuple[str, ...]] = [head]
    for row in result.results:
        megabytes = None if row.bytes_up is None else row.bytes_up / 1e6
        figures = (row.accuracy, row.device_accuracy, row.worst_decile)
        cells = ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        cells += ["–" if figure is None else f"{figure:.1f}" for figure in (row.rounds, megabytes)]
        lines.append((row.dataset, row.algorithm, *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    margins = ", ".join(
        f"{name} {points:+.1f}" for name, points in result.default_margin_points.items()
    )
    text += [f"default above plain fedavg, points: {margins}"]
    if result.leave_one_wearer_out is not None:
        text += [f"a wearer nobody trained on: {result.leave_one_wearer_out:.3f}"]
    return "\n".join(text)
