"""The trial of a new model on a device: it takes over if it is no worse, and goes back if it is.

    offered ──▶ checking ──sound──▶ shadow ──no worse──▶ watched ──time and windows──▶ kept
                   │                   │                    │
                   └──▶ refused ◀──────┘                    └──▶ rolled back

In `shadow` the new model answers the same windows as the one in use, and nobody acts on it. From
`watched` on it is the one in use, and the one before answers beside it. Every step is written down
before anything comes of it: at each instant the standing names exactly one active model.

No network is needed for any of this. A release, the owner's bundle and what the device itself
learned go the same way.
"""

from __future__ import annotations

import msgspec

from hedgerow.core.errors import ProtocolBug
from hedgerow.protocol.trial_rules import Evidence, TrialRules, verdict, worse_by
from hedgerow.protocol.trial_state import (
    PAST_MAX,
    REFUSED_MAX,
    Adopted,
    Asked,
    Attempt,
    Broken,
    Check,
    Checked,
    Compare,
    Compared,
    Effect,
    Ended,
    Event,
    Keep,
    Note,
    Offered,
    PhaseEnded,
    Recalled,
    Say,
    Stage,
    Standing,
    Started,
    StopComparing,
    TrialState,
    Unfit,
    Use,
    Version,
    Wake,
)

_NONE = Evidence.none(TrialRules())


def step(state: TrialState, event: Event, now: float) -> tuple[TrialState, list[Effect]]:
    """One event in, effects out. `now` is in seconds on the shell's steady clock.

    Raises:
        ProtocolBug: a model is adopted in the middle of a trial.
    """
    match event:
        case Started():
            effects = _started(state, now)
        case Offered(version, again):
            effects = _offered(state, version, now, again=again)
        case Asked(release):
            effects = _asked(state.standing, release)
        case Unfit():
            effects = _unfit(state, event, now)
        case Checked():
            effects = _checked(state, event, now)
        case Compared():
            effects = _compared(state, event, now)
        case Broken(key, reason, why):
            current = _attempt(state, key)
            effects = [] if current is None else _fail(state, current, reason, why, now)
        case Adopted(version):
            effects = _adopted(state, version)
        case Recalled(release, why):
            effects = _recalled(state, release, why, now)
        case PhaseEnded():
            effects = _phase_ended(state, now)
    return state, effects


def _attempt(state: TrialState, key: str) -> Attempt | None:
    """The trial in progress, if it is of that model; what is said of another one is too late."""
    attempt = state.standing.attempt
    return attempt if attempt is not None and attempt.candidate.key == key else None


# Begin --------------------------------------------------------------------------------------------


def _started(state: TrialState, now: float) -> list[Effect]:
    attempt = state.standing.attempt
    if attempt is None:
        return _next(state, now)
    if attempt.starts >= state.rules.starts_max:
        why = f"the agent started {attempt.starts} times and never came to compare a window"
        return _fail(state, attempt, "crashed", why, now)
    attempt = msgspec.structs.replace(attempt, starts=attempt.starts + 1)
    state.ends = now + attempt.seconds_left
    return [_keep(state, now, attempt=attempt), *_resume(state, attempt)]


def _resume(state: TrialState, attempt: Attempt) -> list[Effect]:
    """What the phase needs to go on."""
    if attempt.phase == "checking":
        return [Check(attempt.candidate)]
    previous, active = state.standing.previous, state.standing.active
    other = active if attempt.phase == "shadow" else previous
    beside: list[Effect] = [] if other is None else [Compare(attempt.candidate, other)]
    return [*beside, Wake(state.ends)]


def _offered(state: TrialState, version: Version, now: float, *, again: bool) -> list[Effect]:
    standing = state.standing
    attempt, key = standing.attempt, version.key
    if again:
        _set(state, refused=tuple(one for one in standing.refused if one != key))
    elif key in standing.refused:
        return _asked(standing, version.release) or _told(
            _ended(version, "refused", "failed_before", "it failed here before", _NONE)
        )
    if key == standing.active.key or (attempt is not None and key == attempt.candidate.key):
        return _known(state, version, now)
    if version.release:
        if version.release < standing.release:
            return [Say(version.release, "replaced", "outdated", "a newer release is known here")]
        _set(state, release=version.release)
    if attempt is None:
        return _begin(state, version, now)
    if version.release > attempt.candidate.release > 0 and attempt.phase != "watched":
        ended = _end(state, attempt, "replaced", "outdated", "a newer release came", now)
        _set(state, waiting=None)
        return [*ended, *_begin(state, version, now)]
    return [_keep(state, now, waiting=version), Note("waits", version)]


