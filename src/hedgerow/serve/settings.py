"""Settings: one TOML a role, `HEDGEROW_*` over it, flags over that.

`HEDGEROW_ROUNDS__COHORT=5` sets `cohort` in `[rounds]`. Unknown names and wrong types are errors
that name the place. Every field is explained in `docs/settings.md`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
import platformdirs

from hedgerow.algorithms.base import Schedule, Weighting
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.selection import AnyPolicy, Budget, Uniform
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.decide.anomaly import AnomalySettings
from hedgerow.decide.drift import DriftSettings
from hedgerow.io import plugins
from hedgerow.io.device_store import StoreLimits
from hedgerow.io.egress import EgressLimits
from hedgerow.io.energy import EnergySettings
from hedgerow.protocol.fleet import RoundRules
from hedgerow.protocol.rollout_state import RolloutRules
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.seal.codec import Codec
from hedgerow.serve.forwarding import ForwardRules
from hedgerow.serve.inference.base import InferenceSettings
from hedgerow.serve.onsite import OnSiteSettings
from hedgerow.wire.messages import CODECS_MAX, PATCHES_MAX

PREFIX = "HEDGEROW_"
RESERVED = {"HEDGEROW_DATA", "HEDGEROW_CONFIG", "HEDGEROW_LOG_FORMAT"}
"""Variables that are no settings of a role."""


def state_directory(role: str) -> Path:
    """Where a role keeps its state unless told otherwise."""
    return Path(platformdirs.user_state_dir("hedgerow", appauthor=False)) / role


Port: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner's page on a device. Loopback unless told otherwise; elsewhere a browser is paired.

    `hosts` are more names the page answers to; `pair` "always" asks for pairing on loopback too.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8421
    hosts: tuple[str, ...] = ()
    pair: Literal["auto", "always"] = "auto"
    certificate: Path | None = None
    key: Path | None = None


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `hedgerow device`."""

    name: str = ""
    state: Path = msgspec.field(default_factory=lambda: state_directory("device"))
    join: Path | None = None
    app: str = "watch"
    check_in_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    report_seconds: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    personalise_after_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    personalise_epochs: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    personalise_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    capacity: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    upload_seconds_max: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 30.0
    share_label_counts: bool = False
    metered: bool = False
    power: Literal["auto", "mains", "battery"] = "auto"
    store: StoreLimits = StoreLimits()
    sensors: tuple[dict[str, Any], ...] = ()
    actuators: tuple[dict[str, Any], ...] = ()
    streams_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4096
    alert_labels: tuple[str, ...] = ()
    keep_windows: Literal["exceptions", "all", "none"] = "exceptions"
    console: ConsoleSettings = ConsoleSettings()
    inference: InferenceSettings = InferenceSettings()
    anomaly: AnomalySettings = AnomalySettings()
    learning: OnSiteSettings = OnSiteSettings()
    trial: TrialRules = TrialRules()
    forward: ForwardRules = ForwardRules()
    egress: EgressLimits = EgressLimits()
    energy: EnergySettings = EnergySettings()


class DashboardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fleet's page. Loopback unless told otherwise; port 0 takes a free one."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8420


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The NATS server: embedded on `host`:`port`, or one elsewhere by `url`.

    `advertise` is the URL devices reach it by; it goes into the join file. Empty: the same.
    """

    url: str = ""
    host: str = "127.0.0.1"
    port: Port = 4222
    advertise: str = ""


class CodecSettings(Codec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How updates go up, `stages` and `feedback`, and how models come `down` (None: whole).

    `weaker` are codecs for devices whose link does not carry the first one in time, each smaller
    than the one before. A device that is up to `patches_kept` versions behind fetches patches.
    """

    weaker: Annotated[tuple[Codec, ...], msgspec.Meta(max_length=CODECS_MAX - 1)] = ()
    down: Codec | None = None
    patches_kept: Annotated[int, msgspec.Meta(ge=1, le=PATCHES_MAX)] = 16

    @property
    def up(self) -> tuple[Codec, ...]:
        """The codecs an update may be encoded with, the most faithful first."""
        own = {name: getattr(self, name) for name in Codec.__struct_fields__}
        return (Codec(**own), *self.weaker)


class CoordinatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `hedgerow coordinator`."""

    fleet: str = "hedgerow"
    state: Path = msgspec.field(default_factory=lambda: state_directory("coordinator"))
    app: str = "watch"
    database: str = ""
    nats: NatsSettings = NatsSettings()
    dashboard: DashboardSettings = DashboardSettings()
    rounds: RoundRules = RoundRules()
    algorithm: AnyAlgorithm = FedAvg()
    codec: CodecSettings = CodecSettings()
    selection: AnyPolicy = Uniform()
    rollout: RolloutRules = RolloutRules()
    plan: LocalPlan | None = None

    def __post_init__(self) -> None:
        if self.algorithm.schedule.kind == "cosine" and self.rounds.rounds < 2:
            raise UsageError(
                f"algorithm.schedule.kind is 'cosine' over {self.rounds.rounds} rounds; set "
                "rounds.rounds to 2 or more, or schedule.kind to 'constant'"
            )


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `hedgerow server`: the NATS server alone, for a coordinator elsewhere."""

    fleet: str = "hedgerow"
    state: Path = msgspec.field(default_factory=lambda: state_directory("coordinator"))
    nats: NatsSettings = NatsSettings()


