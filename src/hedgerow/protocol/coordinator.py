"""The coordinator: rounds with a cohort, a quorum, a deadline and over-selection.

Phases and what moves between them (any other event is taken in every phase):

    idle ──enough devices present──▶ open ──target, or all settled, or deadline──▶ aggregating
      ▲                               │                                               │
      ├───── fewer than the quorum ───┘                                               │
      └───────────────────────────────── aggregated ──────────────────────────────────┘
    (`resting` between rounds; `done` after the last)

Every update gets one receipt with one outcome (`docs/messages/receipt.md`). The update stream is
the journal: after a crash the shell restores the open round and replays the stream through the
same function, so nothing that had arrived is asked for again.
"""

import numpy as np

from hedgerow.algorithms.fedavg import plan_of_round, weight_of
from hedgerow.algorithms.selection import over_selected, uniform
from hedgerow.core.errors import PeerError, ProtocolBug
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from hedgerow.core.streams import stream
from hedgerow.protocol.effects import (
    AbandonRound,
    Admit,
    Aggregate,
    Broadcast,
    CancelTimer,
    CountIn,
    Effect,
    SaveRound,
    Send,
    SetTimer,
    Tell,
    TurnAway,
)
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
    ModelRef,
    Offer,
    Published,
    Receipt,
    Report,
    RollCall,
    Update,
    update_id,
)


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
        case Refused(device, reason):
            effects = _refused(state, device, reason)
        case Joined(device, name):
            state.members.setdefault(device, Member()).name = name
            effects = []
        case EnrolmentAsked(device, name):
            effects = _enrolment(state, device, name)
        case Started():
            effects = _started(state, now)
        case TimerFired(name):
            effects = _timer(state, name, now)
        case Aggregated(number, model):
            effects = _aggregated(state, number, model, now)
    return state, effects


def restore_round(state: CoordinatorState, saved: SaveRound, now: float) -> CoordinatorState:
    """Open again the round that was open at the crash; the shell then replays the journal."""
    cohort = dict.fromkeys(saved.cohort, "offered")
    state.open = OpenRound(saved.number, saved.model, saved.plan, saved.target, cohort, now)
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
            return _mark(state, device, number, "accepted", now)
        case Decline(round=number, reason=reason):
            told: list[Effect] = [Tell("declined", {"device": device, "reason": reason})]
            return told + _mark(state, device, number, "declined", now)
        case Report():
            if not np.isfinite([message.confidence, *message.metrics.values()]).all():
                return _refused(state, device, "not_finite")
            member.report = message
            return [Tell("report", {"device": device})]
    return _refused(state, device, "misplaced")  # an enrolment on the wrong subject


def _check_in(
    state: CoordinatorState, device: str, member: Member, message: CheckIn, now: float
) -> list[Effect]:
    member.samples, member.model_version = message.samples, message.model_version
    member.name = message.name or member.name
    effects: list[Effect] = [Tell("checked_in", {"device": device})]
    if state.phase == "replaying":
        return effects  # what this device sent may still stand in the journal
    effects += _receipts_again(state, device, message.pending)
    current = state.open
    awaited = current is not None and current.cohort.get(device) in {"offered", "accepted"}
    if current is not None and awaited and state.phase == "open":
        effects.append(Send(device, _offer(state, current, now)))
    elif message.model_version < state.model.version:
        effects.append(Send(device, Published(round=state.last_round, model=state.model)))
    return effects if state.shortfall > 0 else effects + _maybe_open(state, now)


def _receipts_again(state: CoordinatorState, device: str, pending: list[int]) -> list[Effect]:
    """Receipts that were lost on the way; an update still on its way gets its own in time."""
    effects: list[Effect] = []
    current = state.open
    for number in pending:
        if number > state.last_round:
            outcome = "unknown_round"
        elif current is None or number != current.number:
            outcome = "late"
        elif current.cohort.get(device) in {"counted", "refused"}:
            outcome = "duplicate"
        else:
            continue
        effects.append(Send(device, Receipt(id=update_id(device, number), outcome=outcome)))
    return effects


