"""The trial of a model on a device, as transcripts."""

from typing import Any

import pytest

from hedgerow.core.errors import ProtocolBug
from hedgerow.protocol import trial
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.protocol.trial_state import (
    Adopted,
    Asked,
    Broken,
    Check,
    Checked,
    Compare,
    Compared,
    Effect,
    Event,
    Keep,
    Note,
    Offered,
    PhaseEnded,
    Recalled,
    Say,
    Source,
    Standing,
    Started,
    StopComparing,
    TrialState,
    Unfit,
    Use,
    Version,
    Wake,
)

RULES = TrialRules(block_windows=1, watch_windows=100, watch_seconds=60, shadow_seconds=1000)


def version(name: str, release: int = 0, source: Source = "fleet") -> Version:
    return Version(bundle=f"{name} bundle", name=name, source=source, release=release)


OLD, NEW, NEWER = version("old", source="bundle"), version("new", 1), version("newer", 2)


def line(effect: Effect) -> str:
    match effect:
        case Keep(standing):
            attempt = standing.attempt
            phase = "" if attempt is None else f", {attempt.candidate.name} {attempt.phase}"
            return f"keep {standing.active.name}{phase}"
        case Check(candidate):
            return f"check {candidate.name}"
        case Compare(candidate, other):
            return f"compare {candidate.name} with {other.name}"
        case StopComparing():
            return "stop"
        case Use(one):
            return f"use {one.name}"
        case Wake(at):
            return "no timer" if at is None else f"timer at {at:g}"
        case Say(release, phase, reason):
            return f"say {release} {phase} {reason}".strip()
        case Note():
            return ""


class Device:
    """A trial machine driven by hand; what is kept outlives `restart`."""

    def __init__(self, **rules: Any) -> None:
        self.rules = TrialRules(
            **{**{f: getattr(RULES, f) for f in RULES.__struct_fields__}, **rules}
        )
        self.kept = Standing(active=OLD)
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        self.state = TrialState(self.kept, self.rules)

    def take(self, event: Event) -> list[str]:
        self.state, effects = trial.step(self.state, event, self.now)
        for effect in effects:
            if isinstance(effect, Keep):
                self.kept = effect.standing
        return [text for text in map(line, effects) if text]

    def compared(
        self, count: int, *, worse: float = 0, better: float = 0, other: float = 0
    ) -> list[str]:
        """Windows of which these shares got worse, better, or only another answer, evenly mixed."""
        attempt = self.state.standing.attempt
        assert attempt is not None
        lost = [0.0] * count
        for share, value in ((worse, 1.0), (better, -1.0)):
            for place in range(int(share * count)):
                lost[int((place + 0.5) / share) + (value < 0)] = value
        changed = [abs(one) for one in lost]
        for place in range(int(other * count)):
            changed[int((place + 0.5) / other)] = 1.0
        known = lost if worse or better else ()
        return self.take(Compared(attempt.candidate.key, changed, known))

    def to_shadow(self, one: Version = NEW) -> None:
        self.take(Offered(one))
        self.take(Checked(one.key))

    def to_watched(self, one: Version = NEW) -> None:
        self.to_shadow(one)
        assert f"use {one.name}" in self.compared(400)


def test_a_sound_release_takes_over_and_is_kept() -> None:
    device = Device()
    assert device.take(Offered(NEW)) == ["keep old, new checking", "say 1 checking", "check new"]
    assert device.take(Checked(NEW.key)) == [
        "keep old, new shadow",
        "say 1 shadow",
        "compare new with old",
        "timer at 1000",
    ]
    assert device.compared(10) == ["keep old, new shadow"]
    assert device.compared(400) == [
        "keep new, new watched",
        "use new",
        "say 1 watched",
        "compare new with old",
        "timer at 60",
    ]
    device.now = 60
    assert device.take(PhaseEnded()) == ["keep new, new watched"]  # too few windows yet
    assert device.compared(200) == ["keep new", "stop", "no timer", "say 1 kept"]
    assert device.kept.previous == OLD


@pytest.mark.parametrize("reason", ["wrong_schema", "not_finite", "slow"])
def test_what_fails_its_test_never_decides(reason: str) -> None:
    device = Device()
    device.take(Offered(NEW))
    assert device.take(Checked(NEW.key, reason, "a sentence")) == [
        "keep old",
        "stop",
        "no timer",
        f"say 1 refused {reason}",
    ]
    assert device.take(Offered(NEW)) == [f"say 1 refused {reason}"]
    again = version("new", 7)
    assert device.take(Offered(again)) == ["say 7 refused failed_before"]
    assert device.kept.active == OLD


def test_labels_show_in_shadow_that_it_is_worse() -> None:
    device = Device()
    device.to_shadow()
    said = device.compared(600, worse=0.1, better=0.02)
    assert said == ["keep old", "stop", "no timer", "say 1 refused worse"]


def test_with_labels_being_alike_is_not_enough() -> None:
    device = Device()
    device.to_shadow()
    assert device.compared(200, worse=0.02, better=0.02) == ["keep old, new shadow"]
    assert "use new" in device.compared(800, worse=0.02, better=0.02)


def test_without_labels_a_model_that_answers_otherwise_is_refused() -> None:
    device = Device()
    device.to_shadow()
    assert device.compared(300, other=0.5)[-1] == "say 1 refused unlike"


def test_nothing_shown_in_time_is_a_refusal() -> None:
    device = Device()
    device.to_shadow()
    device.compared(30, other=0.1)
    device.now = 1000
    assert device.take(PhaseEnded())[-1] == "say 1 refused undecided"


