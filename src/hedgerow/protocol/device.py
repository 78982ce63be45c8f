"""The device: takes offers, trains, and sends each update until it is acknowledged.

    idle ──offer──▶ fetching ──fetched──▶ training ──trained──▶ idle
                       (the model may be here already: straight to training)
    idle ──idle for a while after an install──▶ personalising ──▶ idle

An offer of a newer round, or the publication of the round's model, ends what is in progress.
Inference is not in here: it goes on in every phase, with or without a link.
"""

import msgspec

from hedgerow.core.streams import key_of
from hedgerow.protocol.device_state import (
    DeviceState,
    Event,
    Facts,
    FactsChanged,
    Fetched,
    FetchFailed,
    LinkDown,
    LinkUp,
    PauseSharing,
    Personalised,
    Received,
    Reported,
    SamplesChanged,
    TimerFired,
    Trained,
    TrainingFailed,
    TrialChanged,
)
from hedgerow.protocol.effects import (
    CancelTimer,
    Effect,
    Fetch,
    Forget,
    Install,
    Personalise,
    Post,
    Resend,
    SendNote,
    SetTimer,
    StopTraining,
    Tell,
    Train,
)
from hedgerow.wire.messages import (
    Accept,
    CheckIn,
    Decline,
    FromCoordinator,
    ModelRef,
    Offer,
    Pace,
    Patches,
    Published,
    Receipt,
    RollCall,
    Update,
    base_of,
    round_of,
    update_id,
)

__all__ = [
    "DeviceState",
    "Event",
    "Facts",
    "FactsChanged",
    "FetchFailed",
    "Fetched",
    "LinkDown",
    "LinkUp",
    "PauseSharing",
    "Personalised",
    "Received",
    "Reported",
    "SamplesChanged",
    "TimerFired",
    "Trained",
    "TrainingFailed",
    "TrialChanged",
    "step",
]

ASK_SECONDS = 5.0
"""Whoever lacks several versions asks for the patches within this time."""


def step(state: DeviceState, event: Event, now: float) -> tuple[DeviceState, list[Effect]]:
    """One event in, effects out. `now` is in seconds on the shell's steady clock."""
    before = (state.phase, state.model)
    effects = _handle(state, event, now)
    if state.phase == "idle" and state.personalise_due and before != ("idle", state.model):
        effects.append(SetTimer("personalise", now + state.personalise_after_seconds))
    return state, effects


def _handle(state: DeviceState, event: Event, now: float) -> list[Effect]:
    match event:
        case Received(message):
            return _received(state, message, now)
        case TimerFired(name):
            return _timer(state, name, now)
        case LinkUp() | LinkDown():
            state.online = isinstance(event, LinkUp)
            return _check_in(state, now) if state.online else [CancelTimer("check_in")]
        case Fetched(digest):
            return _fetched(state, digest)
        case FetchFailed(digest, reason):
            return _fetch_failed(state, digest, reason, now)
        case Trained() | TrainingFailed() | Personalised():
            return _learned(state, event)
        case SamplesChanged(samples):
            state.samples = samples
            return []
        case FactsChanged(facts):
            state.facts = facts
            return []
        case Reported(note) | TrialChanged(note):
            return [SendNote(note)] if state.online and not state.sharing_paused else []
        case PauseSharing(paused):
            return _pause(state, paused, now)


def _received(state: DeviceState, message: FromCoordinator, now: float) -> list[Effect]:
    match message:
        case Offer():
            return _offered(state, message)
        case Published():
            return _published(state, message, now)
        case Receipt(id=receipt_id, outcome=outcome):
            if receipt_id not in state.unacknowledged:
                return []
            state.unacknowledged.discard(receipt_id)
            state.last_round = max(state.last_round, round_of(receipt_id))  # an old offer's copy
            return [
                Forget(receipt_id, outcome),
                Tell("receipt", {"id": receipt_id, "outcome": outcome}),
            ]
        case RollCall(spread_seconds=spread):
            wait = spread * _lot("roll call", state.device)
            return [SetTimer("check_in", now + wait)]
        case Pace(seconds=wait):
            return [SetTimer("check_in", now + wait)]
    return []  # answers to an enrolment mean nothing to a device that is in


def _offered(state: DeviceState, offer: Offer) -> list[Effect]:
    if state.sharing_paused:
        return [SendNote(Decline(round=offer.round, reason="the owner paused sharing"))]
    if update_id(state.device, offer.round) in state.unacknowledged:
        return [Resend(update_id(state.device, offer.round))]
    if state.offer is not None and offer.round == state.offer.round:
        return [SendNote(Accept(round=offer.round))]  # asked again: the accept was lost
    if offer.round <= state.last_round:
        return []  # a late copy, or an old offer replayed
    if state.samples == 0:
        return [SendNote(Decline(round=offer.round, reason="no samples to train on yet"))]
    effects = _stop(state)
    state.offer, state.last_round = offer, offer.round - 1  # older ones are over
    effects += [SendNote(Accept(round=offer.round)), CancelTimer("personalise")]
    if offer.model.hash == state.model.hash:
        state.phase = "training"
        return [*effects, Train(offer)]
    state.phase = "fetching"
    return effects + _fetch(state, offer.model, offer.patches)


