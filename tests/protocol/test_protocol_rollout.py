"""A release on its way to a fleet: who gets it when, and what stops it."""

import math
import random
from collections import Counter
from typing import Any

import pytest

from hedgerow.protocol import rollout
from hedgerow.protocol.rollout_state import (
    Begun,
    Effect,
    Event,
    Heard,
    RolloutRules,
    RolloutState,
    SaveRollout,
    SaveTrial,
    Seen,
    Send,
    Soaked,
    Started,
    Stopped,
    Tell,
)
from hedgerow.wire.messages import Recall, Release, Trial

RULES: dict[str, Any] = {"canaries": 5, "share": 0.1, "soak_seconds": 100, "ask_seconds": 10}


def release(number: int = 1) -> Release:
    return Release(statement=b"", signature=bytes([number]) * 64)


class Desk:
    """A rollout machine driven by hand, over devices d0, d1, …"""

    def __init__(self, devices: int = 100, present: bool = True, **rules: Any) -> None:
        self.state = RolloutState(RolloutRules(**{**RULES, **rules}))
        self.now = 0.0
        self.names = [f"d{index}" for index in range(devices)]
        self.sent: list[tuple[str, str]] = []
        self.effects: list[Effect] = []
        self.kept: dict[str, Trial] = {}
        self.take(Started(tuple(self.names)))
        if present:
            self.everybody()

    def everybody(self) -> None:
        for name in self.names:
            self.take(Seen(name))

    def take(self, event: Event) -> list[str]:
        """An event; who was sent what."""
        self.state, self.effects = rollout.step(self.state, event, self.now)
        self.sent = []
        for effect in self.effects:
            match effect:
                case Send(device, message):
                    self.sent.append((device, "recall" if isinstance(message, Recall) else "try"))
                case SaveTrial(device, trial):
                    self.kept[device] = trial
        return [device for device, _ in self.sent]

    def begin(self, number: int = 1) -> list[str]:
        return self.take(Begun(number, release(number)))

    def say(self, device: str, phase: str, reason: str = "") -> list[str]:
        number = self.state.current.number if self.state.current else 0
        return self.take(Heard(device, Trial(release=number, phase=phase, reason=reason)))

    def soak(self) -> list[str]:
        self.now = max(self.now, self.state.soaked_at)
        for name in self.names[50:]:
            self.take(Seen(name))
        return self.take(Soaked())

    @property
    def course(self) -> tuple[str, str]:
        assert self.state.current is not None
        return self.state.current.course, self.state.current.stage


def test_canaries_then_a_tenth_then_all() -> None:
    desk = Desk()
    canaries = desk.begin()
    assert len(canaries) == 5
    for name in canaries:
        desk.say(name, "kept")
    assert desk.course == ("rolling", "canary")  # it soaks first
    tenth = desk.soak()
    assert desk.course == ("rolling", "share")
    assert len(tenth) == 5  # ten in all
    for name in tenth:
        desk.say(name, "kept")
    others = desk.soak()
    assert desk.course == ("rolling", "all")
    assert not {*others} & {*canaries, *tenth}
    desk.everybody()
    assert set(desk.state.phases) == set(desk.names)


def test_a_stage_waits_for_enough_good_news() -> None:
    desk = Desk()
    canaries = desk.begin()
    for name in canaries[:3]:
        desk.say(name, "kept")
    assert desk.soak() == []
    assert desk.course == ("rolling", "canary")
    desk.say(canaries[3], "kept")  # four fifths
    assert desk.course == ("rolling", "share")


def test_canaries_are_others_each_time_but_the_same_for_the_same_release() -> None:
    assert sorted(Desk().begin(1)) == sorted(Desk().begin(1))
    assert sorted(Desk().begin(1)) != sorted(Desk().begin(2))


def test_devices_that_come_later_fill_the_stage() -> None:
    desk = Desk(present=False)
    assert desk.begin() == []
    assert desk.take(Seen("d7")) == ["d7"]
    for name in desk.names:
        desk.take(Seen(name))
    assert len(desk.state.phases) == 5


@pytest.mark.parametrize("reason", ["forged", "wrong_schema", "not_finite", "wrong_shape"])
def test_a_certain_fault_on_one_canary_halts_it(reason: str) -> None:
    desk = Desk()
    canaries = desk.begin()
    back = desk.say(canaries[0], "refused", reason)
    assert desk.course == ("halted", "canary")
    assert sorted(back) == sorted(canaries[1:])
    assert all(what == "recall" for _, what in desk.sent)


def test_one_canary_that_found_it_worse_does_not_halt_it_two_do() -> None:
    desk = Desk()
    canaries = desk.begin()
    desk.say(canaries[0], "rolled_back", "worse")
    assert desk.course == ("rolling", "canary")
    desk.say(canaries[1], "rolled_back", "worse")
    assert desk.course == ("halted", "canary")


