"""The rollout of a release: canaries, then a share of the fleet, then all; halted on bad news.

    canary ──soaked, and kept by enough──▶ share ──soaked, and kept by enough──▶ all
      │                                      │                                    │
      └──────────── more fail than chance explains, or the operator ──────────────┴──▶ halted

Which devices are canaries is drawn from the release's own signature, so that it is not always the
same ones. Devices decide for themselves (`hedgerow.protocol.trial`); what they say is bad news or
good. When a release is halted every device that was given it goes back.
"""

from __future__ import annotations

import math

import msgspec

from hedgerow.core.streams import key_of
from hedgerow.decide.sequential import mean_above
from hedgerow.protocol.rollout_state import (
    CERTAIN,
    ENDED,
    NEITHER,
    STAGES,
    Begun,
    Effect,
    Event,
    Heard,
    Rollout,
    RolloutState,
    SaveRollout,
    SaveTrial,
    Seen,
    Send,
    Soaked,
    Started,
    Stopped,
    Tell,
    Wake,
)
from hedgerow.wire.messages import Recall, Trial

GIVEN = "given"
"""Phase of a device that was chosen and has not answered yet."""
FAILED = frozenset({"refused", "rolled_back"})
BURST_MAX = 64
"""Devices that it is given to at one moment; the others of a stage get it as they check in."""


def step(state: RolloutState, event: Event, now: float) -> tuple[RolloutState, list[Effect]]:
    """One event in, effects out. `now` is in seconds on the shell's steady clock."""
    match event:
        case Started(devices):
            for device in devices:
                state.members.setdefault(device, -math.inf)
            effects = _started(state, now)
        case Begun():
            effects = _begun(state, event, now)
        case Seen(device):
            state.members[device] = now
            effects = _seen(state, device, now)
        case Heard(device, trial):
            effects = _heard(state, device, trial, now)
        case Stopped(why):
            effects = _halt(state, why, now)
        case Soaked():
            effects = _advance(state, now)
    return state, effects


def restore(state: RolloutState, rollout: Rollout, phases: dict[str, Trial], now: float) -> None:
    """A rollout as it was kept."""
    state.current, state.phases = rollout, dict(phases)
    state.soaked_at = now + rollout.seconds_left
    state.counts.clear()
    state.counts.update(trial.phase for trial in phases.values())


def _started(state: RolloutState, now: float) -> list[Effect]:
    if state.current is None or state.current.course != "rolling":
        return []
    return [Wake(max(state.soaked_at, now))]


def _begun(state: RolloutState, event: Begun, now: float) -> list[Effect]:
    effects: list[Effect] = []
    if state.current is not None and state.current.course == "rolling":
        effects.append(_save(state, now, course="replaced", why=f"release {event.number} came"))
    state.release, state.phases, state.asked = event.release, {}, {}
    state.counts.clear()
    state.current = Rollout(number=event.number, failing=mean_above(state.rules.failed_share, 0.0))
    state.soaked_at = now + state.rules.soak_seconds
    return [
        *effects,
        _save(state, now),
        Tell("begun", event.number),
        *_choose(state, now),
        Wake(state.soaked_at),
    ]


# Who gets it --------------------------------------------------------------------------------------


def target(state: RolloutState) -> int:
    """How many devices the stage takes."""
    fleet, rules = len(state.members), state.rules
    if state.current is None:
        return 0
    match state.current.stage:
        case "canary":
            return min(rules.canaries, fleet)
        case "share":
            return min(fleet, max(rules.canaries, math.ceil(rules.share * fleet)))
    return fleet


def _lot(state: RolloutState, device: str) -> int:
    signature = b"" if state.release is None else state.release.signature
    return int(key_of(0, "rollout", signature.hex(), device))


def _choose(state: RolloutState, now: float) -> list[Effect]:
    """Give it to as many of the devices that are here as the stage has places for."""
    places = target(state) - len(state.phases)
    if places <= 0:
        return []
    oldest = now - state.rules.presence_seconds
    here = [one for one, at in state.members.items() if at >= oldest and one not in state.phases]
    here.sort(key=lambda device: _lot(state, device))
    return [
        effect for device in here[: min(places, BURST_MAX)] for effect in _give(state, device, now)
    ]


