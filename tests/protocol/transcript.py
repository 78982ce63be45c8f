"""Machines that answer in words, so that a test of the protocol reads as a transcript."""

import hashlib
from typing import Any

import numpy as np

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol import coordinator, device, fleet
from hedgerow.protocol.effects import (
    AbandonRound,
    Admit,
    Aggregate,
    Broadcast,
    CancelTimer,
    CountIn,
    Effect,
    Fetch,
    Forget,
    Install,
    Personalise,
    Post,
    Resend,
    SaveRound,
    Send,
    SendNote,
    SetTimer,
    StopTraining,
    Tell,
    Train,
    TurnAway,
)
from hedgerow.seal.codec import Codec
from hedgerow.wire.messages import (
    Accept,
    CheckIn,
    Decline,
    FromCoordinator,
    FromDevice,
    ModelRef,
    NotEnrolled,
    Offer,
    Pace,
    Patches,
    Published,
    Receipt,
    Report,
    RollCall,
    Update,
    base_of,
)

PARAMETERS = 4
LAYOUT = Layout((TensorSpec("w", (PARAMETERS,)),))


def model(version: int) -> ModelRef:
    """The model of that version; its hash is made up, but always the same one."""
    digest = hashlib.sha256(str(version).encode()).hexdigest()
    return ModelRef(version=version, hash=digest, bytes=4 * PARAMETERS)


def delta(*values: float) -> bytes:
    """Numbers as the payload of an update."""
    return np.array(values, "<f4").tobytes()


def said(message: FromDevice | FromCoordinator) -> str:
    """A message in a few words."""
    match message:
        case CheckIn(model_version=version, pending=pending):
            return f"check_in v{version}" + (f" pending {pending}" if pending else "")
        case Accept(round=number):
            return f"accept {number}"
        case Decline(round=number, reason=reason):
            return f"decline {number}: {reason}"
        case Update(round=number):
            return f"update {number}"
        case Report(label=label):
            return f"report {label}"
        case Offer(round=number, model=ref, deadline_seconds=left):
            return f"offer {number} v{ref.version} {left:g}s"
        case Receipt(id=receipt_id, outcome=outcome):
            return f"receipt {receipt_id} {outcome}"
        case Published(round=number, model=ref):
            return f"published {number} v{ref.version}"
        case RollCall(spread_seconds=spread):
            return f"roll_call {spread:g}s"
        case Pace(seconds=wait):
            return f"pace {wait:g}s"
        case NotEnrolled(reason=reason):
            return f"not_enrolled: {reason}"
    return type(message).__name__


def line(effect: Effect) -> str:
    """One effect as one line."""
    match effect:
        case SetTimer(name, at):
            return f"timer {name} at {at:g}"
        case CancelTimer(name):
            return f"cancel {name}"
        case SendNote(message):
            return f"note {said(message)}"
        case Post(post_id, message):
            return f"post {post_id} {said(message)}"
        case Resend(post_id) | Forget(post_id):
            return f"{type(effect).__name__.lower()} {post_id}"
        case Fetch(ref, patches) if patches is not None:
            return f"fetch v{ref.version} by {len(patches.blobs)} patches from v{patches.since}"
        case Fetch(ref) | Install(ref) | Personalise(ref):
            return f"{type(effect).__name__.lower()} v{ref.version}"
        case Train(offer):
            return f"train {offer.round} from v{offer.model.version}"
        case StopTraining():
            return "stop"
    return _coordinator_line(effect)


def _coordinator_line(effect: Effect) -> str:
    match effect:
        case Admit(who, _):
            return f"admit {who}"
        case TurnAway(who, reason):
            return f"turn away {who}: {reason}"
        case SaveRound(number, ref, cohort, target, _):
            return f"save round {number} v{ref.version} target {target}: {' '.join(cohort)}"
        case Send(who, message):
            return f"to {who}: {said(message)}"
        case Broadcast(message):
            return f"to all: {said(message)}"
        case CountIn(number, who, _, weight, group):
            among = f" in group {group}" if group else ""
            return f"count {who} in round {number}{among}, weight {weight / 2**32:g}"
        case Aggregate(number):
            return f"aggregate {number}"
        case AbandonRound(number, reason):
            return f"abandon {number}: {reason}"
    raise AssertionError(f"no words for {effect!r}")


def lines(effects: list[Effect]) -> list[str]:
    """Effects as lines; what is only told is left out."""
    return [line(effect) for effect in effects if not isinstance(effect, Tell)]


