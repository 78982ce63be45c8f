"""Transcripts of a coordinator without rounds: places, staleness, copies and restarts."""

from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.base import Weighting
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.selection import Budget, Uniform
from hedgerow.protocol import coordinator, fleet
from hedgerow.protocol.effects import Aggregate
from hedgerow.protocol.fleet import RoundRules
from hedgerow.wire.messages import Accept, CheckIn, Decline, base_of
from tests.protocol.transcript import Desk, delta, model

TWO = FedBuff(buffer=2, staleness_max=2, weighting=Weighting(by="equal"))
RULES = RoundRules(cohort=3, quorum=2, deadline_seconds=100)


def begun(*devices: str, rules: RoundRules = RULES, algorithm: FedBuff = TWO) -> Desk:
    """A desk with all of its devices at work."""
    names = devices or ("ana", "ben", "cem")
    desk = Desk(rules, *names, algorithm=algorithm)
    for name in names:
        desk.state.members[name].seen_at = 0.0
        desk.state.members[name].samples = 32
    desk.take(fleet.Started())
    assert desk.state.phase == "open"
    return desk


def offers(lines: list[str]) -> set[str]:
    return {line for line in lines if ": offer" in line}


def test_it_goes_on_without_those_who_are_slow() -> None:
    desk = Desk(RULES, "ana", "ben", "cem", algorithm=TWO)
    desk.take(fleet.Started())
    assert desk.check_in("ana") == []
    opened = desk.check_in("ben")
    assert opened[0] == "save round 1 v1 target 2: "
    assert offers(opened) == {"to ana: offer 1 v1 100s", "to ben: offer 1 v1 100s"}
    assert opened[-2:] == ["timer slots at 100", "timer deadline at 100"]
    assert desk.check_in("cem") == ["to cem: offer 1 v1 100s"]  # the third place
    assert desk.update("ana") == ["count ana in round 1, weight 1", receipt("ana", 1)]
    assert desk.update("ben") == [
        "count ben in round 1, weight 1",
        receipt("ben", 1),
        "cancel deadline",
        "aggregate 1",
        "save round 2 v1 target 2: ",
    ]
    made = desk.aggregated(1, 2)
    assert offers(made) == {"to ana: offer 2 v2 100s", "to ben: offer 2 v2 100s"}
    assert "to all: published 1 v2" not in made  # nobody but these two needs it now
    # cem learned from version 1: one version old, so 2^-0.5 of a new one.
    assert desk.update("cem")[:2] == ["count cem in round 2, weight 0.707107", receipt("cem", 1)]
    assert desk.state.slots.keys() == {"ana", "ben", "cem"}
    assert desk.state.slots["cem"].round == 2  # offered again at once


def receipt(who: str, number: int, outcome: str = "counted") -> str:
    return f"to {who}: receipt {who}/{number}/update {outcome}"


def test_what_comes_while_a_model_is_stored_counts_for_the_next_one() -> None:
    desk = begun()
    desk.update("ana")
    desk.update("ben")
    assert desk.state.closing is not None
    assert desk.update("cem") == ["count cem in round 2, weight 0.707107", receipt("cem", 1)]
    assert desk.check_in("ben") == []  # no offer yet: its model cannot be fetched
    made = desk.aggregated(1, 2)
    assert offers(made) == {f"to {who}: offer 2 v2 100s" for who in ("ana", "ben", "cem")}
    assert desk.update("ana", 2, base=2)[-3:] == [
        "cancel deadline",
        "aggregate 2",
        "save round 3 v2 target 2: ",
    ]


def test_an_update_counts_once_wherever_it_counts() -> None:
    desk = begun()
    desk.update("cem")
    assert desk.outcome("cem") == "duplicate"
    desk.update("ana")
    desk.aggregated(1, 2)
    assert desk.outcome("cem") == "duplicate"
    assert desk.outcome("ana", payload=delta(9, 9, 9, 9)) == "duplicate"
    assert desk.outcome("ben", 9) == "unknown_round"
    assert desk.outcome("ben") == "counted"


