"""A fleet in rounds: a cohort, a quorum, a deadline and over-selection."""

from hedgerow.algorithms.selection import over_selected
from hedgerow.core.errors import PeerError
from hedgerow.protocol.asking import choose, news_for, news_for_all, offer_of, remember
from hedgerow.protocol.effects import (
    AbandonRound,
    Aggregate,
    Broadcast,
    CancelTimer,
    Effect,
    SaveRound,
    SetTimer,
    Tell,
)
from hedgerow.protocol.fleet import CoordinatorState, OpenRound
from hedgerow.wire.messages import ModelRef, Update, base_of

AWAITED = ("offered", "accepted")


# Updates ------------------------------------------------------------------------------------------


def out_of_place(state: CoordinatorState, device: str, update: Update) -> str | None:
    """The outcome of an update that has no place in the sum, or None if it has one."""
    current = state.open
    if update.round > state.last_round:
        return "unknown_round"
    if 0 < update.round == state.members[device].settled:
        return "duplicate"
    if current is None or update.round != current.number or state.phase == "aggregating":
        return "late"
    match current.cohort.get(device):
        case None:
            return "uninvited"
        case "counted" | "refused":
            return "duplicate"
    if current.terms >= current.target:
        return "late"  # replaying a journal that runs past the end of the round
    return None


def staleness(state: CoordinatorState, current: OpenRound, update: Update) -> int:
    """How many versions old the model is that an update was trained from: none, in rounds.

    Raises:
        PeerError: it starts from another model (`stale`).
    """
    if update.base != base_of(current.model):
        raise PeerError("stale", f"it starts from {update.base.hex()}…, not {current.model.hash}")
    return 0


def settle(
    state: CoordinatorState, current: OpenRound, device: str, update: Update, outcome: str
) -> None:
    """The device's update has its outcome."""
    current.move(device, "counted" if outcome == "counted" else "refused")
    if outcome == "counted":
        current.settled[device] = current.number


def known_outcome(state: CoordinatorState, device: str, number: int) -> str | None:
    """The outcome of an update of round `number`, unless it may still be on its way."""
    current = state.open
    if number > state.last_round:
        return "unknown_round"
    if 0 < number == state.members[device].settled:
        return "duplicate"
    if current is None or number != current.number:
        return "late"
    return "duplicate" if current.cohort.get(device) in {"counted", "refused"} else None


def mark(state: CoordinatorState, device: str, number: int, phase: str, now: float) -> list[Effect]:
    """An accept or a decline; those for another round, or that come too late, change nothing."""
    current = state.open
    if current is None or number != current.number:
        return []
    before = current.cohort.get(device)
    if before == "offered" or (before == "accepted" and phase == "declined"):
        current.move(device, phase)
        return go_on(state, device, now)
    return []


def answer(state: CoordinatorState, device: str, now: float) -> list[Effect]:
    """What a check-in is answered with: the offer not yet met, or news of a newer model."""
    current = state.open
    awaited = current is not None and current.cohort.get(device) in AWAITED
    if current is not None and awaited and state.phase == "open":
        return [offer_of(state, current, device, _left(state, current, now))]
    return news_for(state, device, state.last_round)


# Open and close -----------------------------------------------------------------------------------


def maybe_open(state: CoordinatorState, now: float) -> list[Effect]:
    """Open a round if there is one to open and a quorum is present."""
    rules = state.rules
    if state.phase != "idle":
        return []
    if rules.rounds and state.rounds_done >= rules.rounds:
        state.phase = "done"
        return [Tell("done", {"rounds": state.rounds_done})]
    present = list(state.present(now))
    state.shortfall = max(rules.quorum, rules.devices_min) - len(present)
    if state.shortfall > 0:
        return []
    number = state.last_round + 1
    invited = choose(state, present, over_selected(rules.cohort, rules.over_selection), number)
    state.shortfall = rules.quorum - len(invited)  # the policy may have passed over some
    if state.shortfall > 0:
        return []
    current = OpenRound(
        number=number,
        model=state.model,
        plan=state.algorithm.plan_of_round(state.plan, state.rounds_done, rules.rounds),
        target=min(rules.cohort, len(invited)),
        cohort=dict.fromkeys(invited, "offered"),
        opened_at=now,
        version=state.model.version,
    )
    state.open, state.phase, state.last_round = current, "open", number
    return [
        SaveRound(number, state.model, tuple(invited), current.target, current.plan),
        *(offer_of(state, current, device, rules.deadline_seconds) for device in invited),
        SetTimer("deadline", now + rules.deadline_seconds),
        Tell("round_opened", {"round": number, "cohort": invited}),
    ]


