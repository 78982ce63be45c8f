"""Experiments of the simulator, from TOML to results: data and bundles are found, runs are run.

    results = run_all(runs_of(Path("experiment.toml")), home=Path("results"))

The folder `home` holds a folder for each run, which can be taken up again, and in the end the
results of all, a summary and the report.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import queue
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.resource_aware import ResourceAware
from hedgerow.bench.datasets import federated
from hedgerow.core.errors import UsageError
from hedgerow.model.bundle import Bundle
from hedgerow.sim import report
from hedgerow.sim.course import Course, Moving, finished_rows, rows_so_far
from hedgerow.sim.data import FederatedData
from hedgerow.sim.devices import Devices
from hedgerow.sim.engine import Engine
from hedgerow.sim.experiment import Run
from hedgerow.sim.fleet import Fleet
from hedgerow.sim.gauge import EngineGauge
from hedgerow.sim.keeping import names_of
from hedgerow.sim.ray import Cluster, session
from hedgerow.sim.results import RoundRow, Summary, encode_lines, summarise, write_parquet
from hedgerow.sim.rounds import Rounds
from hedgerow.sim.shares import Alone
from hedgerow.sim.states import ClientStates

Told: TypeAlias = Callable[[Run, RoundRow], None]
Stop: TypeAlias = Callable[[], bool]
BUNDLES = {"watch": "hedgerow.apps.watch"}
"""Bundles that come with Hedgerow, by name: the package each lies in. Others: `bench.models`."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How to run: engine threads (0: all processors), a Ray cluster's address ("": none)."""

    workers: int = 0
    ray: str = ""
    ray_workers: int = 0


PLAIN = Asked()


def bundle_of(name: str, base: Path) -> Bundle:
    """A bundle by the name of one that comes with Hedgerow, or by its path from `base`.

    Raises:
        UsageError: there is none, or it is not whole.
    """
    if "/" in name or name.endswith(".hedgerow"):
        return Bundle.load(base / Path(name).expanduser())
    package = BUNDLES.get(name, "hedgerow.bench.models")
    found = resources.files(package).joinpath(f"{name}.hedgerow")
    if not found.is_file():
        raise UsageError(
            f"no model {name!r} comes with Hedgerow; model.bundle is one of: "
            f"{', '.join(bundle_names())}, or the path of a bundle (with a / or .hedgerow in it)"
        )
    return Bundle.from_bytes(found.read_bytes())


def bundle_names() -> list[str]:
    """The bundles that come with Hedgerow."""
    listed = resources.files("hedgerow.bench.models").iterdir()
    return sorted({*BUNDLES, *(f.name[:-9] for f in listed if f.name.endswith(".hedgerow"))})


# One run ------------------------------------------------------------------------------------------


@dataclass
class Ground:
    """What runs share: bundles and data, made once each."""

    base: Path
    bundle: Callable[[str], Bundle] = field(init=False)

    def __post_init__(self) -> None:
        self.bundle = functools.lru_cache(maxsize=4)(lambda name: bundle_of(name, self.base))
        self._data: tuple[bytes, FederatedData] | None = None

    def data(self, run: Run) -> FederatedData:
        """The run's data; the last one is kept, as runs in a row often share it."""
        settings, bundle = run.experiment.data, self.bundle(run.experiment.model.bundle)
        key = msgspec.json.encode((settings, run.experiment.model, run.seed))
        if self._data is None or self._data[0] != key:
            self._data = (key, federated(settings, bundle.manifest.input, run.seed))
        return self._data[1]


