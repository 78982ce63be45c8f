"""A fleet without rounds: devices are always at work, and updates count as they come.

Federated learning with buffered asynchronous aggregation (FedBuff: Nguyen et al., 2022). `cohort`
devices are at work at any time, each in a slot. An update counts whatever model it started from,
up to `staleness_max` versions ago, with its staleness; when `buffer` updates are there the model
moves on. What is called a round here is the making of one version: a device is offered the round
that is open, and its update is known by that number wherever it counts.

A device counts once for each round it was offered, and a later round is offered only after the
earlier one has its outcome, so the last settled round of each device tells copies apart; it is kept
with each model. A device that vanishes loses its slot at its deadline; what it sends later still
counts.
"""

from msgspec.structs import replace

from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.selection import Uniform
from hedgerow.core.errors import PeerError
from hedgerow.core.streams import stream
from hedgerow.protocol.asking import choose, news_for, news_for_all, offer_of, remember
from hedgerow.protocol.effects import (
    Aggregate,
    Broadcast,
    CancelTimer,
    Effect,
    SaveRound,
    SetTimer,
    Tell,
)
from hedgerow.protocol.fleet import CoordinatorState, Member, OpenRound, Slot
from hedgerow.wire.messages import ModelRef, Update

SLOTS = "slots"


def _settings(state: CoordinatorState) -> FedBuff:
    assert isinstance(state.algorithm, FedBuff)
    return state.algorithm


# Updates ------------------------------------------------------------------------------------------


def out_of_place(state: CoordinatorState, device: str, update: Update) -> str | None:
    """The outcome of an update that has no place in the sum, or None if it has one."""
    if update.round > state.last_round:
        return "unknown_round"
    if update.round <= state.members[device].settled:
        return "duplicate"
    if state.open is None or state.phase == "aggregating" or update.round < state.since_round:
        return "late"
    return None


def staleness(state: CoordinatorState, current: OpenRound, update: Update) -> int:
    """How many versions old the model is that an update was trained from.

    Raises:
        PeerError: more than the algorithm takes, or a model nobody knows (`stale`).
    """
    version = state.recent.get(update.base)
    if version is None:
        raise PeerError("stale", f"it starts from {update.base.hex()}…, none of the last models")
    behind = current.version - version
    if behind > _settings(state).staleness_max:
        raise PeerError("stale", f"its model is {behind} versions old")
    return behind


def settle(
    state: CoordinatorState, current: OpenRound, device: str, update: Update, outcome: str
) -> None:
    """The device's update has its outcome: no update of that round or an older one counts again."""
    state.members[device].settled = update.round
    current.settled[device] = update.round


def known_outcome(state: CoordinatorState, device: str, number: int) -> str | None:
    """The outcome of an update of round `number`, unless it may still be on its way."""
    if number > state.last_round:
        return "unknown_round"
    if number <= state.members[device].settled:
        return "duplicate"
    return "late" if state.open is None or number < state.since_round else None


def mark(state: CoordinatorState, device: str, number: int, phase: str, now: float) -> list[Effect]:
    """An accept, or a decline: then another device has the slot."""
    slot, member = state.slots.get(device), state.members[device]
    if phase == "declined" and member.said is not None and member.said.training == number:
        member.said = replace(member.said, training=0)
    if slot is None or slot.round != number:
        return []
    if phase == "accepted":
        slot.accepted = True
        return []
    state.passed.add(device)
    return go_on(state, device, now)


def answer(state: CoordinatorState, device: str, now: float) -> list[Effect]:
    """What a check-in is answered with: an offer, or news of a newer model."""
    current, member = state.open, state.members[device]
    if current is None or state.phase != "open":
        return news_for(state, device, state.last_round)
    at_work = _at_work(state, member)
    slot = state.slots.get(device)
    if slot is None and at_work:  # it lost its slot, or the coordinator lost count
        state.slots[device] = Slot(at_work, now + state.rules.deadline_seconds, True)
        return _watch(state)
    if slot is not None and slot.round == at_work:
        return []
    if slot is not None and state.closing is None:  # the offer did not come, or was forgotten
        del state.slots[device]
        return _offer(state, current, device, now) + _watch(state)
    over = max(current.number - 1 - _settings(state).staleness_max, 0)
    offered = hand_out(state, now, device)
    if device in state.slots:
        return offered
    return [*offered, *news_for(state, device, over)]


