"""Virtual time to a target accuracy, in rounds and without, in a fleet with a tail.

The fleet is the one of `asynchronous.toml` beside this file: machines of devices and coordinator,
every message carried. Rounds are given what helps them: a deadline, more devices invited than
wanted, both. Without rounds as many devices are at work at any time as a round wants.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from hedgerow.algorithms.selection import over_selected
from hedgerow.bench.experiments import Asked, Ground, course_of
from hedgerow.core.errors import HedgerowError
from hedgerow.protocol.fleet import RoundRules
from hedgerow.sim.experiment import Run, read, runs
from hedgerow.sim.results import RoundRow

SETTINGS = "asynchronous.toml"
IN_A_ROW = 2
"""The target is reached with so many models in a row at it: one alone may be a lucky hit."""
PLAIN, DEADLINE, THIRD, TWICE = (
    "rounds",
    "rounds, short deadline",
    "rounds, a third more invited",
    "rounds, twice as many invited",
)
BUFFERED, BUFFERED_THIRD, BUFFERED_TWICE = (
    "no rounds",
    "no rounds, a third more at work",
    "no rounds, twice as many at work",
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the fleet: means over the seeds, up to the second model in a row that is at
    the target.

    `at_work`: how many devices are asked for one round, or are at work at any time without rounds.
    """

    name: str
    at_work: int
    seconds: float
    versions: float
    updates: float
    stale: float
    wasted: float
    bytes_up: float
    joules: float


class AsynchronousResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `hedgerow bench asynchronous --json` prints.

    `sync_seconds` is the best of rounds as they are usually helped (a deadline, a third more
    invited), `async_seconds` without rounds; `ratio` is one over the other. `plain_ratio`: rounds
    that wait for everybody up to a long deadline. `third_ratio` and `twice_ratio`: with a third
    more, or twice as many, devices asked for a round and at work without.
    """

    target: float
    seeds: int
    sync_seconds: float
    async_seconds: float
    ratio: float
    plain_ratio: float
    third_ratio: float
    twice_ratio: float
    cases: list[Case]


def bench_asynchronous(
    seeds: int = 3, told: Callable[[str], None] = lambda line: None, changes: Sequence[str] = ()
) -> AsynchronousResult:
    """Run every case with every seed until it reaches the target; `changes` as `--set` takes them.

    Raises:
        HedgerowError: a case does not reach it.
    """
    text = resources.files("hedgerow.bench").joinpath(SETTINGS).read_text("utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SETTINGS
        path.write_text(text, "utf-8")
        listed = runs(read(path, changes), path.parent, seeds)
    found: dict[str, list[RoundRow]] = {}
    ground = Ground(Path())
    for run in sorted(listed, key=lambda run: run.seed):  # one data set after the other
        row = _to_target(run, ground)
        told(f"{run.label}, seed {run.seed}: {row.seconds:.0f} s, {row.updates} updates")
        found.setdefault(run.label, []).append(row)
    rules = {run.label: run.experiment.rounds for run in listed}
    cases = {name: _case(name, rules[name], rows) for name, rows in found.items()}
    sync = min(cases[DEADLINE].seconds, cases[THIRD].seconds)
    buffered = cases[BUFFERED].seconds
    target = listed[0].experiment.measure.target
    assert target is not None
    return AsynchronousResult(
        target=target,
        seeds=seeds,
        sync_seconds=sync,
        async_seconds=buffered,
        ratio=sync / buffered,
        plain_ratio=cases[PLAIN].seconds / buffered,
        third_ratio=cases[THIRD].seconds / cases[BUFFERED_THIRD].seconds,
        twice_ratio=cases[TWICE].seconds / cases[BUFFERED_TWICE].seconds,
        cases=list(cases.values()),
    )


def _to_target(run: Run, ground: Ground) -> RoundRow:
    """The row at which the target is reached."""
    target, hits = run.experiment.measure.target or 1.0, list[RoundRow]()

    def told(_: Run, row: RoundRow) -> None:
        if len(hits) < IN_A_ROW:
            _count(hits, row, target)

    def held() -> bool:
        return len(hits) == IN_A_ROW

    with course_of(run, ground, Asked(), None, told, held) as course:
        course.go()
    if not held():
        raise HedgerowError(
            f"{run.label!r} with seed {run.seed} did not reach {target:.0%} in "
            f"{course.rows[-1].round} rounds; raise rounds.rounds in {SETTINGS}"
        )
    return hits[-1]


def _count(hits: list[RoundRow], row: RoundRow, target: float) -> None:
    """Put the row to those at the target; one below it and they begin anew."""
    if row.accuracy is None:
        return
    if row.accuracy >= target:
        hits.append(row)
    else:
        hits.clear()


def _case(name: str, rules: RoundRules, rows: list[RoundRow]) -> Case:
    def mean(field: str) -> float:
        return float(np.mean([getattr(row, field) for row in rows]))

    return Case(
        name=name,
        at_work=over_selected(rules.cohort, rules.over_selection),
        seconds=mean("seconds"),
        versions=mean("round"),
        updates=mean("updates"),
        stale=mean("stale"),
        wasted=mean("wasted"),
        bytes_up=mean("bytes_up"),
        joules=mean("joules"),
    )
