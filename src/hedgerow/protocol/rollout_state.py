"""What a coordinator knows of a release on its way to the fleet, and what can happen to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

import msgspec

from hedgerow.decide.sequential import Wager, mean_above
from hedgerow.protocol.trial_rules import Error
from hedgerow.wire.messages import Recall, Release, Trial

Stage: TypeAlias = Literal["canary", "share", "all"]
Course: TypeAlias = Literal["rolling", "halted", "replaced"]

STAGES: tuple[Stage, ...] = ("canary", "share", "all")
CERTAIN = frozenset(
    (
        *("forged", "malformed", "wrong_hash", "wrong_name", "bad_bundle", "too_large"),
        *("wrong_schema", "wrong_shape", "not_finite", "cannot_run"),
    )
)
"""Reasons that no chance is involved in: the same model would fail in the same way elsewhere."""
NEITHER = frozenset({"recalled", "outdated", "undecided", "no_room"})
"""Reasons that say nothing against the model."""
ENDED = frozenset({"kept", "refused", "rolled_back", "replaced"})


class RolloutRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a release comes to a fleet: first to `canaries` devices, then to a `share`, then to all.

    A stage lasts at least `soak_seconds`, and until `kept_share` of its devices have kept the model
    after watching it. A good model fails on some devices by chance: up to `failed_share` of them is
    taken for that. The release is halted when more fail than that explains, with a chance of at
    most `error` that it is halted though no more would fail. A fault that no chance is involved in
    (a bad signature, a wrong shape, NaN) halts it at once while it is with the canaries.

    A device that has not said how it ended is asked again every `ask_seconds`, when it checks in.
    One counts as present for `presence_seconds` after its last word.
    """

    canaries: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 5
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    soak_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e8)] = 86_400.0
    kept_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    failed_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    error: Error = 0.05
    ask_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 60.0
    presence_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)] = 90.0


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How far a release is; written before anything comes of it. `seconds_left` of the soak."""

    number: int
    course: Course = "rolling"
    stage: Stage = "canary"
    why: str = ""
    failing: Wager = mean_above(RolloutRules().failed_share, 0.0)
    """Against "no more than `failed_share` of the devices fail"."""
    seconds_left: float = 0.0


@dataclass(slots=True)
class RolloutState:
    """A coordinator's rollout machine. `phases` are the devices it was given to, by what they said
    last. `members` are all devices, by when they were heard; `soaked_at` is when the stage may end.
    """

    rules: RolloutRules
    current: Rollout | None = None
    release: Release | None = None
    phases: dict[str, Trial] = field(default_factory=dict)
    members: dict[str, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    soaked_at: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    """Devices by phase."""


# Events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The shell is up; `devices` are enrolled."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """A new release is signed, kept, and its bundle can be fetched."""

    number: int
    release: Release


@dataclass(frozen=True, slots=True)
class Seen:
    """A device checked in."""

    device: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A device told of its trial."""

    device: str
    trial: Trial


@dataclass(frozen=True, slots=True)
class Stopped:
    """The operator takes the release back."""

    why: str


@dataclass(frozen=True, slots=True)
class Soaked:
    """The timer of the stage ran out."""


Event = Started | Begun | Seen | Heard | Stopped | Soaked


# Effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveRollout:
    """Keep durably how far it is."""

    rollout: Rollout


@dataclass(frozen=True, slots=True)
class SaveTrial:
    """Keep durably what a device said, or that the release was given to it."""

    device: str
    trial: Trial


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one device; if it is lost, its next check-in makes it good."""

    device: str
    message: Release | Recall


@dataclass(frozen=True, slots=True)
class Wake:
    """Say `Soaked` at this time on the steady clock; None: not any more."""

    at_seconds: float | None


@dataclass(frozen=True, slots=True)
class Tell:
    """Worth a line in the log. Never needed for correctness."""

    what: str
    number: int
    why: str = ""


Effect = SaveRollout | SaveTrial | Send | Wake | Tell