def _unfit(state: TrialState, event: Unfit, now: float) -> list[Effect]:
    standing, version = state.standing, event.version
    ended = _ended(version, "refused", event.reason, event.why, _NONE)
    kept = _keep(
        state,
        now,
        past=_past(standing, ended),
        refused=(*standing.refused, version.key)[-REFUSED_MAX:],
        release=max(standing.release, version.release),
    )
    return [kept, Note("refused", version, event.why), *_told(ended)]


def _known(state: TrialState, version: Version, now: float) -> list[Effect]:
    """The model is in use, or being tried: a release that brings just that is believed at once."""
    standing, release = state.standing, version.release
    if release <= standing.active.release or version.key != standing.active.key:
        return _asked(standing, release)
    active = msgspec.structs.replace(standing.active, release=release)
    ended = _ended(active, "kept", "", "it was in use already", _NONE)
    kept = _keep(state, now, active=active, release=release, past=_past(standing, ended))
    return [kept, *_asked(state.standing, release)]


def _begin(state: TrialState, version: Version, now: float) -> list[Effect]:
    attempt = Attempt(
        candidate=version, phase="checking", evidence=Evidence.none(state.rules), starts=1
    )
    state.ends = now
    return [
        _keep(state, now, attempt=attempt),
        Note("checking", version),
        *_say(attempt),
        Check(version),
    ]


def _checked(state: TrialState, event: Checked, now: float) -> list[Effect]:
    attempt = _attempt(state, event.key)
    if attempt is None or attempt.phase != "checking":
        return []
    if event.reason:
        return _fail(state, attempt, event.reason, event.why, now)
    attempt = msgspec.structs.replace(attempt, phase="shadow")
    state.ends = now + state.rules.shadow_seconds
    return [
        _keep(state, now, attempt=attempt),
        Note("shadow", attempt.candidate),
        *_say(attempt),
        *_resume(state, attempt),
    ]


# Shadow and watch ---------------------------------------------------------------------------------


def _compared(state: TrialState, event: Compared, now: float) -> list[Effect]:
    attempt = _attempt(state, event.key)
    if attempt is None or attempt.phase == "checking":
        return []
    evidence = attempt.evidence.after(event.losses, event.changes, state.rules)
    attempt = msgspec.structs.replace(attempt, evidence=evidence, starts=0)
    if attempt.phase == "watched":
        if evidence.worse.shows(state.rules.error):
            return _fail(state, attempt, "worse", worse_by(evidence), now)
        if now >= state.ends:
            return _watched_enough(state, attempt, now)
        return [_keep(state, now, attempt=attempt)]
    return _shadowed(state, attempt, now, last=False)


def _shadowed(state: TrialState, attempt: Attempt, now: float, *, last: bool) -> list[Effect]:
    """Take over, fail, or go on."""
    word, why = verdict(attempt.evidence, state.rules, last=last)
    match word:
        case "":
            return [_keep(state, now, attempt=attempt)]
        case "over":
            return _take_over(state, attempt, why, now)
    return _fail(state, attempt, word, why, now)


def _take_over(state: TrialState, attempt: Attempt, why: str, now: float) -> list[Effect]:
    previous = state.standing.active
    active = msgspec.structs.replace(attempt.candidate, why=why)
    attempt = Attempt(
        candidate=active, phase="watched", evidence=Evidence.none(state.rules), starts=0
    )
    state.ends = now + state.rules.watch_seconds
    return [
        _keep(state, now, active=active, previous=previous, attempt=attempt),
        Use(active),
        Note("watched", active, why),
        *_say(attempt, why=why),
        *_resume(state, attempt),
    ]


def _phase_ended(state: TrialState, now: float) -> list[Effect]:
    attempt = state.standing.attempt
    if attempt is None or attempt.phase == "checking":
        return []
    if attempt.phase == "watched":
        return _watched_enough(state, attempt, now)
    return _shadowed(state, attempt, now, last=True)


def _watched_enough(state: TrialState, attempt: Attempt, now: float) -> list[Effect]:
    if attempt.evidence.windows < state.rules.watch_windows:
        return [_keep(state, now, attempt=attempt)]  # as soon as there are so many
    return [
        *_end(state, attempt, "kept", "", attempt.candidate.why, now),
        *_next(state, now),
    ]


# End ----------------------------------------------------------------------------------------------