def _at_work(state: CoordinatorState, member: Member) -> int:
    """The round whose update a device is making, or has under way; 0 for none."""
    said = member.said
    if said is None:
        return 0
    mine = [number for number in (said.training, *said.pending) if number > member.settled]
    last = max(mine, default=0)
    return last if state.since_round <= last <= state.last_round else 0


# Who is at work -----------------------------------------------------------------------------------


def hand_out(state: CoordinatorState, now: float, device: str | None = None) -> list[Effect]:
    """Offer the open round until all slots are taken: to those on the bench, then to `device`."""
    current = state.open
    if current is None or state.phase != "open" or state.closing is not None:
        return []
    effects: list[Effect] = []
    waiting = [] if device is None else [device]
    while len(state.slots) < state.rules.cohort and (state.bench or waiting):
        chosen = state.bench.pop() if state.bench else waiting.pop()
        if _may_start(state, current, chosen, now) and _admitted(state, current, chosen):
            effects += _offer(state, current, chosen, now)
    return effects + _watch(state)


def _may_start(state: CoordinatorState, current: OpenRound, device: str, now: float) -> bool:
    member = state.members[device]
    return (
        member.samples > 0
        and member.settled < current.number
        and device not in state.slots
        and device not in state.passed
        and not _at_work(state, member)  # it lost its slot, and its update may still come
        and state.is_present(member, now)
    )


def _admitted(state: CoordinatorState, current: OpenRound, device: str) -> bool:
    """Whether the policy lets the device take part, by what it said last."""
    return state.policy == Uniform() or bool(choose(state, [device], 1, current.number))


def _offer(state: CoordinatorState, current: OpenRound, device: str, now: float) -> list[Effect]:
    seconds = state.rules.deadline_seconds
    state.slots[device] = Slot(current.number, now + seconds)
    return [offer_of(state, current, device, seconds)]


def _watch(state: CoordinatorState) -> list[Effect]:
    """One timer for all slots: the first in the dictionary was given first."""
    if state.watching or not state.slots:
        return []
    state.watching = True
    return [SetTimer(SLOTS, next(iter(state.slots.values())).until)]


def _expire(state: CoordinatorState, now: float) -> list[Effect]:
    """Slots of devices that vanished go to others."""
    state.watching = False
    gone = [device for device, slot in state.slots.items() if slot.until <= now]
    for device in gone:
        del state.slots[device]
        state.passed.add(device)
    told: list[Effect] = [Tell("vanished", {"device": device}) for device in gone]
    return told + hand_out(state, now) + _watch(state) + maybe_close(state, now)


def _take_turns(state: CoordinatorState, current: OpenRound, now: float) -> None:
    """Who comes next: as many as this round can need, by the policy, in a random order."""
    state.passed.clear()
    able = [d for d in state.present(now) if _may_start(state, current, d, now)]
    free = max(state.rules.cohort - len(state.slots), 0)
    chosen = choose(state, able, free + current.target, current.number)
    order = stream(state.rules.seed, "turns", current.number).permutation(len(chosen))
    state.bench = [chosen[place] for place in order]


# Open and close -----------------------------------------------------------------------------------


def maybe_open(state: CoordinatorState, now: float) -> list[Effect]:
    """Begin, as soon as enough devices are there."""
    rules = state.rules
    if state.phase != "idle":
        return []
    if rules.rounds and state.rounds_done >= rules.rounds:
        state.phase = "done"
        return [Tell("done", {"rounds": state.rounds_done})]
    present = sum(1 for _ in state.present(now))
    state.shortfall = max(rules.quorum, rules.devices_min) - present
    if state.shortfall > 0:
        return []
    current = _next_round(state, state.rounds_done, state.model.version, now)
    state.phase = "open"
    return [_save(state, current), *_begin(state, current, now)]