def _mark(
    state: CoordinatorState, device: str, number: int, phase: str, now: float
) -> list[Effect]:
    """An accept or a decline; those for another round, or that come too late, change nothing."""
    current = state.open
    if current is None or number != current.number:
        return []
    before = current.cohort.get(device)
    if before == "offered" or (before == "accepted" and phase == "declined"):
        current.move(device, phase)
        return _maybe_close(state, now)
    return []


def _update(state: CoordinatorState, device: str, update: Update, now: float) -> list[Effect]:
    receipt_id = update_id(device, update.round)
    current = state.open
    outcome = _out_of_place(state, device, update)
    effects: list[Effect] = []
    if outcome is None and current is not None:
        try:
            count_in = _checked(state, current, device, update)
        except PeerError as error:
            outcome = error.reason
            current.move(device, "refused")
        else:
            outcome = "counted"
            current.move(device, "counted")
            current.samples += update.samples
            effects.append(count_in)
    assert outcome is not None
    state.outcomes[outcome] += 1
    fields = {"device": device, "round": update.round, "outcome": outcome}
    fields |= {"metrics": update.metrics, "bytes": len(update.payload)}
    effects += [
        Send(device, Receipt(id=receipt_id, outcome=outcome)),
        Tell("update", fields),
    ]
    return effects + _maybe_close(state, now)


def _out_of_place(state: CoordinatorState, device: str, update: Update) -> str | None:
    """The outcome of an update that has no place in the sum, or None if it has one."""
    current = state.open
    if update.round > state.last_round:
        return "unknown_round"
    if current is None or update.round != current.number or state.phase == "aggregating":
        return "late"
    match current.cohort.get(device):
        case None:
            return "uninvited"
        case "counted" | "refused":
            return "duplicate"
    if current.count("counted") >= current.target:
        return "late"  # replaying a journal that runs past the end of the round
    return None


def _checked(state: CoordinatorState, current: OpenRound, device: str, update: Update) -> CountIn:
    """The update as a term of the sum; raises PeerError with the reason it cannot be one."""
    if update.base != current.model.hash:
        raise PeerError("stale", f"it starts from {update.base}, not {current.model.hash}")
    wanted = 4 * state.parameters
    if len(update.payload) != wanted:
        raise PeerError("wrong_shape", f"{len(update.payload)} bytes came, {wanted} were wanted")
    if update.samples < 1:
        raise PeerError("no_samples", "an update over no samples; wanted at least one")
    if not np.isfinite(list(update.metrics.values())).all():
        raise PeerError("not_finite", "a metric is not finite")
    weight = weight_of(state.algorithm, update.samples)
    delta = np.frombuffer(update.payload, "<f4")
    return CountIn(update.round, device, to_fixed(delta, weight), weight_to_fixed(weight))


def _refused(state: CoordinatorState, device: str, reason: str) -> list[Effect]:
    """What came cannot be used. Counted; the round goes on, and the device may still do better."""
    state.outcomes[reason] += 1
    return [Tell("refused", {"device": device, "reason": reason})]


# Rounds -------------------------------------------------------------------------------------------


def _started(state: CoordinatorState, now: float) -> list[Effect]:
    if state.phase not in {"idle", "replaying"}:
        raise ProtocolBug("coordinator", state.phase, "Started")
    roll_call = Broadcast(RollCall(spread_seconds=state.rules.roll_call_seconds))
    current = state.open
    if current is None:
        return [roll_call, *_maybe_open(state, now)]
    state.phase = "open"
    current.opened_at = now
    missing = [device for device, phase in current.cohort.items() if phase == "offered"]
    told = Tell("round_resumed", {"round": current.number, "missing": len(missing)})
    closing = _maybe_close(state, now)
    if closing:
        return [roll_call, told, *closing]
    offer = _offer(state, current, now)
    return [
        roll_call,
        *(Send(device, offer) for device in missing),
        SetTimer("deadline", now + state.rules.deadline_seconds),
        told,
    ]


