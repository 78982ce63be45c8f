"""What a coordinator knows, and what can happen to it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.wire.messages import FromDevice, ModelRef, Report


class RoundRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rounds go. `cohort` updates are wanted, `quorum` suffice at the deadline.

    A round opens when `devices_min` devices (at least the quorum) are present. More than `cohort`
    are invited, so that it is met although `over_selection` (a share, 0 to <1)
    of those invited does not answer. `rounds` 0 means without end. A device counts as present for
    `presence_seconds` after its last word. A round that fell short is followed by a pause of
    `retry_seconds`, one that succeeded by `pause_seconds`. At its start the coordinator asks every
    device to check in, spread over `roll_call_seconds`.
    """

    cohort: Annotated[int, msgspec.Meta(ge=1)] = 10
    quorum: Annotated[int, msgspec.Meta(ge=1)] = 2
    devices_min: Annotated[int, msgspec.Meta(ge=0)] = 0
    over_selection: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)] = 600.0
    pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    retry_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    presence_seconds: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    roll_call_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    devices_max: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    rounds: Annotated[int, msgspec.Meta(ge=0)] = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.quorum > self.cohort:
            raise UsageError(
                f"rounds want a quorum of {self.quorum} out of a cohort of {self.cohort}; "
                "set quorum to at most cohort"
            )


@dataclass(slots=True)
class Member:
    """A device as the coordinator knows it."""

    name: str = ""
    seen_at: float = -1e18
    samples: int = 0
    model_version: int = 0
    report: Report | None = None


@dataclass(slots=True)
class OpenRound:
    """The round in progress. `cohort` says how far each invited device is."""

    number: int
    model: ModelRef
    plan: LocalPlan
    target: int
    cohort: dict[str, str]
    opened_at: float
    samples: int = 0
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter(self.cohort.values())

    def count(self, *phases: str) -> int:
        """How many of the cohort are in one of those phases."""
        return sum(self.counts[phase] for phase in phases)

    def move(self, device: str, phase: str) -> None:
        """A device of the cohort is in another phase now."""
        self.counts[self.cohort[device]] -= 1
        self.counts[phase] += 1
        self.cohort[device] = phase


@dataclass(slots=True)
class CoordinatorState:
    """All a coordinator knows, bar the sum of the round in progress."""

    rules: RoundRules
    algorithm: FedAvg
    plan: LocalPlan
    parameters: int
    model: ModelRef
    members: dict[str, Member]
    phase: str = "idle"
    last_round: int = 0
    rounds_done: int = 0
    open: OpenRound | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    shortfall: int = 0
    """Messages that must come before a quorum can be present: each brings one device at most."""


# Events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The shell is up; everything saved was restored and the journal was replayed."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A device was enrolled, or its enrolment was read back."""

    device: str
    name: str


@dataclass(frozen=True, slots=True)
class EnrolmentAsked:
    """A device that holds the join credential asks to come in, in a message it signed."""

    device: str
    name: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came from `device`, authenticated and decoded."""

    device: str
    message: FromDevice


@dataclass(frozen=True, slots=True)
class Refused:
    """Something came from `device` that is no message: `reason` as `PeerError` gives it."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer ran out."""

    name: str


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The round was summed up and its model is kept."""

    round: int
    model: ModelRef


Event = Started | Joined | EnrolmentAsked | Received | Refused | TimerFired | Aggregated