def _next_round(state: CoordinatorState, done: int, version: int, now: float) -> OpenRound:
    """Open the next one; `done` rounds succeeded before it, and it improves model `version`."""
    plan = state.algorithm.plan_of_round(state.plan, done, state.rules.rounds)
    state.last_round += 1
    target = _settings(state).buffer
    current = OpenRound(state.last_round, state.model, plan, target, {}, now, version)
    state.open = current
    return current


def _save(state: CoordinatorState, current: OpenRound) -> SaveRound:
    return SaveRound(current.number, state.model, (), current.target, current.plan)


def _begin(state: CoordinatorState, current: OpenRound, now: float) -> list[Effect]:
    _take_turns(state, current, now)
    return [
        *hand_out(state, now),
        SetTimer("deadline", now + state.rules.deadline_seconds),
        Tell("round_opened", {"round": current.number, "cohort": list(state.slots)}),
    ]


def resume(state: CoordinatorState, current: OpenRound, now: float) -> list[Effect]:
    """Go on with what had come before the crash; who is at work says so at its check-in."""
    return [
        SetTimer("deadline", now + state.rules.deadline_seconds),
        Tell("round_resumed", {"round": current.number, "missing": 0}),
        *maybe_close(state, now),
    ]


def timer(state: CoordinatorState, name: str, now: float) -> list[Effect]:
    """A timer ran out; one that was set before the phase changed does nothing."""
    current = state.open
    if current is None or state.phase != "open":
        return []
    match name:
        case "slots":
            return _expire(state, now)
        case "deadline" if state.closing is None and current.terms >= _least(state, current):
            return _close(state, current, now, "deadline")
        case "deadline":
            return [SetTimer("deadline", now + state.rules.deadline_seconds)]
    return []


def go_on(state: CoordinatorState, device: str, now: float) -> list[Effect]:
    """A device is done with what it was at: its slot is free."""
    if state.phase != "open":
        return []
    slot = state.slots.get(device)
    if slot and (state.members[device].settled >= slot.round or device in state.passed):
        del state.slots[device]
    return maybe_close(state, now) or hand_out(state, now, device) or maybe_close(state, now)


def maybe_close(state: CoordinatorState, now: float) -> list[Effect]:
    """Make the next model if the buffer is full, or nobody is at work who could fill it."""
    current = state.open
    if current is None or state.phase != "open" or state.closing is not None:
        return []
    if current.terms >= current.target:
        return _close(state, current, now, "target")
    idle = not state.slots and not state.bench
    if idle and current.terms >= _least(state, current):
        return _close(state, current, now, "settled")
    return []


def _least(state: CoordinatorState, current: OpenRound) -> int:
    return min(state.rules.quorum, current.target)


def _close(state: CoordinatorState, current: OpenRound, now: float, why: str) -> list[Effect]:
    """Close, and open the next one in the same breath: what comes meanwhile counts there."""
    fields = {"round": current.number, "counted": current.terms, "why": why}
    fields["seconds"] = now - current.opened_at
    remember(state, current, current.settled)
    effects: list[Effect] = [
        CancelTimer("deadline"),
        Tell("round_closing", fields),
        Aggregate(current.number, tuple(current.settled.items())),
    ]
    done = state.rounds_done + 1
    if state.rules.rounds and done >= state.rules.rounds:
        state.phase = "aggregating"
        return effects
    state.closing = current
    return [*effects, _save(state, _next_round(state, done, current.version + 1, now))]


def aggregated(
    state: CoordinatorState, closed: OpenRound, model: ModelRef, now: float
) -> list[Effect]:
    """The model can be fetched: devices are offered the round that it begins."""
    told = Tell(
        "round_closed",
        {
            "round": closed.number,
            "model": model,
            "seconds": now - closed.opened_at,
            "samples": closed.samples,
            "counted": closed.terms,
        },
    )
    if state.phase == "aggregating":
        state.open, state.phase = None, "idle"
        state.slots.clear()
        return [
            Broadcast(news_for_all(state, state.last_round)),
            told,
            *maybe_open(state, now),
        ]
    current = state.open
    assert current is not None
    state.closing, current.model = None, model
    return [told, *_begin(state, current, now), *maybe_close(state, now)]