def test_an_update_from_too_old_a_model_is_stale() -> None:
    desk = begun()
    for number in (1, 2, 3):
        for who in ("ana", "ben"):
            assert desk.outcome(who, number, base=number) == "counted"
        desk.aggregated(number, number + 1)
    assert desk.outcome("cem", 1, base=1) == "stale"  # three versions, and two are taken
    assert desk.state.slots["cem"].round == 4
    assert desk.outcome("cem", 4, base=77) == "stale"  # a model nobody knows


def test_a_device_that_vanished_loses_its_place_and_may_still_come() -> None:
    desk = begun("ana", "ben", "cem", "dot")
    waiting = ({"ana", "ben", "cem", "dot"} - set(desk.state.slots)).pop()
    slow = sorted(desk.state.slots)
    desk.state.members[waiting].seen_at = 99.0
    assert desk.timer("slots", 100.0) == [
        f"to {waiting}: offer 1 v1 100s",
        "timer slots at 200",
    ]
    assert set(desk.state.slots) == {waiting}
    assert desk.check_in(slow[0]) == []  # it was asked once for this version
    assert desk.outcome(slow[0]) == "counted"


def test_whoever_says_no_gives_its_place_away() -> None:
    desk = begun("ana", "ben", "cem", "dot")
    waiting = ({"ana", "ben", "cem", "dot"} - set(desk.state.slots)).pop()
    gone = min(desk.state.slots)
    desk.hear(gone, Accept(round=1))
    assert desk.state.slots[gone].accepted
    assert desk.hear(gone, Decline(round=1, reason="busy")) == [f"to {waiting}: offer 1 v1 100s"]
    assert gone not in desk.state.slots
    assert desk.hear(gone, Decline(round=1, reason="busy")) == []


def test_an_offer_that_did_not_come_is_made_again_with_the_newest_model() -> None:
    desk = begun()
    assert desk.hear("cem", at_work(1)) == []
    for who in ("ana", "ben"):
        desk.update(who)
    desk.aggregated(1, 2)
    assert desk.hear("cem", at_work(1)) == []  # it is at work from version 1: let it be
    assert desk.check_in("cem") == ["to cem: offer 2 v2 100s"]  # it forgot
    pending = CheckIn(model_version=2, samples=32, pending=[2])
    assert desk.hear("cem", pending) == []  # its update is on its way


def at_work(number: int, version: int = 1) -> CheckIn:
    return CheckIn(model_version=version, samples=32, training=number)


def test_too_few_devices_for_a_buffer_make_a_model_all_the_same() -> None:
    desk = begun("ana", "ben", algorithm=FedBuff(buffer=10))
    desk.update("ana")
    assert desk.update("ben")[-3:] == [
        "cancel deadline",
        "aggregate 1",
        "save round 2 v1 target 10: ",
    ]


def test_at_the_deadline_a_quorum_is_enough() -> None:
    desk = begun("ana", "ben", "cem", algorithm=FedBuff(buffer=10))
    desk.update("ana")
    assert desk.timer("deadline", 100.0) == ["timer deadline at 200"]  # one is no quorum
    desk.update("ben")
    assert desk.timer("deadline", 200.0)[1] == "aggregate 1"


def test_the_last_version_is_told_to_all() -> None:
    rules = RoundRules(cohort=3, quorum=1, rounds=1)
    desk = begun(rules=rules)
    desk.update("ana")
    assert desk.update("ben")[-2:] == ["cancel deadline", "aggregate 1"]
    assert desk.outcome("cem") == "late"
    assert desk.aggregated(1, 2) == ["to all: published 1 v2"]
    assert desk.state.phase == "done"
    assert desk.check_in("cem") == ["to cem: published 1 v2"]