SETTINGS: tuple[type, ...] = (
    *(DeviceSettings, CoordinatorSettings, ServerSettings),
    *(AnomalySettings, DriftSettings, OnSiteSettings),
    *(StoreLimits, InferenceSettings, TrialRules, RolloutRules, ForwardRules, EnergySettings),
    *(EgressLimits, ConsoleSettings, DashboardSettings, NatsSettings),
    *(RoundRules, FedAvg, Schedule, Weighting, LocalPlan, CodecSettings, Uniform, Budget),
)

TAGS = {"algorithm": ("name", "fedavg"), "selection": ("policy", "uniform")}
"""Tables of which there are several kinds: the field that says which, and the usual one."""

S = TypeVar("S", bound=msgspec.Struct)
_PLACE = re.compile(r"at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")


def load_settings(
    kind: type[S],
    path: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> S:
    """Settings of one role: the file, then the environment, then flags (dotted names).

    Raises:
        UsageError: no such file, not TOML, or a setting that does not fit; says which and what
            was wanted.
    """
    text, tree = _read(path)
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in RESERVED:
            _put(tree, name.removeprefix(PREFIX).lower().split("__"), value)
    for name, value in flags.items():
        if value is not None:
            _put(tree, name.split("."), value)
    for table, (field, value) in TAGS.items():
        if isinstance(tree.get(table), dict):  # a setting of it may be given without its name
            tree[table].setdefault(field, value)
    try:
        return msgspec.convert(tree, kind, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, UsageError) as error:
        source = str(path) if path is not None else "flags and environment"
        place = line_of(text, str(error))
        raise UsageError(
            f"settings from {source}{place}: {error}; docs/settings.md lists every setting"
        ) from error


def line_of(text: str, error: str) -> str:
    """Where in a TOML text the setting stands that an error names: `", line 7"`, or nothing."""
    found, unknown = _PLACE.search(error), _UNKNOWN.search(error)
    path = re.sub(r"\[(\d+)\]", r".\1", found[1]).split(".") if found else []
    wanted = [part for part in [*path, *([unknown[1]] if unknown else [])] if part]
    table: list[str] = []
    counts: dict[str, int] = {}
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("[["):
            name = bare.strip("[] \t")
            table = [*name.split("."), str(counts.get(name, 0))]
            counts[name] = counts.get(name, 0) + 1
            here = table
        elif bare.startswith("["):
            here = table = bare.split("#")[0].strip("[] \t").split(".")
        else:
            here = [*table, *bare.partition("=")[0].strip().strip("\"'").split(".")]
        if here and here == wanted[: len(here)] and (len(here) == len(wanted) or not best):
            best = number
            if len(here) == len(wanted):
                break
    return f", line {best}" if wanted and best else ""


def line_within(text: str, table: str, error: str) -> str:
    """As `line_of`, for an error that names its place within a table such as `sensors[1]`."""
    found, unknown = _PLACE.search(error), _UNKNOWN.search(error)
    inner = f".{found[1]}" if found else ""
    return line_of(text, f"{unknown[0] if unknown else ''} at `$.{table}{inner}`")


def check_connections(settings: DeviceSettings, path: Path | None) -> None:
    """See that each sensor and actuator has settings of its kind; `path`: the file they are from.

    Raises:
        UsageError: one does not; says which, and in which line.
    """
    text, _ = _read(path)
    source = str(path) if path is not None else "flags and environment"
    for what, tables in (("sensors", settings.sensors), ("actuators", settings.actuators)):
        make = plugins.sensor if what == "sensors" else plugins.actuator
        for number, table in enumerate(tables):
            try:
                make(table)
            except UsageError as error:
                place = line_within(text, f"{what}[{number}]", str(error))
                raise UsageError(f"settings from {source}{place}: {error}") from error


def environment() -> Mapping[str, str]:
    """The process's environment, the one place settings read it."""
    return os.environ


def _read(path: Path | None) -> tuple[str, dict[str, Any]]:
    """The text of a settings file and what it says; nothing without a file."""
    if path is None:
        return "", {}
    try:
        text = path.read_text()
        return text, tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read settings {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"settings {path} are not TOML: {error}; mend that line") from error


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set `sensors.0.speed` and the like; a number is a place in a list."""
    place: Any = tree
    for name, following in zip(path, [*path[1:], ""], strict=True):
        last = following == ""
        fresh: Any = value if last else [] if following.isdecimal() else {}
        if isinstance(place, list):
            number = int(name) if name.isdecimal() else -1
            if not 0 <= number <= len(place):
                raise UsageError(
                    f"setting {'.'.join(path)}: {name!r} is no place in a list of {len(place)}"
                )
            place += [fresh] if number == len(place) else []
            place[number] = value if last else place[number]
            place = place[number]
        elif isinstance(place, dict):
            place[name] = value if last else place.get(name, fresh)
            place = place[name]
        else:
            raise UsageError(f"setting {'.'.join(path)} goes into a value, which is no table")


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(str(value)).expanduser()
    raise NotImplementedError(kind)