def _timer(state: CoordinatorState, name: str, now: float) -> list[Effect]:
    current = state.open
    match name:
        case "deadline" if state.phase == "open" and current is not None:
            return _close(state, current, now, "deadline")
        case "rest" if state.phase == "resting":
            state.phase = "idle"
            return _maybe_open(state, now)
    return []  # a timer that was set before the phase changed


def _maybe_open(state: CoordinatorState, now: float) -> list[Effect]:
    rules = state.rules
    if state.phase != "idle":
        return []
    if rules.rounds and state.rounds_done >= rules.rounds:
        state.phase = "done"
        return [Tell("done", {"rounds": state.rounds_done})]
    present = [
        device
        for device, member in state.members.items()
        if now - member.seen_at <= rules.presence_seconds and member.samples > 0
    ]
    state.shortfall = max(rules.quorum, rules.devices_min) - len(present)
    if state.shortfall > 0:
        return []
    number = state.last_round + 1
    invited = uniform(
        present,
        over_selected(rules.cohort, rules.over_selection),
        stream(rules.seed, "cohort", number),
    )
    plan = plan_of_round(state.algorithm, state.plan, state.rounds_done, rules.rounds)
    current = OpenRound(
        number=number,
        model=state.model,
        plan=plan,
        target=min(rules.cohort, len(invited)),
        cohort=dict.fromkeys(invited, "offered"),
        opened_at=now,
    )
    state.open, state.phase, state.last_round = current, "open", number
    offer = _offer(state, current, now)
    return [
        SaveRound(number, state.model, tuple(invited), current.target, plan),
        *(Send(device, offer) for device in invited),
        SetTimer("deadline", now + rules.deadline_seconds),
        Tell("round_opened", {"round": number, "cohort": invited}),
    ]


def _maybe_close(state: CoordinatorState, now: float) -> list[Effect]:
    current = state.open
    if current is None or state.phase != "open":
        return []
    if current.count("counted") >= current.target:
        return _close(state, current, now, "target")
    if current.count("offered", "accepted") == 0:
        return _close(state, current, now, "settled")
    return []


def _close(state: CoordinatorState, current: OpenRound, now: float, why: str) -> list[Effect]:
    counted = current.count("counted")
    seconds = now - current.opened_at
    fields = {"round": current.number, "counted": counted, "why": why, "seconds": seconds}
    if counted >= min(state.rules.quorum, current.target):
        state.phase = "aggregating"
        return [
            CancelTimer("deadline"),
            Tell("round_closing", fields),
            Aggregate(current.number),
        ]
    reason = f"{counted} of {state.rules.quorum} updates at {why}"
    state.open, state.phase = None, "resting"
    return [
        AbandonRound(current.number, reason),
        CancelTimer("deadline"),
        SetTimer("rest", now + state.rules.retry_seconds),
        Tell("round_abandoned", fields),
    ]


def _aggregated(state: CoordinatorState, number: int, model: ModelRef, now: float) -> list[Effect]:
    current = state.open
    if state.phase != "aggregating" or current is None or current.number != number:
        raise ProtocolBug("coordinator", state.phase, f"Aggregated({number})")
    fields = {
        "round": number,
        "model": model,
        "seconds": now - current.opened_at,
        "samples": current.samples,
        "counted": current.count("counted"),
    }
    state.model, state.open, state.phase = model, None, "resting"
    state.rounds_done += 1
    told: list[Effect] = [
        Broadcast(Published(round=number, model=model)),
        Tell("round_closed", fields),
    ]
    if state.rules.pause_seconds > 0:
        return [*told, SetTimer("rest", now + state.rules.pause_seconds)]
    state.phase = "idle"
    return told + _maybe_open(state, now)


def _offer(state: CoordinatorState, current: OpenRound, now: float) -> Offer:
    left = state.rules.deadline_seconds - (now - current.opened_at)
    return Offer(
        round=current.number,
        model=current.model,
        plan=current.plan,
        deadline_seconds=max(left, 1.0),
    )