def resume(state: CoordinatorState, current: OpenRound, now: float) -> list[Effect]:
    """Go on with a round that was open at the crash: ask those whose update is missing."""
    missing = [device for device, phase in current.cohort.items() if phase == "offered"]
    told = Tell("round_resumed", {"round": current.number, "missing": len(missing)})
    closing = maybe_close(state, now)
    if closing:
        return [told, *closing]
    left = state.rules.deadline_seconds
    return [
        *(offer_of(state, current, device, left) for device in missing),
        SetTimer("deadline", now + left),
        told,
    ]


def timer(state: CoordinatorState, name: str, now: float) -> list[Effect]:
    """A timer ran out; one that was set before the phase changed does nothing."""
    current = state.open
    match name:
        case "deadline" if state.phase == "open" and current is not None:
            return _close(state, current, now, "deadline")
        case "rest" if state.phase == "resting":
            state.phase = "idle"
            return maybe_open(state, now)
    return []


def go_on(state: CoordinatorState, device: str, now: float) -> list[Effect]:
    """A device is further than it was."""
    return maybe_close(state, now)


def maybe_close(state: CoordinatorState, now: float) -> list[Effect]:
    """Close the round if it has what it wants, or nobody is left to wait for."""
    current = state.open
    if current is None or state.phase != "open":
        return []
    if current.terms >= current.target:
        return _close(state, current, now, "target")
    if current.count(*AWAITED) == 0:
        return _close(state, current, now, "settled")
    return []


def _close(state: CoordinatorState, current: OpenRound, now: float, why: str) -> list[Effect]:
    counted = current.terms
    seconds = now - current.opened_at
    fields = {"round": current.number, "counted": counted, "why": why, "seconds": seconds}
    remember(state, current, current.cohort)
    if counted >= min(state.rules.quorum, current.target):
        state.phase = "aggregating"
        for device, number in current.settled.items():
            state.members[device].settled = number
        return [
            CancelTimer("deadline"),
            Tell("round_closing", fields),
            Aggregate(current.number, tuple(current.settled.items())),
        ]
    reason = f"{counted} of {state.rules.quorum} updates at {why}"
    state.open, state.phase = None, "resting"
    return [
        AbandonRound(current.number, reason),
        CancelTimer("deadline"),
        SetTimer("rest", now + state.rules.retry_seconds),
        Tell("round_abandoned", fields),
    ]


def aggregated(
    state: CoordinatorState, current: OpenRound, model: ModelRef, now: float
) -> list[Effect]:
    """The round's model can be fetched: tell everybody, and go on."""
    fields = {
        "round": current.number,
        "model": model,
        "seconds": now - current.opened_at,
        "samples": current.samples,
        "counted": current.terms,
    }
    state.open, state.phase = None, "resting"
    told: list[Effect] = [
        Broadcast(news_for_all(state, current.number)),
        Tell("round_closed", fields),
    ]
    if state.rules.pause_seconds > 0:
        return [*told, SetTimer("rest", now + state.rules.pause_seconds)]
    state.phase = "idle"
    return told + maybe_open(state, now)


def _left(state: CoordinatorState, current: OpenRound, now: float) -> float:
    return state.rules.deadline_seconds - (now - current.opened_at)
