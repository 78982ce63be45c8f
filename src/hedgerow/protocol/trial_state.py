"""What a device knows of the model in use and of the one on trial, and what can happen to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from hedgerow.protocol.trial_rules import Evidence, TrialRules

Source: TypeAlias = Literal["bundle", "fleet", "site", "owner"]
Phase: TypeAlias = Literal["checking", "shadow", "watched"]
Stage: TypeAlias = Literal["kept", "refused", "rolled_back", "replaced"]

PAST_MAX = 16
REFUSED_MAX = 64


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One model: a bundle, and weights `[P]` for it, each by the SHA-256 of its blob.

    `weights` empty: the bundle's own. `release` is 0 where no release brought it.
    """

    bundle: str
    weights: str = ""
    name: str
    source: Source
    why: str = ""
    release: int = 0
    since_seconds: float = 0.0

    @property
    def key(self) -> str:
        """Tells one model from another: the same bundle with the same weights is the same."""
        return f"{self.bundle}/{self.weights}"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The trial in progress. `seconds_left` of its phase, as last written down."""

    candidate: Version
    phase: Phase
    evidence: Evidence
    starts: int = 1
    seconds_left: float = 0.0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial went. `reason` is a word to count by, empty where it went well."""

    version: Version
    stage: Stage
    reason: str
    why: str
    windows: int
    judged: int
    loss: float
    changed: float


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All of it that outlives the process; written in one piece, before anything comes of it.

    `active` decides. `previous` is what it would go back to. `refused` are the keys of models that
    failed, `release` the highest number of a release that was ever believed.
    """

    active: Version
    previous: Version | None = None
    attempt: Attempt | None = None
    waiting: Version | None = None
    past: tuple[Ended, ...] = ()
    refused: tuple[str, ...] = ()
    release: int = 0

    @property
    def blobs(self) -> frozenset[str]:
        """Hashes of everything that it refers to."""
        attempt = None if self.attempt is None else self.attempt.candidate
        versions = (self.active, self.previous, self.waiting, attempt)
        named = [(one.bundle, one.weights) for one in versions if one is not None]
        return frozenset(digest for pair in named for digest in pair if digest)


@dataclass(slots=True)
class TrialState:
    """A device's trial machine. `ends` is when the phase does, on the shell's steady clock."""

    standing: Standing
    rules: TrialRules = field(default_factory=TrialRules)
    ends: float = 0.0


# Events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The process is up; what was kept is read back, and the active model runs."""


@dataclass(frozen=True, slots=True)
class Offered:
    """Somebody offers a model whose blobs are in the store. A release's signature was checked.

    `again`: whoever offers it wants it tried although it failed before.
    """

    version: Version
    again: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """What was offered is no model for this device: no whole bundle, another schema, no room.

    Whoever offered it is beyond doubt.
    """

    version: Version
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The coordinator asks how the trial of this release is going; nothing new came."""

    release: int


@dataclass(frozen=True, slots=True)
class Checked:
    """The candidate was opened and tested; `reason` and `why` say what is wrong with it, if so."""

    key: str
    reason: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """Both models answered the same windows; each value is a mean over `block_windows` of them.

    `changes` from 0 to 1, how often (or how far) the answers differ; `losses` from −1 to 1, how
    much larger the candidate's loss was, for the windows whose truth is known.
    """

    key: str
    changes: Sequence[float] = ()
    losses: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """The candidate crashed, hung, or answered with NaN or infinity."""

    key: str
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """This model was checked in another way (a round's, on held-out windows), and serves at once.

    Only between trials.
    """

    version: Version


@dataclass(frozen=True, slots=True)
class Recalled:
    """A release is not to be used any more."""

    release: int
    why: str


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """The time of the phase ran out."""


Event = (Started | Offered | Unfit | Asked | Checked | Compared) | (
    Broken | Adopted | Recalled | PhaseEnded
)


# Effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """Write this down durably, in one transaction, before any other effect."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Check:
    """Open and test the candidate beside the active model, then say `Checked`."""

    candidate: Version


@dataclass(frozen=True, slots=True)
class Compare:
    """From now on let both answer windows, and say `Compared`. One of them is the active model."""

    candidate: Version
    other: Version


@dataclass(frozen=True, slots=True)
class StopComparing:
    """The trial is over."""


@dataclass(frozen=True, slots=True)
class Use:
    """Decide by this model from now on."""

    version: Version


@dataclass(frozen=True, slots=True)
class Wake:
    """Say `PhaseEnded` at this time on the steady clock; None: no more."""

    at_seconds: float | None


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the coordinator how the trial of a release is going."""

    release: int
    phase: str
    reason: str = ""
    why: str = ""
    windows: int = 0
    judged: int = 0
    loss: float = 0.0
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Note:
    """Worth a line in the log and on the owner's page. Never needed for correctness."""

    what: str
    version: Version
    why: str = ""


Effect = Keep | Check | Compare | StopComparing | Use | Wake | Say | Note
