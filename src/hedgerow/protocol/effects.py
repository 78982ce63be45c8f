"""What machines ask of the world. Shells carry these out in the order they come."""

from typing import Any

import msgspec

from hedgerow.core.fixed import Fixed
from hedgerow.core.schema import LocalPlan
from hedgerow.wire.messages import FromCoordinator, FromDevice, ModelRef, Offer, Patches


class SetTimer(msgspec.Struct, frozen=True):
    """Wake the machine with `TimerFired(name)` at `at_seconds`; replaces the timer of that name."""

    name: str
    at_seconds: float


class CancelTimer(msgspec.Struct, frozen=True):
    """Forget the timer of that name, if there is one."""

    name: str


class Tell(msgspec.Struct, frozen=True):
    """Something worth showing or logging happened. Never needed for correctness."""

    what: str
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


# A device's ---------------------------------------------------------------------------------------


COUNTED = ("counted", "duplicate")
"""Outcomes of an update that is in a sum."""


class SendNote(msgspec.Struct, frozen=True):
    """Send if there is a link; a lost note is made good by a timer."""

    message: FromDevice


class Post(msgspec.Struct, frozen=True):
    """Put into the durable outbox under `id`, then send; again and again until `Forget(id)`."""

    id: str
    message: FromDevice


class Resend(msgspec.Struct, frozen=True):
    """Send what stands in the outbox under `id` once more."""

    id: str


class Forget(msgspec.Struct, frozen=True):
    """Delete `id` from the outbox: it was acknowledged, with that outcome.

    `COUNTED` outcomes are of updates that are in a sum. Of any other, what the device kept for its
    next update is to be as if this one had not been made.
    """

    id: str
    outcome: str


class Fetch(msgspec.Struct, frozen=True):
    """Bring this model here, then say `Fetched` or `FetchFailed`.

    `patches` lead to it from the installed model; if what they make is not what the hash names, or
    one is missing, the whole model is fetched.
    """

    model: ModelRef
    patches: Patches | None = None


class Install(msgspec.Struct, frozen=True):
    """Use this model, which was fetched, for inference from now on, and remember that durably."""

    model: ModelRef


class Train(msgspec.Struct, frozen=True):
    """Train for this offer from its model, which was fetched; then `Trained`/`TrainingFailed`."""

    offer: Offer


class Personalise(msgspec.Struct, frozen=True):
    """Fine-tune the installed model for this device alone; then `Personalised`."""

    model: ModelRef


class StopTraining(msgspec.Struct, frozen=True):
    """Stop the training or personalising in progress; nothing is said of it any more."""


# A coordinator's ----------------------------------------------------------------------------------


class Admit(msgspec.Struct, frozen=True):
    """Keep the device durably, issue its credential, and answer `enrolled`."""

    device: str
    name: str


class TurnAway(msgspec.Struct, frozen=True):
    """Answer `not_enrolled` with the reason."""

    device: str
    reason: str


class SaveRound(msgspec.Struct, frozen=True):
    """Keep durably that this round is open, for whom, and from which model; begin empty sums.

    Without rounds it follows `Aggregate` of the one before, for nobody in particular: then its
    model is the one that comes of that.
    """

    number: int
    model: ModelRef
    cohort: tuple[str, ...]
    target: int
    plan: LocalPlan


class Send(msgspec.Struct, frozen=True):
    """Send to one device."""

    device: str
    message: FromCoordinator


class Broadcast(msgspec.Struct, frozen=True):
    """Send to every device."""

    message: FromCoordinator


class CountIn(msgspec.Struct, frozen=True):
    """Add an update, already weighted and in fixed point, to the sum of its group in the round."""

    round: int
    device: str
    term: Fixed
    weight: int
    group: int = 0


class Aggregate(msgspec.Struct, frozen=True):
    """Close the round: mean, server half, new model; then, once it can be fetched, `Aggregated`.

    The model, the end of the round and, for each device in `settled`, the last round whose update
    has its outcome are kept durably in one step, and together with all that comes of the event
    that led to it: there is no moment at which an outcome was told that a restart would undo.
    """

    round: int
    settled: tuple[tuple[str, int], ...] = ()


class AbandonRound(msgspec.Struct, frozen=True):
    """Keep durably that the round ended without a model; drop its sum."""

    round: int
    reason: str


Effect = (
    (SetTimer | CancelTimer | Tell)
    | (SendNote | Post | Resend | Forget | Fetch | Install | Train | Personalise | StopTraining)
    | (Admit | TurnAway | SaveRound | Send | Broadcast | CountIn | Aggregate | AbandonRound)
)
