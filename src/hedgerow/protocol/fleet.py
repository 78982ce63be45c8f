"""What a coordinator knows, and what can happen to it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.selection import AnyPolicy, Candidate, Memory, Outcome, Uniform
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.widths import Submodel
from hedgerow.protocol.learning import Shape
from hedgerow.seal.codec import Codec
from hedgerow.wire.messages import (
    PATCHES_MAX,
    BlobRef,
    CheckIn,
    FromDevice,
    ModelRef,
    Patches,
    Report,
    base_of,
)


class RoundRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rounds go. `cohort` updates are wanted, `quorum` suffice at the deadline.

    A round opens when `devices_min` devices (at least the quorum) are present. More than `cohort`
    are invited, so that it is met although `over_selection` (a share, 0 to <1)
    of those invited does not answer. `rounds` 0 means without end. A device counts as present for
    `presence_seconds` after its last word. A round that fell short is followed by a pause of
    `retry_seconds`, one that succeeded by `pause_seconds`. At its start the coordinator asks every
    device to check in, spread over `roll_call_seconds` or more, so that no more than about
    `check_ins_per_second_max` come at once; a fleet that is larger than its own rhythm allows is
    told to come less often.

    Without rounds (an asynchronous algorithm) `cohort` devices are at work at any time.
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
    check_ins_per_second_max: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 50.0
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
    """A device as the coordinator knows it.

    `settled` is the last round of which its update was counted (without rounds: has its outcome),
    as known when that round's model was made; `next_at` is when it was told to come again.
    """

    name: str = ""
    seen_at: float = -1e18
    samples: int = 0
    model_version: int = 0
    report: Report | None = None
    settled: int = 0
    next_at: float = -1e18
    said: CheckIn | None = None

    def candidate(self, device: str) -> Candidate:
        """What selection is told of it."""
        said = self.said
        if said is None:
            return Candidate(id=device, samples=self.samples)
        return Candidate(
            id=device,
            samples=self.samples,
            battery=said.battery,
            on_power=said.on_power,
            metered=said.metered,
            data_age_seconds=said.data_age_seconds,
            link_bytes_per_second=said.link_bytes_per_second,
            labels=said.labels,
        )


@dataclass(slots=True)
class OpenRound:
    """The round in progress. `cohort` says how far each invited device is.

    `version` is that of the model it is to improve. `settled` are the devices whose update has its
    outcome, with the round they were offered, `outcomes` what those told whose update counts, and
    `changes`, by place among those, what they changed of the last layer, for a policy that wants
    to know.
    """

    number: int
    model: ModelRef
    plan: LocalPlan
    target: int
    cohort: dict[str, str]
    opened_at: float
    version: int = 0
    samples: int = 0
    terms: int = 0
    settled: dict[str, int] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    changes: dict[int, Vector] = field(default_factory=dict)
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter(self.cohort.values())

    def count(self, *phases: str) -> int:
        """How many of the cohort are in one of those phases."""
        return sum(self.counts[phase] for phase in phases)

    def move(self, device: str, phase: str) -> None:
        """A device is in another phase now."""
        before = self.cohort.get(device)
        if before is not None:
            self.counts[before] -= 1
        self.counts[phase] += 1
        self.cohort[device] = phase


@dataclass(slots=True)
class Slot:
    """A device at work where there are no rounds: for which round, and until when it is awaited."""

    round: int
    until: float
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """The patches of the last versions, oldest first: the last one leads to the current model."""

    codec: Codec
    seeds: int
    blobs: tuple[BlobRef, ...] = ()
    kept: int = 16

    def after(self, patch: BlobRef | None) -> "Way":
        """With one more; without any where this version has none."""
        blobs = () if patch is None else (*self.blobs, patch)[-min(self.kept, PATCHES_MAX) :]
        return Way(self.codec, self.seeds, blobs, self.kept)

    def since(self, version: int, model: ModelRef) -> Patches | None:
        """How a device that holds `version` comes to `model`, if that is fewer bytes."""
        lacks = model.version - version
        if not 0 < lacks <= len(self.blobs):
            return None
        blobs = self.blobs[-lacks:]
        if sum(blob.bytes for blob in blobs) >= model.bytes:
            return None
        return Patches(since=version, codec=self.codec, seed=self.seeds, blobs=blobs)


@dataclass(slots=True)
class CoordinatorState:
    """All a coordinator knows, bar the sum of the round in progress.

    `since_round` is the first round of this algorithm and these codecs; `recent` are the versions
    of the last models by `base_of`. Where there are no rounds, `slots` are the devices at work,
    `bench` those next in turn, `passed` those not to be asked again before the next model, and
    `closing` is what that model is made of while it is not yet there to be fetched.
    """

    rules: RoundRules
    algorithm: AnyAlgorithm
    plan: LocalPlan
    layout: Layout
    model: ModelRef
    members: dict[str, Member]
    codecs: tuple[Codec, ...] = (Codec(),)
    policy: AnyPolicy = field(default_factory=Uniform)
    memory: Memory = field(default_factory=Memory)
    way: Way | None = None
    phase: str = "idle"
    last_round: int = 0
    since_round: int = 0
    rounds_done: int = 0
    open: OpenRound | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    shortfall: int = 0
    """Messages that must come before a quorum can be present: each brings one device at most."""
    recent: dict[bytes, int] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    bench: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    closing: OpenRound | None = None
    watching: bool = False
    """A timer for the slots is set."""
    parts: tuple[Submodel, ...] = ()
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        self.shape = Shape(self.algorithm, self.layout, self.parts)
        self.recent.setdefault(base_of(self.model), self.model.version)

    @property
    def parameters(self) -> int:
        """Shared parameters of the model."""
        return self.layout.shared_size

    @property
    def versions_kept(self) -> int:
        """How many of the last models an update may have started from."""
        return 1 + (self.algorithm.staleness_max if isinstance(self.algorithm, FedBuff) else 0)

    def is_present(self, member: Member, now: float) -> bool:
        """Whether a device counts as there: heard of lately, or not expected before."""
        return now - max(member.seen_at, member.next_at) <= self.rules.presence_seconds

    def present(self, now: float) -> Iterable[str]:
        """Devices that are there and have something to learn from."""
        return (
            device
            for device, member in self.members.items()
            if member.samples > 0 and self.is_present(member, now)
        )


# Events -------------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    """The shell is up; everything saved was restored and the journal was replayed."""


class Joined(msgspec.Struct, frozen=True):
    """A device was enrolled, or its enrolment was read back."""

    device: str
    name: str


class EnrolmentAsked(msgspec.Struct, frozen=True):
    """A device that holds the join credential asks to come in, in a message it signed."""

    device: str
    name: str


class Received(msgspec.Struct, frozen=True):
    """A message came from `device`, authenticated and decoded."""

    device: str
    message: FromDevice


class Refused(msgspec.Struct, frozen=True):
    """Something came from `device` that is no message: `reason` as `PeerError` gives it."""

    device: str
    reason: str


class TimerFired(msgspec.Struct, frozen=True):
    """A timer ran out."""

    name: str


class Aggregated(msgspec.Struct, frozen=True):
    """The round's model can be fetched, and so can `patch`, which leads to it from the last one."""

    round: int
    model: ModelRef
    patch: BlobRef | None = None


Event = Started | Joined | EnrolmentAsked | Received | Refused | TimerFired | Aggregated
