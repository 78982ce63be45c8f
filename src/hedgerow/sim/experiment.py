"""An experiment: what `experiment.toml` says, and the runs it comes to.

    [data]                        # hedgerow.sim.data_settings
    source = "fashion"
    [algorithm]
    name = "fedavg"
    [sweep]                       # lists: every combination is a run
    "algorithm.name" = ["fedavg", "scaffold"]
    [[cases]]                     # or: each of these is a run, with these settings on top
    label = "slow"
    devices.seconds_per_sample = 1

`docs/simulation.md` explains every setting.
"""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.selection import AnyPolicy, Uniform
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol.fleet import RoundRules
from hedgerow.seal.codec import Codec
from hedgerow.sim.availability import Always, AnyAvailability, Trace
from hedgerow.sim.data_settings import DataSettings
from hedgerow.sim.devices import DeviceSettings, Surroundings
from hedgerow.sim.energy import EnergySettings, Share
from hedgerow.sim.network import NetworkSettings
from hedgerow.wire.messages import PATCHES_MAX

RUNS_MAX = 1_000
HELP = "docs/simulation.md explains every setting"


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`bundle`: the name of a model that comes with Hedgerow, or the path of a bundle."""

    bundle: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] = "watch"


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured: the global test data after every `every` rounds, each device's own data
    after every `devices_every` and the last (0: never), on at most `devices_max` devices. `target`
    is the accuracy that `*_to_target` speaks of.
    """

    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    devices_every: Annotated[int, msgspec.Meta(ge=0)] = 10
    devices_max: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    target: Share | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`format` of the results, and how often a run is kept so that it can be taken up again."""

    format: Literal["jsonl", "parquet"] = "jsonl"
    checkpoint_rounds: Annotated[int, msgspec.Meta(ge=1)] = 5


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of an experiment, but for its seed.

    `mode` "rounds": the algorithm alone, for comparisons and for millions of clients; time, bytes
    and energy are estimated round by round. "fleet": the machines of devices and coordinator and
    every message between them, with their faults. `seconds_max`: virtual time after which a run
    ends (0: none). A device up to `patches_kept` versions behind fetches patches, if there are any.
    """

    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    mode: Literal["rounds", "fleet"] = "rounds"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds_max: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    algorithm: AnyAlgorithm = FedAvg()
    plan: LocalPlan | None = None
    codec: Codec = Codec()
    down: Codec | None = None
    patches_kept: Annotated[int, msgspec.Meta(ge=1, le=PATCHES_MAX)] = 16
    selection: AnyPolicy = Uniform()
    rounds: RoundRules = RoundRules(quorum=1, rounds=50)
    devices: DeviceSettings = DeviceSettings()
    network: NetworkSettings = NetworkSettings()
    energy: EnergySettings = EnergySettings()
    availability: AnyAvailability = Always()
    measure: Measure = Measure()
    output: Output = Output()

    def __post_init__(self) -> None:
        if self.rounds.rounds < 1 and not self.seconds_max:
            raise UsageError(
                "the experiment has no end; set rounds.rounds to 1 or more, or seconds_max"
            )
        if self.algorithm.asynchronous and self.mode == "rounds":
            raise UsageError(
                f"algorithm {self.algorithm.__struct_config__.tag!r} knows no rounds; "
                'set mode = "fleet", where devices answer when they can'
            )

        if self.algorithm.schedule.kind == "cosine" and self.rounds.rounds < 2:
            raise UsageError(
                "a cosine schedule falls from the first round to the last; set rounds.rounds to 2 "
                'or more, or algorithm.schedule.kind = "constant"'
            )

    @property
    def surroundings(self) -> Surroundings:
        """What is around the devices."""
        return Surroundings(
            devices=self.devices,
            network=self.network,
            energy=self.energy,
            availability=self.availability,
        )


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration with one seed. `label` tells it from the other configurations."""

    label: str
    seed: int
    experiment: Experiment


def read(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The TOML at `path` as a tree, with `changes` (`name=value`, the value as TOML) on top.

    Raises:
        UsageError: it cannot be read or is not TOML, or a change is no `name=value`.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the experiment {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the experiment {path} is not TOML: {error}; mend that line") from error
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{change!r} has no '='; wanted NAME=VALUE, as rounds.cohort=5")
        put(tree, name.strip(), _value(text.strip()))
    return tree


def runs(tree: Mapping[str, Any], base: Path, seeds: int = 1) -> list[Run]:
    """Every run of an experiment, seeds innermost. Paths in it are relative to `base`.

    Raises:
        UsageError: a setting is unknown or does not fit; the message names it.
    """
    out = []
    labels: dict[str, Mapping[str, Any]] = {}
    for label, settings in _configurations(tree):
        if label in labels:
            raise UsageError(f"two configurations are called {label!r}; give each case its label")
        labels[label] = settings
        experiment = _experiment(settings, base, label if len(labels) > 1 else "")
        out += [
            Run(label=label, seed=experiment.seed + number, experiment=experiment)
            for number in range(seeds)
        ]
    if len(out) > RUNS_MAX:
        raise UsageError(f"the experiment comes to {len(out)} runs, at most {RUNS_MAX} are made")
    return out


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set a setting by its dotted name.

    A new `name`, `policy` of a table begins the table afresh: the settings of another algorithm
    would not fit it.
    """
    *tables, last = name.split(".")
    parent: dict[str, Any] | None = None
    for table in tables:
        parent, tree = tree, tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise UsageError(f"setting {name!r} goes into {table!r}, which is no table")
    if last in {"name", "policy"} and parent is not None and tree.get(last, value) != value:
        tree = parent[tables[-1]] = {}
    tree[last] = value