class Desk:
    """A coordinator with an exact sum, driven by hand."""

    def __init__(
        self,
        rules: fleet.RoundRules,
        *devices: str,
        plan: LocalPlan | None = None,
        algorithm: AnyAlgorithm | None = None,
        **given: Any,
    ) -> None:
        self.state = fleet.CoordinatorState(
            rules=rules,
            algorithm=algorithm or FedAvg(),
            plan=plan or LocalPlan(),
            layout=LAYOUT,
            model=model(1),
            members={name: fleet.Member(name) for name in devices},
            **given,
        )
        self.now = 0.0
        self.sum = ExactSum(PARAMETERS)
        self.saved: SaveRound | None = None
        self.effects: list[Effect] = []

    def take(self, event: fleet.Event) -> list[str]:
        """Take an event; carry out what concerns the sum; answer in lines."""
        self.state, self.effects = coordinator.step(self.state, event, self.now)
        for effect in self.effects:
            match effect:
                case SaveRound():
                    self.saved, self.sum = effect, ExactSum(PARAMETERS)
                case CountIn(term=term, weight=weight):
                    self.sum.add(term, weight)
                case AbandonRound():
                    self.saved = None
        return lines(self.effects)

    def hear(self, who: str, message: FromDevice) -> list[str]:
        """A message from a device."""
        return self.take(fleet.Received(who, message))

    def check_in(self, who: str, version: int = 1, samples: int = 32) -> list[str]:
        """A device says that it is there."""
        return self.hear(who, CheckIn(model_version=version, samples=samples))

    def update(
        self,
        who: str,
        number: int = 1,
        payload: bytes = delta(1, 2, 3, 4),
        *,
        base: int = 1,
        samples: int = 1024,
        **given: Any,
    ) -> list[str]:
        """An update of one device for round `number`."""
        update = Update(
            round=number,
            base=base_of(model(base)),
            samples=samples,
            **{"payloads": (payload,), **given},
        )
        return self.hear(who, update)

    def timer(self, name: str, at_seconds: float) -> list[str]:
        """Time goes on, and a timer runs out."""
        self.now = at_seconds
        return self.take(fleet.TimerFired(name))

    def aggregated(self, number: int = 1, version: int = 2) -> list[str]:
        """The shell says that the round's model is kept."""
        self.saved = None
        return self.take(fleet.Aggregated(number, model(version)))

    def outcome(self, who: str, number: int = 1, **given: Any) -> str:
        """The outcome in the receipt of an update."""
        self.update(who, number, **given)
        for effect in self.effects:
            if isinstance(effect, Send) and isinstance(effect.message, Receipt):
                return effect.message.outcome
        raise AssertionError("no receipt")


class Watch:
    """A device, driven by hand."""

    def __init__(self, name: str = "ana", **settings: Any) -> None:
        given = {"samples": 32, **settings}
        self.state = device.DeviceState(name, name, model(1), **given)
        self.now = 0.0

    def take(self, event: device.Event) -> list[str]:
        """Take an event; answer in lines."""
        self.state, effects = device.step(self.state, event, self.now)
        return lines(effects)

    def hear(self, message: FromCoordinator) -> list[str]:
        """A message from the coordinator."""
        return self.take(device.Received(message))

    def offer(self, number: int = 1, version: int = 1, patches: Patches | None = None) -> list[str]:
        """An offer of round `number`, from the model of that version."""
        return self.hear(
            Offer(
                round=number,
                model=model(version),
                plan=LocalPlan(),
                algorithm=FedAvg(),
                codecs=(Codec(),),
                deadline_seconds=600,
                patches=patches,
            )
        )

    def published(self, number: int, version: int, patches: Patches | None = None) -> list[str]:
        """News of a model."""
        return self.hear(Published(round=number, model=model(version), patches=patches))

    def fetched(self, version: int) -> list[str]:
        """The model of that version is here."""
        return self.take(device.Fetched(model(version).hash))

    def trained(self, number: int = 1) -> list[str]:
        """Training ended."""
        return self.take(device.Trained(number, (delta(1, 2, 3, 4),), 32, {"loss": 0.5}))

    def receipt(self, number: int = 1, outcome: str = "counted") -> list[str]:
        """A receipt for the update of that round."""
        return self.hear(Receipt(id=f"{self.state.device}/{number}/update", outcome=outcome))
