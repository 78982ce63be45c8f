"""The coordinator: who is in the fleet, what they say, and how the model moves on.

Phases, in rounds (`hedgerow.protocol.rounds`) and without (`hedgerow.protocol.buffered`); any other
event is taken in every phase:

    idle ──enough devices present──▶ open ──target, or all settled, or deadline──▶ aggregating
      ▲                               │                                               │
      ├───── fewer than the quorum ───┘                                               │
      └───────────────────────────────── aggregated ──────────────────────────────────┘
    (`resting` between rounds; `done` after the last; without rounds it stays `open` to the end)

Every update gets one receipt with one outcome (`docs/messages/receipt.md`). The update stream is
the journal: after a crash the shell restores the open round and replays the stream through the
same function, so nothing that had arrived is asked for again.
"""

import math
from types import ModuleType

from hedgerow.core.errors import PeerError, ProtocolBug
from hedgerow.protocol import buffered, rounds
from hedgerow.protocol.asking import roll_call, steer, told_by
from hedgerow.protocol.counting import count_in
from hedgerow.protocol.effects import Admit, Broadcast, Effect, SaveRound, Send, Tell, TurnAway
from hedgerow.protocol.fleet import (
    Aggregated,
    CoordinatorState,
    EnrolmentAsked,
    Event,
    Joined,
    Member,
    OpenRound,
    Received,
    Refused,
    Started,
    TimerFired,
)
from hedgerow.wire.messages import (
    Accept,
    CheckIn,
    Decline,
    FromDevice,
    Receipt,
    Report,
    Update,
    base_of,
    update_id,
)


def _mode(state: CoordinatorState) -> ModuleType:
    """Rounds or no rounds: both modules have the same functions."""
    return buffered if state.algorithm.asynchronous else rounds


def step(
    state: CoordinatorState, event: Event, now: float
) -> tuple[CoordinatorState, list[Effect]]:
    """One event in, effects out. `now` is in seconds on the shell's steady clock.

    Raises:
        ProtocolBug: the shell sent an event that this phase does not allow.
    """
    match event:
        case Received(device, message):
            effects = _received(state, device, message, now)
        case TimerFired(name):
            effects = _mode(state).timer(state, name, now)
        case Refused(device, reason):
            effects = _refused(state, device, reason)
        case Joined(device, name):
            state.members.setdefault(device, Member()).name = name
            effects = []
        case EnrolmentAsked(device, name):
            effects = _enrolment(state, device, name)
        case Started():
            effects = _started(state, now)
        case Aggregated():
            effects = _aggregated(state, event, now)
    return state, effects


def restore_round(state: CoordinatorState, saved: SaveRound, now: float) -> CoordinatorState:
    """Open again the round that was open at the crash; the shell then replays the journal."""
    cohort = dict.fromkeys(saved.cohort, "offered")
    state.open = OpenRound(
        saved.number, state.model, saved.plan, saved.target, cohort, now, state.model.version
    )
    state.phase, state.last_round = "replaying", saved.number
    return state


def _enrolment(state: CoordinatorState, device: str, name: str) -> list[Effect]:
    """Known devices are admitted again: their answer may have been lost."""
    if device not in state.members and len(state.members) >= state.rules.devices_max:
        reason = f"the fleet is full: it takes {state.rules.devices_max} devices"
        return [TurnAway(device, reason), Tell("turned_away", {"device": device})]
    state.members.setdefault(device, Member()).name = name
    return [Admit(device, name), Tell("joined", {"device": device, "name": name})]


# Messages -----------------------------------------------------------------------------------------