def merge(tree: dict[str, Any], over: Mapping[str, Any], path: str = "") -> None:
    """Put every setting of `over` into `tree`, table by table."""
    for tag in ("name", "policy"):  # first, as it may begin a table afresh
        if tag in over and path:
            put(tree, f"{path}.{tag}", over[tag])
    for name, value in over.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            merge(tree, value, full)
        else:
            put(tree, full, value)


def _configurations(tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each configuration and its label: cases outside, the sweep's combinations inside."""
    plain = {name: value for name, value in tree.items() if name not in {"sweep", "cases"}}
    cases, sweep = tree.get("cases", [{}]), _flat(tree.get("sweep", {}))
    if not isinstance(cases, list) or not cases or not all(isinstance(c, dict) for c in cases):
        raise UsageError("cases is no list of tables; write each as [[cases]]")
    for place, case in enumerate(cases):
        name = case.get("label", f"case {place + 1}" if len(cases) > 1 else "")
        for values in itertools.product(*sweep.values()):
            settings = copy.deepcopy(plain)
            merge(settings, {key: value for key, value in case.items() if key != "label"})
            for key, value in zip(sweep, values, strict=True):
                put(settings, key, copy.deepcopy(value))
            parts = [name, *(_worded(k, v) for k, v in zip(sweep, values, strict=True))]
            yield " · ".join(part for part in parts if part) or _own_name(settings), settings


def _flat(sweep: Any, path: str = "") -> dict[str, list[Any]]:
    """The lists under [sweep] by their dotted names, however they were written."""
    if not isinstance(sweep, Mapping):
        raise UsageError(f"sweep{path and '.' + path} is no list of values; wanted [a, b, …]")
    out: dict[str, list[Any]] = {}
    for name, value in sweep.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, list) and value:
            out[full] = value
        else:
            out |= _flat(value, full)
    return out


def _worded(name: str, value: Any) -> str:
    """A swept setting as part of a label."""
    last = name.rpartition(".")[2]
    if isinstance(value, Mapping):
        named = value.get("name", value.get("policy"))
        inner = (_worded(str(key), each) for key, each in value.items())
        return str(named) if named else " ".join(inner) or f"plain {last}"
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return " + ".join(_worded(name, each) for each in value) or f"no {last}"
    return str(value) if last in {"name", "policy", "source", "bundle"} else f"{last} {value}"


def _own_name(settings: Mapping[str, Any]) -> str:
    algorithm = settings.get("algorithm", {})
    return str(algorithm.get("name", "fedavg")) if isinstance(algorithm, Mapping) else "run"


def _experiment(settings: Mapping[str, Any], base: Path, label: str) -> Experiment:
    where = f" (configuration {label!r})" if label else ""
    tree = dict(settings)
    rounds = tree.get("rounds", {})
    if isinstance(rounds, dict):
        tree["rounds"] = {"quorum": 1, "rounds": 50, **rounds}
    try:
        experiment = msgspec.convert(tree, Experiment)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"the experiment does not fit: {error}{where}; {HELP}") from error
    return _with_paths(experiment, base)


def _with_paths(experiment: Experiment, base: Path) -> Experiment:
    """Traces, and folders of data (written with a slash), are meant from beside the experiment."""

    def placed(availability: AnyAvailability | None) -> AnyAvailability | None:
        if isinstance(availability, Trace):
            return msgspec.structs.replace(availability, file=str(base / availability.file))
        return availability

    data = experiment.data
    if "/" in data.source:
        data = msgspec.structs.replace(data, source=str(base / Path(data.source).expanduser()))
    tiers = tuple(
        msgspec.structs.replace(tier, availability=placed(tier.availability))
        for tier in experiment.devices.tiers
    )
    return msgspec.structs.replace(
        experiment,
        data=data,
        availability=placed(experiment.availability) or Always(),
        devices=msgspec.structs.replace(experiment.devices, tiers=tiers),
    )


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