def test_a_halted_release_goes_to_nobody_and_is_taken_back_until_that_is_heard() -> None:
    desk = Desk()
    first, *rest = desk.begin()
    desk.say(rest[0], "watched")
    desk.say(first, "refused", "not_finite")
    assert desk.take(Seen(rest[0])) == []  # told a moment ago
    desk.now = 20.0
    assert desk.take(Seen(rest[0])) == [rest[0]]
    assert desk.sent == [(rest[0], "recall")]
    desk.say(rest[0], "rolled_back", "recalled")
    desk.now = 40.0
    assert desk.take(Seen(rest[0])) == []
    desk.everybody()
    assert len(desk.state.phases) == 5


def test_what_says_nothing_against_the_model_halts_nothing() -> None:
    desk = Desk()
    for name in desk.begin():
        desk.say(name, "refused", "undecided")
    assert desk.course == ("rolling", "canary")
    assert desk.soak() == []


def test_the_operator_takes_it_back_from_all() -> None:
    desk = Desk(devices=8, canaries=8, share=1.0)
    for name in desk.begin():
        desk.say(name, "kept")
    assert len(desk.take(Stopped("we know better"))) == 8
    assert desk.course == ("halted", "canary")


def test_a_newer_release_takes_its_place() -> None:
    desk = Desk()
    old = desk.begin(1)
    assert len(desk.begin(2)) == 5
    saved = [one.rollout for one in desk.effects if isinstance(one, SaveRollout)]
    assert [(one.number, one.course) for one in saved] == [(1, "replaced"), (2, "rolling")]
    assert desk.take(Heard(old[0], Trial(release=1, phase="kept"))) == []
    assert 1 not in {trial.release for trial in desk.state.phases.values()}


def test_news_of_devices_that_were_given_nothing_is_not_heard() -> None:
    desk = Desk()
    canaries = desk.begin()
    other = next(name for name in desk.names if name not in canaries)
    desk.say(other, "rolled_back", "worse")
    assert other not in desk.state.phases


def test_an_older_word_that_comes_later_changes_nothing() -> None:
    desk = Desk()
    canaries = desk.begin()
    desk.say(canaries[0], "kept")
    desk.say(canaries[0], "shadow")
    assert desk.state.phases[canaries[0]].phase == "kept"
    assert desk.state.counts["kept"] == 1


def test_whoever_has_not_ended_is_asked_again_at_its_check_in() -> None:
    desk = Desk()
    name = desk.begin()[0]
    assert desk.take(Seen(name)) == []
    desk.now = 11.0
    assert desk.take(Seen(name)) == [name]
    desk.say(name, "kept")
    desk.now = 30.0
    assert desk.take(Seen(name)) == []


def test_it_goes_on_after_a_restart() -> None:
    desk = Desk()
    canaries = desk.begin()
    desk.now = 60.0
    desk.say(canaries[0], "kept")
    saved = next(one.rollout for one in desk.effects if isinstance(one, SaveRollout))
    again = Desk(present=False)
    rollout.restore(again.state, saved, desk.kept, again.now)
    again.state.release = release()
    assert again.state.counts == Counter({"kept": 1, "given": 4})
    assert again.state.soaked_at == pytest.approx(40.0)
    for name in canaries[1:]:
        again.say(name, "kept")
    again.now = 40.0
    again.everybody()
    again.take(Soaked())
    assert again.course == ("rolling", "share")


def test_a_good_release_is_seldom_halted_a_bad_one_soon() -> None:
    """150 fleets of which 10% of the devices fail by chance: at most 5% are halted. A model that
    half of the devices find worse never comes to all.
    """
    rng = random.Random(3)
    halted = sum(_rolled(rng, 0.1)[0] == "halted" for _ in range(150))
    assert halted <= 0.05 * 150 + 3 * math.sqrt(150 * 0.05 * 0.95)
    assert {_rolled(rng, 0.5)[1] for _ in range(40)} <= {"canary", "share"}


def _rolled(rng: random.Random, failing: float) -> tuple[str, str]:
    desk = Desk(devices=100, canaries=10, share=0.25)
    waiting = desk.begin()
    while waiting:
        for name in waiting:
            bad = rng.random() < failing
            desk.say(name, "rolled_back" if bad else "kept", "worse" if bad else "")
        desk.now = desk.state.soaked_at
        desk.everybody()
        desk.take(Soaked())
        desk.everybody()
        assert not any(isinstance(one, Tell) and one.what == "begun" for one in desk.effects)
        waiting = [name for name, trial in desk.state.phases.items() if trial.phase == "given"]
        if desk.course[0] == "halted":
            break
    return desk.course
