"""What a device's protocol knows, and what can happen to it."""

from dataclasses import dataclass, field

import msgspec

from hedgerow.wire.messages import FromCoordinator, ModelRef, Offer, Report, Trial


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of its means when it checks in; None says nothing.

    `labels` counts its training windows by class: only where its owner shares that.
    """

    battery: float | None = None
    on_power: bool | None = None
    metered: bool | None = None
    data_age_seconds: float | None = None
    link_bytes_per_second: float | None = None
    labels: tuple[int, ...] | None = None


@dataclass(slots=True)
class DeviceState:
    """All a device's protocol knows. `unacknowledged` mirrors the ids in the durable outbox.

    Offers of `last_round` and of older rounds are over and done with. `personalise_due`: the
    installed model has not been personalised yet.
    """

    device: str
    name: str
    model: ModelRef
    check_in_seconds: float = 30.0
    personalise_after_seconds: float = 0.0
    sharing_paused: bool = False
    samples: int = 0
    facts: Facts = field(default_factory=Facts)
    phase: str = "idle"
    online: bool = False
    offer: Offer | None = None
    last_round: int = 0
    personalise_due: bool = False
    fetching: dict[str, ModelRef] = field(default_factory=dict)
    unacknowledged: set[str] = field(default_factory=set)


# Events -------------------------------------------------------------------------------------------


class LinkUp(msgspec.Struct, frozen=True):
    """The coordinator can be reached."""


class LinkDown(msgspec.Struct, frozen=True):
    """The coordinator cannot be reached."""


class Received(msgspec.Struct, frozen=True):
    """A message came, authenticated and decoded."""

    message: FromCoordinator


class Fetched(msgspec.Struct, frozen=True):
    """The model of this hash is here."""

    hash: str


class FetchFailed(msgspec.Struct, frozen=True):
    """The model of this hash could not be brought."""

    hash: str
    reason: str


class Trained(msgspec.Struct, frozen=True):
    """Training for this round ended: what the update is to hold."""

    round: int
    payloads: tuple[bytes, ...]
    samples: int
    metrics: dict[str, float]
    figures: tuple[float, ...] = ()
    group: int = 0
    codec: int = 0


class TrainingFailed(msgspec.Struct, frozen=True):
    """Training for this round could not be done."""

    round: int
    reason: str


class Personalised(msgspec.Struct, frozen=True):
    """Fine-tuning ended."""


class SamplesChanged(msgspec.Struct, frozen=True):
    """So many training windows are in the store now."""

    samples: int


class FactsChanged(msgspec.Struct, frozen=True):
    """Power, link and age of the data are as these say now."""

    facts: Facts


class Reported(msgspec.Struct, frozen=True):
    """The application has something to report."""

    report: Report


class TrialChanged(msgspec.Struct, frozen=True):
    """The trial of a release came a step further, or the coordinator asked how it goes."""

    news: Trial


class PauseSharing(msgspec.Struct, frozen=True):
    """The owner pauses sharing, or resumes it."""

    paused: bool


class TimerFired(msgspec.Struct, frozen=True):
    """A timer ran out."""

    name: str


Event = (LinkUp | LinkDown | Received | Fetched | FetchFailed | Trained | TrainingFailed) | (
    (Personalised | SamplesChanged | FactsChanged | Reported)
    | (TrialChanged | PauseSharing | TimerFired)
)