def _give(state: RolloutState, device: str, now: float) -> list[Effect]:
    assert state.current is not None
    trial = Trial(release=state.current.number, phase=GIVEN)
    state.phases[device] = trial
    state.counts[GIVEN] += 1
    return [SaveTrial(device, trial), *_ask(state, device, now)]


def _ask(state: RolloutState, device: str, now: float) -> list[Effect]:
    """Send what the device is to know, unless that was done a moment ago."""
    current, release = state.current, state.release
    if current is None or release is None:
        return []
    if now - state.asked.get(device, -math.inf) < state.rules.ask_seconds:
        return []
    state.asked[device] = now
    if current.course == "halted":
        return [Send(device, Recall(release=current.number, why=current.why[:200]))]
    return [Send(device, release)]


def _seen(state: RolloutState, device: str, now: float) -> list[Effect]:
    current, trial = state.current, state.phases.get(device)
    if current is None:
        return []
    if current.course == "halted":
        back = trial is None or trial.phase in FAILED
        return [] if back else _ask(state, device, now)
    if trial is not None:
        return [] if trial.phase in ENDED else _ask(state, device, now)
    if len(state.phases) < target(state):
        return _give(state, device, now)
    return []


# What they say ------------------------------------------------------------------------------------


def _heard(state: RolloutState, device: str, trial: Trial, now: float) -> list[Effect]:
    """A word on the current release, from a device that was given it."""
    current, before = state.current, state.phases.get(device)
    if current is None or before is None or trial.release != current.number or trial == before:
        return []
    if before.phase in ENDED and trial.phase not in ENDED:
        return []  # an older word that came later
    state.phases[device] = trial
    state.counts[before.phase] -= 1
    state.counts[trial.phase] += 1
    effects: list[Effect] = [SaveTrial(device, trial)]
    if current.course != "rolling" or trial.phase == before.phase or trial.phase not in ENDED:
        return effects
    if trial.phase in FAILED and trial.reason in NEITHER:
        return effects
    failed = trial.phase in FAILED
    failing = current.failing.after([failed - state.rules.failed_share])
    effects.append(_save(state, now, failing=failing))
    if failed:
        effects.append(Tell("failed", current.number, f"on {device}: {trial.reason}, {trial.why}"))
    certain = trial.reason in CERTAIN and current.stage == "canary"
    if failed and (certain or failing.shows(state.rules.error)):
        count = sum(state.counts[phase] for phase in FAILED)
        why = f"{count} of {len(state.phases)} devices failed, the last as {trial.reason}"
        return [*effects, *_halt(state, f"{why}: {trial.why}"[:200], now)]
    return [*effects, *_advance(state, now)]


def _halt(state: RolloutState, why: str, now: float) -> list[Effect]:
    current = state.current
    if current is None or current.course != "rolling":
        return []
    saved = _save(state, now, course="halted", why=why)
    state.asked.clear()
    sends = [
        effect
        for device, trial in sorted(state.phases.items())
        if trial.phase not in FAILED
        for effect in _ask(state, device, now)
    ]
    return [saved, *sends, Wake(None), Tell("halted", current.number, why)]


def _advance(state: RolloutState, now: float) -> list[Effect]:
    """To the next stage, if this one lasted long enough and went well for enough devices."""
    current = state.current
    if current is None or current.course != "rolling" or current.stage == "all":
        return []
    enough = max(1, math.ceil(state.rules.kept_share * target(state)))
    if now < state.soaked_at or state.counts["kept"] < enough:
        return []
    stage = STAGES[STAGES.index(current.stage) + 1]
    state.soaked_at = now + state.rules.soak_seconds
    why = f"kept by {state.counts['kept']} of {len(state.phases)} devices"
    saved = _save(state, now, stage=stage, why=why)
    return [saved, Tell(stage, current.number, why), *_choose(state, now), Wake(state.soaked_at)]


def _save(state: RolloutState, now: float, **changes: object) -> SaveRollout:
    assert state.current is not None
    left = max(0.0, state.soaked_at - now)
    state.current = msgspec.structs.replace(state.current, **changes, seconds_left=left)
    return SaveRollout(state.current)