@contextmanager
def course_of(
    run: Run, ground: Ground, asked: Asked, home: Path | None, told: Told, stop: Stop
) -> Iterator[Course]:
    """A run, ready to go; its engine and workers end with the block."""
    experiment, bundle = run.experiment, ground.bundle(run.experiment.model.bundle)
    data = ground.data(run)
    layout, algorithm = bundle.manifest.layout, experiment.algorithm
    names = names_of(algorithm, layout)
    widths = widths_of(run, len(data), bundle)
    with ExitStack() as stack:
        states = stack.enter_context(ClientStates(len(data))) if names else None
        engine = stack.enter_context(
            Engine(
                bundle,
                data,
                workers=asked.workers or None,
                seed=run.seed,
                states=states,
                widths=widths,
            )
        )
        moving: Moving
        if experiment.mode == "fleet":
            if asked.ray:
                raise UsageError(
                    'a fleet of machines runs in one process; set mode = "rounds" to use --ray'
                )
            moving = Fleet(experiment, run.seed, bundle, data, engine, states=states)
        elif asked.ray:
            make = functools.partial(worker_of, bundle, data, run.seed, names, widths)
            cluster = Cluster(asked.ray, make, workers=asked.ray_workers)
            moving = Rounds(experiment, run.seed, bundle, data, stack.enter_context(cluster))
        else:
            alone = Alone(engine, data.counts, states, names)
            moving = Rounds(experiment, run.seed, bundle, data, alone)
        gauge = EngineGauge(engine, algorithm, None if asked.ray else states)
        yield Course(run, moving, gauge, len(data), home, functools.partial(told, run), stop)


def widths_of(run: Run, clients: int, bundle: Bundle) -> NDArray[np.int64] | None:
    """Which form of the model each client trains, where the algorithm has several.

    Raises:
        UsageError: a tier has one that the bundle or the algorithm does not.
    """
    algorithm = run.experiment.algorithm
    if not isinstance(algorithm, ResourceAware):
        return None
    forms = min(len(bundle.parts), algorithm.widths)
    for tier in run.experiment.devices.tiers:
        if tier.width >= forms:
            raise UsageError(
                f"tier {tier.name!r} trains width {tier.width}; bundle "
                f"{run.experiment.model.bundle!r} has {len(bundle.parts)} and the algorithm "
                f"{algorithm.widths}, counted from 0: set its width to {forms - 1} or less, or "
                "take a bundle with more (model.bundle) and raise algorithm.widths"
            )
    return Devices.draw(run.experiment.surroundings, clients, run.seed).widths()


def worker_of(
    bundle: Bundle,
    data: FederatedData,
    seed: int,
    names: dict[str, int],
    widths: NDArray[np.int64] | None,
) -> Alone:
    """One Ray worker's share of the learning; the cluster has a worker for each processor."""
    states = ClientStates(len(data)) if names else None
    engine = Engine(bundle, data, workers=1, seed=seed, states=states, widths=widths)
    return Alone(engine, data.counts, states, names)


def home_of(run: Run, folder: Path) -> Path:
    """A run's own folder: readable, and another one for other settings."""
    plain = re.sub(r"[^a-z0-9]+", "-", run.label.lower()).strip("-")[:60] or "run"
    digest = hashlib.sha256(msgspec.json.encode(run)).hexdigest()[:8]
    return folder / "runs" / f"{plain}-{run.seed}-{digest}"


# All runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """What an experiment came to. `whole`: no run was stopped before its end."""

    rows: list[RoundRow]
    summaries: list[Summary]
    whole: bool
    files: dict[str, Path]


def run_all(
    runs: Sequence[Run],
    base: Path,
    folder: Path | None = None,
    *,
    asked: Asked = PLAIN,
    jobs: int = 1,
    told: Told = lambda run, row: None,
    stop: Stop = lambda: False,
    source: str = "",
) -> Results:
    """Do every run that is not done yet, `jobs` at a time, and write the results into `folder`.

    Raises:
        UsageError: a run cannot be done as it is set.
    """
    homes = [None if folder is None else home_of(run, folder) for run in runs]
    rows: dict[int, list[RoundRow]] = {}
    for place, home in enumerate(homes):
        done = None if home is None else finished_rows(home)
        if done is not None:
            rows[place] = done
    left = [place for place in range(len(runs)) if place not in rows]
    if jobs > 1 and len(left) > 1:
        found, whole = _side_by_side(runs, homes, left, base, asked, jobs, told, stop)
    else:
        with session(asked.ray, asked.ray_workers) if asked.ray and left else nullcontext():
            found, whole = _one_by_one(runs, homes, left, base, asked, told, stop)
    rows |= found
    listed = [row for place in sorted(rows) for row in rows[place]]
    target = runs[0].experiment.measure.target
    results = Results(listed, summarise(listed, target), whole, {})
    if folder is not None:
        _write(results, runs, folder, source)
    return results