def test_at_the_last_moment_being_alike_is_enough_though_labels_are_few() -> None:
    device = Device()
    device.to_shadow()
    assert device.compared(150, worse=0.01, better=0.01) == ["keep old, new shadow"]
    device.now = 1000
    assert "use new" in device.take(PhaseEnded())


def test_worse_while_watched_is_rolled_back_by_the_device_itself() -> None:
    device = Device()
    device.to_watched()
    said = device.compared(600, worse=0.1, better=0.02)
    assert said == ["keep old", "use old", "stop", "no timer", "say 1 rolled_back worse"]
    assert device.kept.active == OLD
    assert device.kept.previous is None
    assert NEW.key in device.kept.refused


def test_a_crash_while_watched_is_rolled_back() -> None:
    device = Device()
    device.to_watched()
    assert "use old" in device.take(Broken(NEW.key, "crashed", "it died"))


def test_a_recall_goes_back_whenever_it_comes() -> None:
    device = Device()
    device.to_watched()
    device.now = 60
    device.compared(200)
    assert device.kept.attempt is None  # kept for good, one thought
    assert device.take(Recalled(1, "bad elsewhere")) == [
        "keep old",
        "use old",
        "say 1 rolled_back recalled",
    ]
    assert device.take(Recalled(1, "bad elsewhere"))[-1] == "say 1 rolled_back recalled"


def test_a_recall_in_shadow_ends_the_trial() -> None:
    device = Device()
    device.to_shadow()
    assert device.take(Recalled(1, "no good"))[-1] == "say 1 refused recalled"
    assert device.kept.refused == ()  # nothing is known against the model itself


def test_an_older_release_is_not_tried() -> None:
    device = Device()
    device.to_watched(NEWER)
    assert device.take(Offered(NEW)) == ["say 1 replaced outdated"]


def test_a_newer_release_takes_the_place_of_one_in_shadow() -> None:
    device = Device()
    device.to_shadow()
    assert device.take(Offered(NEWER)) == [
        "keep old",
        "stop",
        "no timer",
        "say 1 replaced outdated",
        "keep old, newer checking",
        "say 2 checking",
        "check newer",
    ]


def test_what_comes_during_a_watch_waits() -> None:
    device = Device()
    device.to_watched()
    mine = version("mine", source="owner")
    assert device.take(Offered(mine, again=True)) == ["keep new, new watched"]
    device.now = 60
    assert device.compared(200)[-2:] == ["keep new, mine checking", "check mine"]


def test_the_owner_may_try_again_what_failed() -> None:
    device = Device()
    mine = version("mine", source="owner")
    device.take(Offered(mine, again=True))
    device.take(Checked(mine.key, "slow", "the machine was busy"))
    assert device.take(Offered(mine, again=True)) == ["keep old, mine checking", "check mine"]


def test_after_a_restart_the_phase_goes_on_with_its_evidence() -> None:
    device = Device()
    device.to_shadow()
    device.now = 400
    device.compared(30)
    evidence = device.kept.attempt.evidence  # type: ignore[union-attr]
    device.restart()
    device.now = 5.0  # another boot: the steady clock begins anew
    assert device.take(Started()) == [
        "keep old, new shadow",
        "compare new with old",
        "timer at 605",
    ]
    assert device.kept.attempt.evidence == evidence  # type: ignore[union-attr]


def test_a_model_that_ends_the_agent_again_and_again_is_blamed() -> None:
    device = Device()
    device.take(Offered(NEW))
    for _ in range(RULES.starts_max - 1):
        device.restart()
        assert device.take(Started()) == ["keep old, new checking", "check new"]
    device.restart()
    assert device.take(Started())[-1] == "say 1 refused crashed"


def test_starts_with_comparisons_in_between_are_forgiven() -> None:
    device = Device()
    device.to_shadow()
    for _ in range(3 * RULES.starts_max):
        device.restart()
        assert device.take(Started())[0] == "keep old, new shadow"
        device.compared(1)


def test_a_round_model_serves_at_once_and_keeps_the_way_back() -> None:
    device = Device()
    device.to_watched()
    device.now = 60
    device.compared(200)
    fitted = version("new, round 7", 1)
    assert device.take(Adopted(fitted)) == ["keep new, round 7", "use new, round 7"]
    assert device.take(Recalled(1, "bad")) == [
        "keep old",
        "use old",
        "say 1 rolled_back recalled",
    ]


def test_nothing_is_adopted_in_a_trial() -> None:
    device = Device()
    device.to_shadow()
    with pytest.raises(ProtocolBug):
        device.take(Adopted(NEWER))


def test_what_is_no_model_is_told_and_remembered() -> None:
    device = Device()
    assert device.take(Unfit(NEW, "bad_bundle", "half an archive")) == [
        "keep old",
        "say 1 refused bad_bundle",
    ]
    assert device.take(Asked(1)) == ["say 1 refused bad_bundle"]
    assert device.take(Asked(9)) == []


def test_news_of_another_model_are_too_late() -> None:
    device = Device()
    device.to_shadow()
    assert device.take(Checked(NEWER.key, "slow", "")) == []
    assert device.take(Compared(NEWER.key, [1.0] * 1000)) == []
    assert device.take(Broken(NEWER.key, "crashed", "")) == []


def test_the_model_in_use_under_a_new_number_is_believed() -> None:
    device = Device()
    device.to_watched()
    device.now = 60
    device.compared(200)
    assert device.take(Offered(version("new", 5))) == ["keep new", "say 5 kept"]
    assert device.take(Offered(NEW))[-1] == "say 1 kept"