def crashed(desk: Desk, *, version: int = 1, settled: dict[str, int] | None = None) -> Desk:
    """A new process with what the old one had kept."""
    assert desk.saved is not None
    again = Desk(desk.state.rules, *desk.state.members, algorithm=TWO)
    again.state.model = model(version)
    again.state.recent = {base_of(model(v)): v for v in range(1, version + 1)}
    for who, number in (settled or {}).items():
        again.state.members[who].settled = number
    again.state = coordinator.restore_round(again.state, desk.saved, 0.0)
    return again


def test_a_restart_counts_nothing_twice() -> None:
    desk = begun()
    desk.update("ana")
    desk.update("ben")
    close = next(effect for effect in desk.effects if isinstance(effect, Aggregate))
    assert dict(close.settled) == {"ana": 1, "ben": 1}
    desk.update("cem", payload=delta(4, 3, 2, 1))
    before = desk.sum.digest()

    again = crashed(desk, version=2, settled=dict(close.settled))
    # The journal from where round 2 began, and copies of what had counted in round 1.
    assert again.outcome("cem", payload=delta(4, 3, 2, 1)) == "counted"
    assert again.outcome("cem", payload=delta(4, 3, 2, 1)) == "duplicate"
    assert again.outcome("ana") == "duplicate"
    assert again.sum.digest() == before
    assert again.take(fleet.Started()) == ["to all: roll_call 0s", "timer deadline at 100"]
    assert again.hear("ana", at_work(2, 2)) == ["timer slots at 100"]  # it is at work already
    assert again.hear("ben", at_work(0, 2)) == ["to ben: offer 2 v2 100s"]


@pytest.mark.parametrize("given", [{"payload": b""}, {"group": 1}, {"samples": 0}])
def test_what_cannot_be_summed_frees_the_place(given: dict[str, Any]) -> None:
    desk = begun()
    assert desk.outcome("ana", **given) != "counted"
    assert desk.sum.terms == 0
    assert "ana" not in desk.state.slots
    assert desk.outcome("ana") == "duplicate"
    desk.update("ben")
    np.testing.assert_array_equal(desk.sum.mean(), np.array([1, 2, 3, 4], np.float32))


def test_whoever_lost_its_place_at_work_is_left_to_finish() -> None:
    desk = begun()
    desk.now = 90.0
    for who in ("ana", "ben", "cem"):
        desk.hear(who, CheckIn(model_version=1, samples=32, training=1))
    desk.timer("slots", 100.0)
    desk.update("ana")
    desk.update("ben")
    made = desk.aggregated(1, 2)
    assert offers(made) == {"to ana: offer 2 v2 100s", "to ben: offer 2 v2 100s"}
    assert desk.outcome("cem") == "counted"
    assert desk.state.slots["cem"].round == 2
    desk.hear("ana", CheckIn(model_version=2, samples=32, training=2))
    desk.hear("ana", Decline(round=2, reason="no"))
    desk.update("ben", 2, base=2)
    made = desk.aggregated(2, 3)
    assert "to ana: offer 3 v3 100s" in made


def test_a_free_place_goes_to_nobody_the_budget_passes_over() -> None:
    budget = Uniform(budget=Budget(battery_min=0.5))
    desk = Desk(RULES, "ana", "ben", "cem", algorithm=TWO, policy=budget)
    desk.take(fleet.Started())

    def charged(who: str, battery: float) -> list[str]:
        return desk.hear(who, CheckIn(model_version=1, samples=32, battery=battery))

    charged("ana", 0.9)
    charged("ben", 0.9)
    assert desk.state.slots.keys() == {"ana", "ben"}
    assert charged("cem", 0.1) == []
    assert charged("cem", 0.6) == ["to cem: offer 1 v1 100s"]


def test_whoever_checks_in_has_its_news_also_when_the_free_place_goes_to_another() -> None:
    desk = begun("ana", "ben", rules=RoundRules(cohort=1, quorum=1, deadline_seconds=100))
    desk.state.slots.clear()
    desk.state.bench = ["ben"]
    lines = desk.check_in("ana", version=0)
    assert offers(lines) == {"to ben: offer 1 v1 100s"}
    assert "to ana: published 0 v1" in lines