def _one_by_one(
    runs: Sequence[Run],
    homes: Sequence[Path | None],
    left: Sequence[int],
    base: Path,
    asked: Asked,
    told: Told,
    stop: Stop,
) -> tuple[dict[int, list[RoundRow]], bool]:
    ground, rows = Ground(base), {}
    for place in left:
        with course_of(runs[place], ground, asked, homes[place], told, stop) as course:
            whole = course.go()
        rows[place] = course.rows
        if not whole or stop():
            return rows, whole and place == left[-1]
    return rows, True


def _side_by_side(
    runs: Sequence[Run],
    homes: Sequence[Path | None],
    left: Sequence[int],
    base: Path,
    asked: Asked,
    jobs: int,
    told: Told,
    stop: Stop,
) -> tuple[dict[int, list[RoundRow]], bool]:
    """Runs in processes of their own; this one listens to them and passes the word to stop."""
    context = multiprocessing.get_context("spawn")
    words: Any = context.Queue()
    flag = context.Event()
    rows: dict[int, list[RoundRow]] = {}
    whole = True
    workers = msgspec.structs.replace(asked, workers=asked.workers or 1)
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(words, runs, told, stop, flag, ended))
    listener.start()
    try:
        with ProcessPoolExecutor(jobs, context, _begin_child, (words, flag)) as pool:
            asks: dict[Future[tuple[list[RoundRow], bool]], int] = {
                pool.submit(_child, place, runs[place], homes[place], base, workers): place
                for place in left
            }
            for future in as_completed(asks):
                rows[asks[future]], done = future.result()
                whole = whole and done
    finally:
        ended.set()
        listener.join()
    return rows, whole


def _listen(
    words: Any, runs: Sequence[Run], told: Told, stop: Stop, flag: Any, ended: threading.Event
) -> None:
    while True:
        if stop():
            flag.set()
        try:
            place, row = words.get(timeout=0.1)
        except queue.Empty:
            if ended.is_set():
                return
            continue
        told(runs[place], row)


_CHILD: dict[str, Any] = {}


def _begin_child(words: Any, flag: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and passes it on
    _CHILD.update(words=words, flag=flag)


def _child(
    place: int, run: Run, home: Path | None, base: Path, asked: Asked
) -> tuple[list[RoundRow], bool]:
    words, flag = _CHILD["words"], _CHILD["flag"]
    if flag.is_set():
        return ([] if home is None else rows_so_far(home)), False
    ground = _CHILD.setdefault("ground", Ground(base))

    def told(_: Run, row: RoundRow) -> None:
        words.put((place, row))

    with course_of(run, ground, asked, home, told, flag.is_set) as course:
        whole = course.go()
    return course.rows, whole


# Files --------------------------------------------------------------------------------------------


def _write(results: Results, runs: Sequence[Run], folder: Path, source: str) -> None:
    """Results, summary and report; each replaces what was there in one step."""
    output = runs[0].experiment.output.format
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results.{output}"
    if output == "parquet":
        write_parquet(results.rows, path)
    else:
        _replace(path, encode_lines(results.rows))
    results.files["results"] = path
    title = runs[0].experiment.title or "Simulation"
    target = runs[0].experiment.measure.target
    page = report.page(title, results.rows, target=target, experiment=source)
    results.files["report"] = folder / "report.html"
    _replace(results.files["report"], page.encode())
    results.files["summary"] = folder / "summary.json"
    summary = msgspec.json.format(msgspec.json.encode(results.summaries), indent=1)
    _replace(results.files["summary"], summary + b"\n")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