def _published(state: DeviceState, message: Published, now: float) -> list[Effect]:
    effects: list[Effect] = []
    state.last_round = max(state.last_round, message.round)
    if state.offer is not None and state.offer.round <= message.round:
        effects = _stop(state)
    if message.model.version <= state.model.version:
        return effects
    way = message.patches
    if way is not None and way.since > state.model.version:
        # News for those who hold the version before. Whoever is further behind asks for its own.
        wait = ASK_SECONDS * _lot(message.model.version, state.device)
        return [*effects, SetTimer("check_in", now + wait)]
    return effects + _fetch(state, message.model, way)


def _fetch(state: DeviceState, model: ModelRef, way: Patches | None) -> list[Effect]:
    if model.hash in state.fetching:
        return []
    state.fetching[model.hash] = model
    version = state.model.version
    if way is None or not way.since <= version < model.version:
        return [Fetch(model)]
    lacking = msgspec.structs.replace(way, since=version, blobs=way.blobs[version - way.since :])
    return [Fetch(model, lacking if len(lacking.blobs) == model.version - version else None)]


def _fetched(state: DeviceState, digest: str) -> list[Effect]:
    model = state.fetching.pop(digest, None)
    effects: list[Effect] = []
    if model is not None and model.version > state.model.version:
        if state.phase == "personalising":
            effects += _stop(state)  # what it started from is out of date
        state.model, state.personalise_due = model, state.personalise_after_seconds > 0
        effects += [Install(model), Tell("installed", {"version": model.version})]
    if state.phase == "fetching" and state.offer is not None and state.offer.model.hash == digest:
        state.phase = "training"
        effects.append(Train(state.offer))
    return effects


def _fetch_failed(state: DeviceState, digest: str, reason: str, now: float) -> list[Effect]:
    """Nothing is lost: the coordinator offers or publishes again at the next check-in."""
    state.fetching.pop(digest, None)
    told: list[Effect] = [Tell("fetch_failed", {"hash": digest, "reason": reason})]
    if state.phase == "fetching" and state.offer is not None and state.offer.model.hash == digest:
        state.offer, state.phase = None, "idle"
    return [*told, SetTimer("check_in", now + min(2.0, state.check_in_seconds))]


def _learned(state: DeviceState, event: Trained | TrainingFailed | Personalised) -> list[Effect]:
    match event:
        case Trained():
            return _trained(state, event)
        case TrainingFailed(number, reason):
            return _training_failed(state, number, reason)
        case Personalised():
            return _personalised(state)


def _trained(state: DeviceState, event: Trained) -> list[Effect]:
    offer = state.offer
    if state.phase != "training" or offer is None or offer.round != event.round:
        return []  # stopped a moment ago
    state.offer, state.phase, state.last_round = None, "idle", offer.round
    post_id = update_id(state.device, offer.round)
    state.unacknowledged.add(post_id)
    update = Update(
        round=offer.round,
        base=base_of(offer.model),
        samples=event.samples,
        codec=event.codec,
        payloads=event.payloads,
        figures=event.figures,
        group=event.group,
        metrics=event.metrics,
    )
    return [
        Post(post_id, update),
        Tell("trained", {"round": offer.round, **event.metrics}),
    ]


def _training_failed(state: DeviceState, number: int, reason: str) -> list[Effect]:
    if state.offer is None or state.offer.round != number:
        return []
    state.offer, state.phase = None, "idle"
    decline = Decline(round=number, reason=reason[:200])
    return [
        SendNote(decline),
        Tell("training_failed", {"round": number, "reason": reason}),
    ]


def _personalised(state: DeviceState) -> list[Effect]:
    if state.phase == "personalising":
        state.phase, state.personalise_due = "idle", False
    return []


def _stop(state: DeviceState) -> list[Effect]:
    """End what is in progress."""
    busy = state.phase in {"training", "personalising"}
    state.offer, state.phase = None, "idle"
    return [StopTraining()] if busy else []


def _pause(state: DeviceState, paused: bool, now: float) -> list[Effect]:
    """While sharing is paused nothing leaves the device but declines, the outbox included."""
    state.sharing_paused = paused
    if not paused:
        return _check_in(state, now) if state.online else []
    offer = state.offer
    if offer is None:
        return []
    decline = Decline(round=offer.round, reason="the owner paused sharing")
    return [SendNote(decline), *_stop(state)]


def _check_in(state: DeviceState, now: float) -> list[Effect]:
    """Say that we are here, and send again whatever was not acknowledged."""
    again = SetTimer("check_in", now + state.check_in_seconds)
    if state.sharing_paused:
        return [again]
    facts = state.facts
    note = CheckIn(
        model_version=state.model.version,
        samples=state.samples,
        name=state.name,
        pending=sorted(map(round_of, state.unacknowledged))[:64],
        training=0 if state.offer is None else state.offer.round,
        battery=facts.battery,
        on_power=facts.on_power,
        metered=facts.metered,
        data_age_seconds=facts.data_age_seconds,
        link_bytes_per_second=facts.link_bytes_per_second,
        labels=facts.labels,
    )
    return [SendNote(note), *map(Resend, sorted(state.unacknowledged)), again]


def _lot(*names: str | int) -> float:
    """A number from 0 to 1 of this device's own, always the same for the same names."""
    return int(key_of(0, *names)) / 2**64


def _timer(state: DeviceState, name: str, now: float) -> list[Effect]:
    match name:
        case "check_in" if state.online:
            return _check_in(state, now)
        case "personalise" if state.phase == "idle" and state.personalise_due:
            state.phase = "personalising"
            return [Personalise(state.model)]
    return []