def _received(
    state: CoordinatorState, device: str, message: FromDevice, now: float
) -> list[Effect]:
    member = state.members.get(device)
    if member is None:
        return _refused(state, device, "unknown_device")
    if state.phase != "replaying":
        member.seen_at = now
        state.shortfall -= 1
    match message:
        case Update():
            return _update(state, device, message, now)
        case CheckIn():
            return _check_in(state, device, member, message, now)
        case Accept(round=number):
            effects: list[Effect] = _mode(state).mark(state, device, number, "accepted", now)
            return effects
        case Decline(round=number, reason=reason):
            told: list[Effect] = [Tell("declined", {"device": device, "reason": reason})]
            return [*told, *_mode(state).mark(state, device, number, "declined", now)]
        case Report():
            if not all(map(math.isfinite, (message.confidence, *message.metrics.values()))):
                return _refused(state, device, "not_finite")
            member.report = message
            return [Tell("report", {"device": device})]
    return _refused(state, device, "misplaced")  # an enrolment on the wrong subject


def _check_in(
    state: CoordinatorState, device: str, member: Member, message: CheckIn, now: float
) -> list[Effect]:
    member.samples, member.model_version = message.samples, message.model_version
    member.name, member.said = message.name or member.name, message
    effects: list[Effect] = [Tell("checked_in", {"device": device})]
    if state.phase == "replaying":
        return effects  # what this device sent may still stand in the journal
    mode = _mode(state)
    for number in message.pending:  # receipts that were lost on the way
        outcome = mode.known_outcome(state, device, number)
        if outcome is not None:
            receipt = Receipt(id=update_id(device, number), outcome=outcome)
            effects.append(Send(device, receipt))
    effects += mode.answer(state, device, now)
    effects += steer(state, device, member, now)
    return effects if state.shortfall > 0 else effects + mode.maybe_open(state, now)


def _update(state: CoordinatorState, device: str, update: Update, now: float) -> list[Effect]:
    mode, current = _mode(state), state.open
    outcome = mode.out_of_place(state, device, update)
    effects: list[Effect] = []
    if outcome is None and current is not None:
        try:
            staleness = mode.staleness(state, current, update)
            effects.append(count_in(state, current, device, update, staleness))
        except PeerError as error:
            outcome = error.reason
        else:
            outcome = "counted"
            current.terms += 1
            current.samples += update.samples
            current.outcomes.append(told_by(device, update))
        mode.settle(state, current, device, update, outcome)
    assert outcome is not None
    state.outcomes[outcome] += 1
    member = state.members[device]  # whoever trained from a model has it
    member.model_version = max(member.model_version, state.recent.get(update.base, 0))
    fields = {"device": device, "round": update.round, "outcome": outcome}
    fields |= {"metrics": update.metrics, "bytes": sum(map(len, update.payloads))}
    if current is not None:
        fields["counted_in"] = current.number
    effects += [
        Send(device, Receipt(id=update_id(device, update.round), outcome=outcome)),
        Tell("update", fields),
    ]
    return effects if state.phase == "replaying" else effects + mode.go_on(state, device, now)


def _refused(state: CoordinatorState, device: str, reason: str) -> list[Effect]:
    """What came cannot be used. Counted; the round goes on, and the device may still do better."""
    state.outcomes[reason] += 1
    return [Tell("refused", {"device": device, "reason": reason})]


# Rounds -------------------------------------------------------------------------------------------


def _started(state: CoordinatorState, now: float) -> list[Effect]:
    if state.phase not in {"idle", "replaying"}:
        raise ProtocolBug("coordinator", state.phase, "Started")
    mode, current = _mode(state), state.open
    call = Broadcast(roll_call(state))
    if current is None:
        return [call, *mode.maybe_open(state, now)]
    state.phase = "open"
    current.opened_at = now
    return [call, *mode.resume(state, current, now)]


def _aggregated(state: CoordinatorState, event: Aggregated, now: float) -> list[Effect]:
    closed = state.open if state.phase == "aggregating" else state.closing
    if closed is None or closed.number != event.round:
        raise ProtocolBug("coordinator", state.phase, f"Aggregated({event.round})")
    state.model = event.model
    base = base_of(event.model)
    state.recent.pop(base, None)
    state.recent[base] = event.model.version
    while len(state.recent) > state.versions_kept:
        del state.recent[next(iter(state.recent))]
    if state.way is not None:
        state.way = state.way.after(event.patch)
    state.rounds_done += 1
    effects: list[Effect] = _mode(state).aggregated(state, closed, event.model, now)
    return effects
