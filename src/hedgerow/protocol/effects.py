"""What machines ask of the world. Shells carry these out in the order they come."""

from dataclasses import dataclass, field
from typing import Any

from hedgerow.core.fixed import Fixed
from hedgerow.core.schema import LocalPlan
from hedgerow.wire.messages import FromCoordinator, FromDevice, ModelRef, Offer, Patches


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Wake the machine with `TimerFired(name)` at `at_seconds`; replaces the timer of that name."""

    name: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer of that name, if there is one."""

    name: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Something worth showing or logging happened. Never needed for correctness."""

    what: str
    fields: dict[str, Any] = field(default_factory=dict)


# A device's ---------------------------------------------------------------------------------------


COUNTED = ("counted", "duplicate")
"""Outcomes of an update that is in a sum."""


@dataclass(frozen=True, slots=True)
class SendNote:
    """Send if there is a link; a lost note is made good by a timer."""

    message: FromDevice


@dataclass(frozen=True, slots=True)
class Post:
    """Put into the durable outbox under `id`, then send; again and again until `Forget(id)`."""

    id: str
    message: FromDevice


@dataclass(frozen=True, slots=True)
class Resend:
    """Send what stands in the outbox under `id` once more."""

    id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete `id` from the outbox: it was acknowledged, with that outcome.

    `COUNTED` outcomes are of updates that are in a sum. Of any other, what the device kept for its
    next update is to be as if this one had not been made.
    """

    id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring this model here, then say `Fetched` or `FetchFailed`.

    `patches` lead to it from the installed model; if what they make is not what the hash names, or
    one is missing, the whole model is fetched.
    """

    model: ModelRef
    patches: Patches | None = None


@dataclass(frozen=True, slots=True)
class Install:
    """Use this model, which was fetched, for inference from now on, and remember that durably."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class Train:
    """Train for this offer from its model, which was fetched; then `Trained`/`TrainingFailed`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Personalise:
    """Fine-tune the installed model for this device alone; then `Personalised`."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Stop the training or personalising in progress; nothing is said of it any more."""


# A coordinator's ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """Keep the device durably, issue its credential, and answer `enrolled`."""

    device: str
    name: str


@dataclass(frozen=True, slots=True)
class TurnAway:
    """Answer `not_enrolled` with the reason."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class SaveRound:
    """Keep durably that this round is open, for whom, and from which model; begin empty sums.

    Without rounds it follows `Aggregate` of the one before, for nobody in particular: then its
    model is the one that comes of that.
    """

    number: int
    model: ModelRef
    cohort: tuple[str, ...]
    target: int
    plan: LocalPlan


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one device."""

    device: str
    message: FromCoordinator


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every device."""

    message: FromCoordinator


@dataclass(frozen=True, slots=True)
class CountIn:
    """Add an update, already weighted and in fixed point, to the sum of its group in the round."""

    round: int
    device: str
    term: Fixed
    weight: int
    group: int = 0


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Close the round: mean, server half, new model; then, once it can be fetched, `Aggregated`.

    The model, the end of the round and, for each device in `settled`, the last round whose update
    has its outcome are kept durably in one step, and together with all that comes of the event
    that led to it: there is no moment at which an outcome was told that a restart would undo.
    """

    round: int
    settled: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AbandonRound:
    """Keep durably that the round ended without a model; drop its sum."""

    round: int
    reason: str


Effect = (
    (SetTimer | CancelTimer | Tell)
    | (SendNote | Post | Resend | Forget | Fetch | Install | Train | Personalise | StopTraining)
    | (Admit | TurnAway | SaveRound | Send | Broadcast | CountIn | Aggregate | AbandonRound)
)
