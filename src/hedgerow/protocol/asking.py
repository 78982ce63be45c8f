"""What a coordinator asks of devices, with or without rounds: who takes part, offers, models."""

from collections.abc import Iterable

import numpy as np
from msgspec.structs import replace

from hedgerow.algorithms.selection import (
    Outcome,
    PaceRules,
    RoundFacts,
    Uniform,
    beat,
    observe,
    pace,
    phase_of,
    select,
    skew_rewards,
    uniform,
)
from hedgerow.core.streams import stream
from hedgerow.protocol.effects import Effect, Send
from hedgerow.protocol.fleet import CoordinatorState, Member, OpenRound
from hedgerow.protocol.learning import seed_of
from hedgerow.wire.messages import (
    ModelRef,
    Offer,
    Pace,
    Patches,
    Published,
    RollCall,
    Update,
)

PACE_SECONDS = 30.0
"""What devices do by themselves: check in twice a minute."""


def round_seed(state: CoordinatorState, number: int) -> int:
    """What the codecs of that round draw from."""
    return seed_of(state.rules.seed, "round", number)


def offer_of(state: CoordinatorState, current: OpenRound, device: str, left: float) -> Send:
    """The offer of this round to one device, which has `left` seconds for it."""
    message = Offer(
        round=current.number,
        model=current.model,
        plan=current.plan,
        algorithm=state.algorithm,
        codecs=state.codecs,
        seed=round_seed(state, current.number),
        patches=_way_to(state, state.members[device].model_version, current.model),
        deadline_seconds=max(left, 1.0),
    )
    return Send(device, message)


def news_for(state: CoordinatorState, device: str, over: int) -> list[Effect]:
    """The current model, for a device that has an older one; rounds up to `over` are over."""
    version = state.members[device].model_version
    if version >= state.model.version:
        return []
    patches = _way_to(state, version, state.model)
    return [Send(device, Published(round=over, model=state.model, patches=patches))]


def news_for_all(state: CoordinatorState, number: int) -> Published:
    """The new model for everybody: most hold the one before it."""
    patches = _way_to(state, state.model.version - 1, state.model)
    return Published(round=number, model=state.model, patches=patches)


def _way_to(state: CoordinatorState, version: int, model: ModelRef) -> Patches | None:
    return None if state.way is None else state.way.since(version, model)


def roll_call(state: CoordinatorState) -> RollCall:
    """Everybody check in, over as long as so many devices need."""
    rhythm = beat(_pace_rules(state), len(state.members), len(state.members))
    spread = 0.0 if rhythm.meets else rhythm.window_seconds
    return RollCall(spread_seconds=min(max(state.rules.roll_call_seconds, spread), 1e6))


def steer(state: CoordinatorState, device: str, member: Member, now: float) -> list[Effect]:
    """When a device should come again, if the fleet is too large for the usual rhythm."""
    rules, fleet = _pace_rules(state), len(state.members)
    if beat(rules, fleet, fleet).meets:
        return []
    member.next_at = pace(rules, phase_of(device), fleet, fleet, now)
    return [Send(device, Pace(seconds=member.next_at - now))]


def _pace_rules(state: CoordinatorState) -> PaceRules:
    """Only the rate counts here: offers go out to whoever is there, whenever it checks in."""
    return PaceRules(
        check_ins_per_second_max=state.rules.check_ins_per_second_max,
        round_seconds=PACE_SECONDS,
        devices_wanted=1_000_000,
        rendezvous_seconds=PACE_SECONDS,
    )


def choose(state: CoordinatorState, present: Iterable[str], count: int, number: int) -> list[str]:
    """Who takes part in that round, by the policy; sorted."""
    draws = stream(state.rules.seed, "cohort", number)
    if state.policy == Uniform():  # needs no facts and no memory
        return uniform(present, count, draws)
    candidates = [state.members[device].candidate(device) for device in present]
    return select(state.policy, candidates, count, number, state.memory, draws)


def told_by(device: str, update: Update) -> Outcome:
    """What an update that counts tells of its device."""
    figures = update.metrics
    return Outcome(
        id=device,
        samples=update.samples,
        loss=figures.get("loss"),
        loss_squared=figures.get("loss_squared"),
        seconds=figures.get("seconds"),
    )


def remember(state: CoordinatorState, current: OpenRound, chosen: Iterable[str]) -> None:
    """What the policy makes of a round that ended; the shell keeps it with that end."""
    if state.policy != Uniform():
        told = tuple(_rewarded(current))
        facts = RoundFacts(round=current.number, chosen=tuple(chosen), outcomes=told)
        state.memory = observe(state.policy, state.memory, facts)


def _rewarded(current: OpenRound) -> list[Outcome]:
    """The outcomes with rewards, where it is known what an update changed of the last layer."""
    told, places = list(current.outcomes), list(current.changes)
    if places:
        samples = np.array([told[place].samples for place in places], np.int64)
        layers = [np.stack([current.changes[place] for place in places])]
        for place, reward in zip(places, skew_rewards(samples, layers).tolist(), strict=True):
            told[place] = replace(told[place], reward=reward)
    return told