def _fail(state: TrialState, attempt: Attempt, reason: str, why: str, now: float) -> list[Effect]:
    """Refused before it decided anything, or rolled back after."""
    standing = state.standing
    refused = standing.refused
    if reason != "recalled":  # that says nothing about the model itself
        refused = (*refused, attempt.candidate.key)[-REFUSED_MAX:]
    if attempt.phase != "watched" or standing.previous is None:
        _set(state, refused=refused)
        return [*_end(state, attempt, "refused", reason, why, now), *_next(state, now)]
    back = standing.previous
    _set(state, refused=refused, active=back, previous=None)
    kept, *rest = _end(state, attempt, "rolled_back", reason, why, now)
    return [kept, Use(back), *rest, *_next(state, now)]


def _recalled(state: TrialState, release: int, why: str, now: float) -> list[Effect]:
    if release == 0:  # what the owner offered, or the device learned, is not the fleet's to recall
        return []
    standing = state.standing
    attempt, previous = standing.attempt, standing.previous
    if standing.waiting is not None and standing.waiting.release == release:
        _set(state, waiting=None)
    if attempt is not None and attempt.candidate.release == release:
        return _fail(state, attempt, "recalled", why, now)
    if standing.active.release != release or previous is None or previous.release == release:
        return [_keep(state, now), *_asked(state.standing, release)]
    ended = _ended(standing.active, "rolled_back", "recalled", why, _NONE)
    kept = _keep(state, now, active=previous, previous=None, past=_past(standing, ended))
    return [kept, Use(previous), Note("rolled_back", ended.version, why), *_told(ended)]


def _adopted(state: TrialState, version: Version) -> list[Effect]:
    if state.standing.attempt is not None:
        raise ProtocolBug("trial", state.standing.attempt.phase, "Adopted")
    _set(state, active=version)
    return [Keep(state.standing), Use(version)]


def _end(
    state: TrialState, attempt: Attempt, stage: Stage, reason: str, why: str, now: float
) -> list[Effect]:
    ended = _ended(attempt.candidate, stage, reason, why, attempt.evidence)
    past = _past(state.standing, ended)
    return [
        _keep(state, now, attempt=None, past=past),
        StopComparing(),
        Wake(None),
        Note(stage, attempt.candidate, why),
        *_told(ended),
    ]


def _next(state: TrialState, now: float) -> list[Effect]:
    """Whatever waited for the end of the trial."""
    waiting = state.standing.waiting
    if waiting is None:
        return []
    _set(state, waiting=None)
    return _offered(state, waiting, now, again=False)


# Parts --------------------------------------------------------------------------------------------


def _set(state: TrialState, **changes: object) -> None:
    state.standing = msgspec.structs.replace(state.standing, **changes)


def _keep(state: TrialState, now: float, **changes: object) -> Keep:
    """The standing with these changes, and with how long its phase still has."""
    _set(state, **changes)
    attempt = state.standing.attempt
    if attempt is not None:
        left = max(0.0, state.ends - now)
        _set(state, attempt=msgspec.structs.replace(attempt, seconds_left=left))
    return Keep(state.standing)


def _ended(version: Version, stage: Stage, reason: str, why: str, seen: Evidence) -> Ended:
    return Ended(
        version=version,
        stage=stage,
        reason=reason,
        why=why,
        windows=seen.windows,
        judged=seen.judged,
        loss=seen.loss,
        changed=seen.changed,
    )


def _past(standing: Standing, ended: Ended) -> tuple[Ended, ...]:
    return (*standing.past, ended)[-PAST_MAX:]


def _say(attempt: Attempt, why: str = "") -> list[Effect]:
    """How the trial of a release is going; of anything else the coordinator hears nothing."""
    release, seen = attempt.candidate.release, attempt.evidence
    if not release:
        return []
    figures = (seen.windows, seen.judged, seen.loss, seen.changed)
    return [Say(release, attempt.phase, "", why, *figures)]


def _told(ended: Ended) -> list[Effect]:
    release = ended.version.release
    if not release:
        return []
    figures = (ended.windows, ended.judged, ended.loss, ended.changed)
    return [Say(release, ended.stage, ended.reason, ended.why, *figures)]


def _asked(standing: Standing, release: int) -> list[Effect]:
    """The last word on a release, or that it waits; nothing where it never came here."""
    attempt, waiting = standing.attempt, standing.waiting
    if not release:
        return []
    if attempt is not None and attempt.candidate.release == release:
        return _say(attempt)
    for ended in reversed(standing.past):
        if ended.version.release == release:
            return _told(ended)
    if standing.active.release == release:
        return [Say(release, "kept")]
    if waiting is not None and waiting.release == release:
        return [Say(release, "waiting")]
    return []
