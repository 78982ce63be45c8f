"""Transcripts of the coordinator: what it is told, and every effect it answers with, in order."""

from typing import Any

import numpy as np
import pytest

from hedgerow.algorithms.base import Schedule
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.selection import Budget, FedACS, FedLECC, PowerOfChoice, Uniform
from hedgerow.core.errors import ProtocolBug, UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol import coordinator, counting, fleet
from hedgerow.protocol.effects import Broadcast, Send
from hedgerow.protocol.fleet import RoundRules, Way
from hedgerow.seal.codec import Codec
from hedgerow.wire.messages import (
    Accept,
    BlobRef,
    CheckIn,
    Decline,
    Enrol,
    Offer,
    Published,
    Report,
)
from tests.protocol.transcript import Desk, delta, model

THREE = RoundRules(cohort=3, quorum=2)


def opened(rules: RoundRules = THREE, *devices: str, **given: Any) -> Desk:
    """A desk with a round open for all of its devices."""
    names = devices or ("ana", "ben", "cem")
    desk = Desk(rules, *names, **given)
    for name in names:
        desk.state.members[name].seen_at = 0.0
        desk.state.members[name].samples = 32
    desk.take(fleet.Started())
    assert desk.state.phase == "open"
    return desk


def test_a_round_of_three_devices() -> None:
    desk = Desk(RoundRules(cohort=3, quorum=3, roll_call_seconds=2), "ana", "ben", "cem")
    assert desk.take(fleet.Started()) == ["to all: roll_call 2s"]
    assert desk.check_in("ana") == []
    assert desk.check_in("ben") == []
    assert desk.check_in("cem") == [
        "save round 1 v1 target 3: ana ben cem",
        "to ana: offer 1 v1 600s",
        "to ben: offer 1 v1 600s",
        "to cem: offer 1 v1 600s",
        "timer deadline at 600",
    ]
    desk.now = 1.0
    for name in ("ana", "ben", "cem"):
        assert desk.hear(name, Accept(round=1)) == []
    assert desk.update("cem") == [
        "count cem in round 1, weight 1",
        "to cem: receipt cem/1/update counted",
    ]
    assert desk.update("ana", payload=delta(3, 2, 1, 0), samples=2048) == [
        "count ana in round 1, weight 2",
        "to ana: receipt ana/1/update counted",
    ]
    assert desk.update("ben", samples=512) == [
        "count ben in round 1, weight 0.5",
        "to ben: receipt ben/1/update counted",
        "cancel deadline",
        "aggregate 1",
    ]
    # (1·[1,2,3,4] + 2·[3,2,1,0] + ½·[1,2,3,4]) / 3.5
    np.testing.assert_array_equal(
        desk.sum.mean(), np.array([7.5 / 3.5, 2, 6.5 / 3.5, 6 / 3.5], np.float32)
    )
    assert desk.aggregated() == [
        "to all: published 1 v2",
        "save round 2 v2 target 3: ana ben cem",
        "to ana: offer 2 v2 600s",
        "to ben: offer 2 v2 600s",
        "to cem: offer 2 v2 600s",
        "timer deadline at 601",
    ]


def test_more_are_invited_than_wanted_and_the_rest_comes_late() -> None:
    desk = opened(RoundRules(cohort=2, quorum=2, over_selection=0.5), "ana", "ben", "cem", "dot")
    assert desk.state.open is not None
    assert len(desk.state.open.cohort) == 4
    assert desk.state.open.target == 2
    assert desk.outcome("dot") == "counted"
    assert desk.update("ana")[-2:] == ["cancel deadline", "aggregate 1"]
    assert desk.outcome("ben") == "late"
    desk.aggregated()
    assert desk.outcome("cem") == "late"
    assert desk.sum.terms == 0  # the sum of round 2


def test_the_deadline_closes_a_round_that_has_its_quorum() -> None:
    desk = opened()
    desk.update("ana")
    desk.update("ben")
    assert desk.timer("deadline", 600) == ["cancel deadline", "aggregate 1"]


def test_a_round_without_a_quorum_is_abandoned_and_another_one_follows() -> None:
    desk = opened()
    desk.update("ana")
    assert desk.timer("deadline", 600) == [
        "abandon 1: 1 of 2 updates at deadline",
        "cancel deadline",
        "timer rest at 605",
    ]
    assert desk.outcome("ben") == "late"
    assert desk.check_in("ana") == []
    assert desk.check_in("ben") == []
    assert desk.timer("rest", 605) == [
        "save round 2 v1 target 2: ana ben",
        "to ana: offer 2 v1 600s",
        "to ben: offer 2 v1 600s",
        "timer deadline at 1205",
    ]


def test_the_round_closes_as_soon_as_nobody_is_left_to_wait_for() -> None:
    desk = opened()
    desk.update("ana")
    desk.hear("ben", Accept(round=1))
    desk.update("cem")
    assert desk.hear("ben", Decline(round=1, reason="the owner paused sharing")) == [
        "cancel deadline",
        "aggregate 1",
    ]


def test_declines_alone_abandon_the_round_at_once() -> None:
    desk = opened()
    decline = Decline(round=1, reason="no")
    assert desk.hear("ana", decline) == []
    assert desk.hear("ana", decline) == []  # a second time changes nothing
    assert desk.hear("ben", decline) == []
    assert desk.hear("cem", decline)[0] == "abandon 1: 0 of 2 updates at settled"


def test_accepts_and_declines_of_another_round_change_nothing() -> None:
    desk = opened()
    assert desk.hear("ana", Decline(round=7, reason="no")) == []
    assert desk.hear("ana", Accept(round=0)) == []
    desk.update("ana")
    assert desk.hear("ana", Decline(round=1, reason="changed my mind")) == []
    assert desk.state.open is not None
    assert desk.state.open.cohort == {"ana": "counted", "ben": "offered", "cem": "offered"}


def test_a_declined_round_may_still_be_answered() -> None:
    """A decline and an update cross when the owner pauses and resumes: the update wins."""
    desk = opened()
    desk.hear("ana", Decline(round=1, reason="the owner paused sharing"))
    assert desk.outcome("ana") == "counted"


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"payload": delta(1, 2, 3)}, "bad_payload"),
        ({"payload": b""}, "bad_payload"),
        ({"payload": delta(1, 2, 3, 4) + b"\0"}, "bad_payload"),
        ({"payload": delta(1, float("nan"), 3, 4)}, "bad_payload"),
        ({"payload": b"\x01\x00\xa0\x7f" * 4}, "bad_payload"),  # a signalling NaN
        ({"payload": delta(1, float("-inf"), 3, 4)}, "bad_payload"),
        ({"payload": delta(1, 2, 3, 4097)}, "out_of_range"),
        ({"payload": delta(1, 2, 3, 65), "samples": 10**9}, "out_of_range"),  # 65 · 64 > 4096
        ({"payloads": (delta(1, 2, 3, 4),) * 2}, "wrong_shape"),
        ({"figures": (1.0,)}, "wrong_shape"),
        ({"group": 1}, "wrong_group"),
        ({"codec": 1}, "wrong_codec"),
        ({"metrics": {"loss": float("nan")}}, "not_finite"),
        ({"samples": 0}, "no_samples"),
        ({"base": 7}, "stale"),
    ],
)
def test_what_cannot_be_summed_is_refused_and_the_round_goes_on(
    given: dict[str, Any], outcome: str
) -> None:
    desk = opened()
    assert desk.outcome("ana", **given) == outcome
    assert desk.sum.terms == 0
    assert desk.outcome("ana") == "duplicate"  # one update a device and round
    assert desk.outcome("ben") == "counted"
    assert desk.update("cem")[-1] == "aggregate 1"
    assert desk.state.outcomes == {outcome: 1, "duplicate": 1, "counted": 2}


def test_metrics_must_be_finite() -> None:
    desk = opened()
    update = desk.update("ana")
    assert update
    report = Report(model_version=1, confidence=float("nan"))
    desk.hear("ben", report)
    assert desk.state.outcomes["not_finite"] == 1
    assert desk.state.members["ben"].report is None
    desk.hear("ben", Report(model_version=1, label="walking", confidence=0.9))
    assert desk.state.members["ben"].report is not None


def test_updates_that_have_no_place_in_the_sum() -> None:
    desk = opened(RoundRules(cohort=2, quorum=2), "ana", "ben")
    desk.take(fleet.Joined("eve", "Eve"))
    before = desk.sum.digest()
    assert desk.outcome("eve") == "uninvited"
    assert desk.outcome("ana", 2) == "unknown_round"
    assert desk.outcome("ana", 0) == "late"
    assert desk.sum.digest() == before
    assert desk.outcome("ana") == "counted"
    after = desk.sum.digest()
    assert desk.outcome("ana") == "duplicate"
    assert desk.outcome("ana", payload=delta(9, 9, 9, 9)) == "duplicate"
    assert desk.sum.digest() == after
    desk.update("ben")
    assert desk.outcome("ana") == "duplicate"  # while the sum is being turned into a model
    assert desk.outcome("eve") == "late"
    desk.aggregated()
    assert desk.outcome("ana", 1) == "duplicate"  # replayed after the round
    assert desk.outcome("eve", 1) == "late"
    assert desk.outcome("ana", 2, base=2) == "counted"


def test_who_is_unknown_gets_no_answer() -> None:
    desk = opened()
    assert desk.update("mallory") == []
    assert desk.check_in("mallory") == []
    assert desk.state.outcomes == {"unknown_device": 2}
    assert "mallory" not in desk.state.members


def test_what_is_no_message_is_counted_by_reason() -> None:
    desk = opened()
    for reason in ("oversized", "malformed", "forged", "unknown_version", "forged"):
        assert desk.take(fleet.Refused("ana", reason)) == []
    enrol = Enrol(device="U" + "A" * 55, name="Ana")
    assert desk.hear("ana", enrol) == []  # on the wrong subject
    expected = {"oversized": 1, "malformed": 1, "forged": 2, "unknown_version": 1, "misplaced": 1}
    assert desk.state.outcomes == expected
    assert desk.outcome("ana") == "counted"


def test_a_device_killed_in_training_checks_in_and_gets_its_offer_again() -> None:
    desk = opened()
    desk.hear("ana", Accept(round=1))
    desk.now = 100.0
    assert desk.check_in("ana") == ["to ana: offer 1 v1 500s"]
    desk.update("ana")
    assert desk.check_in("ana") == []  # counted: nothing more is asked of it


def test_an_offer_that_nobody_answered_is_made_again_at_check_in() -> None:
    desk = opened()
    desk.now = 599.9
    assert desk.check_in("ben") == ["to ben: offer 1 v1 1s"]


def test_who_has_an_old_model_is_told_of_the_new_one_even_while_a_round_is_open() -> None:
    desk = opened(RoundRules(cohort=2, quorum=2), "ana", "ben")
    desk.update("ana")
    desk.update("ben")
    desk.aggregated()
    desk.take(fleet.Joined("eve", "Eve"))
    assert desk.check_in("eve", version=1) == ["to eve: published 2 v2"]
    assert desk.check_in("eve", version=2) == []
    assert desk.check_in("ana", version=1) == ["to ana: offer 2 v2 600s"]  # the offer names it


def test_a_check_in_brings_receipts_that_were_lost() -> None:
    desk = opened()
    desk.update("ana")
    desk.update("ben", payload=b"")
    pending = CheckIn(model_version=1, samples=32, pending=[0, 1, 2])
    assert desk.hear("ana", pending) == [
        "to ana: receipt ana/0/update late",
        "to ana: receipt ana/1/update duplicate",
        "to ana: receipt ana/2/update unknown_round",
    ]
    assert desk.hear("ben", pending)[1] == "to ben: receipt ben/1/update duplicate"
    assert desk.hear("cem", pending)[1:] == [  # cem's update may be on its way: no receipt for it
        "to cem: receipt cem/2/update unknown_round",
        "to cem: offer 1 v1 600s",
    ]


def crashed(desk: Desk, now: float = 50.0, **given: Any) -> Desk:
    """A new process with what the old one had kept."""
    assert desk.saved is not None
    again = Desk(desk.state.rules, *desk.state.members, **given)
    again.now = now
    again.state = coordinator.restore_round(again.state, desk.saved, now)
    return again


def test_a_coordinator_that_starts_again_asks_nobody_for_what_had_arrived() -> None:
    desk = opened(RoundRules(cohort=3, quorum=3))
    desk.update("cem", payload=delta(0.1, 0.2, 0.3, 0.4), samples=100)
    desk.update("ana", payload=delta(-3, 1e-7, 5, 0), samples=3)
    before = desk.sum.digest()

    again = crashed(desk)
    assert again.update("cem", payload=delta(0.1, 0.2, 0.3, 0.4), samples=100) == [
        "count cem in round 1, weight 0.0976562",
        "to cem: receipt cem/1/update counted",
    ]
    again.update("ana", payload=delta(-3, 1e-7, 5, 0), samples=3)
    assert again.outcome("ana") == "duplicate"  # a copy in the journal
    assert again.check_in("ben") == []  # not before the journal is through
    assert again.take(fleet.Started()) == [
        "to all: roll_call 0s",
        "to ben: offer 1 v1 600s",
        "timer deadline at 650",
    ]
    assert again.sum.digest() == before
    assert again.state.open is not None
    assert again.state.open.counts == {"counted": 2, "offered": 1}


def test_a_round_that_was_complete_at_the_crash_is_closed_at_once() -> None:
    desk = opened(RoundRules(cohort=2, quorum=2, over_selection=0.5), "ana", "ben", "cem", "dot")
    for name in ("dot", "ana"):
        desk.update(name)
    assert desk.state.phase == "aggregating"
    assert desk.outcome("ben") == "late"
    before = desk.sum.digest()

    again = crashed(desk)
    outcomes = [again.outcome(name) for name in ("dot", "ana", "ben")]
    assert outcomes == ["counted", "counted", "late"]  # the same order gives the same outcomes
    assert again.take(fleet.Started()) == [
        "to all: roll_call 0s",
        "cancel deadline",
        "aggregate 1",
    ]
    assert again.sum.digest() == before


def test_a_journal_of_rounds_that_are_over_moves_nothing() -> None:
    desk = Desk(THREE, "ana")
    desk.state.last_round = 5
    assert desk.outcome("ana", 4) == "late"
    assert desk.outcome("ana", 5) == "late"
    assert desk.outcome("ana", 6) == "unknown_round"


def test_too_few_present_open_no_round() -> None:
    desk = Desk(RoundRules(cohort=3, quorum=2, presence_seconds=90), "ana", "ben", "cem")
    desk.take(fleet.Started())
    assert desk.check_in("ana") == []
    assert desk.check_in("ben", samples=0) == []  # nothing to learn from
    desk.now = 91.0
    assert desk.check_in("cem") == []  # ana was not heard of for too long
    assert desk.check_in("ana")[0] == "save round 1 v1 target 2: ana cem"


def test_it_rests_between_rounds_and_ends_after_the_last() -> None:
    desk = opened(RoundRules(cohort=1, quorum=1, pause_seconds=10, rounds=2), "ana")
    desk.update("ana")
    assert desk.aggregated() == ["to all: published 1 v2", "timer rest at 10"]
    assert desk.check_in("ana", version=2) == []
    assert desk.timer("deadline", 9) == []  # a timer that belongs to a round that is over
    assert desk.timer("rest", 10)[0] == "save round 2 v2 target 1: ana"
    desk.update("ana", 2, base=2)
    desk.aggregated(2, 3)
    assert desk.timer("rest", 20) == []
    assert desk.state.phase == "done"
    assert desk.check_in("ana", version=2) == ["to ana: published 2 v3"]


def test_the_plan_follows_the_rounds_that_succeeded() -> None:
    algorithm = FedAvg(schedule=Schedule(kind="cosine", end=0.0))
    rules = RoundRules(cohort=1, quorum=1, rounds=3)
    desk = opened(rules, "ana", algorithm=algorithm, plan=LocalPlan(rate=0.1))
    rates = []
    for number in (1, 2, 3):
        send = next(effect for effect in desk.effects if isinstance(effect, Send))
        assert isinstance(send.message, Offer)
        rates.append(send.message.plan.rate)
        desk.update("ana", number, base=number)
        desk.aggregated(number, number + 1)
    assert rates == pytest.approx([0.1, 0.05, 0.0])


def test_devices_join_until_the_fleet_is_full() -> None:
    desk = Desk(RoundRules(cohort=1, quorum=1, devices_max=1))
    assert desk.take(fleet.EnrolmentAsked("ana", "Ana")) == ["admit ana"]
    assert desk.take(fleet.EnrolmentAsked("ana", "Ana's")) == ["admit ana"]
    assert desk.state.members["ana"].name == "Ana's"
    assert desk.take(fleet.EnrolmentAsked("ben", "Ben")) == [
        "turn away ben: the fleet is full: it takes 1 devices"
    ]


def test_events_the_phase_does_not_allow_are_bugs() -> None:
    desk = opened()
    with pytest.raises(ProtocolBug, match="coordinator in state 'open'"):
        desk.take(fleet.Started())
    with pytest.raises(ProtocolBug, match=r"Aggregated\(1\)"):
        desk.take(fleet.Aggregated(1, model(2)))


def test_rules_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(UsageError, match="quorum of 9 out of a cohort of 3"):
        RoundRules(cohort=3, quorum=9)


def test_the_quorum_counts_devices_not_check_ins() -> None:
    desk = Desk(RoundRules(cohort=3, quorum=3), "ana", "ben", "cem")
    desk.take(fleet.Started())
    for _ in range(5):
        assert desk.check_in("ana") == []
        assert desk.check_in("ben") == []
    assert desk.check_in("cem")[0] == "save round 1 v1 target 3: ana ben cem"


# Patches, pace and policies -----------------------------------------------------------------------


def way_of(desk: Desk) -> dict[str, int]:
    """By whom a model is reached by patches: device → how many, from its offers and news."""
    sent = [effect for effect in desk.effects if isinstance(effect, Send)]
    ways = {
        effect.device: effect.message.patches
        for effect in sent
        if isinstance(effect.message, Offer | Published)
    }
    return {who: len(way.blobs) for who, way in ways.items() if way is not None}


def test_who_is_a_few_versions_behind_is_told_the_patches_it_lacks() -> None:
    desk = opened(RoundRules(cohort=1, quorum=1), "ana", way=Way(Codec(), 1, kept=3))
    desk.take(fleet.Joined("eve", "Eve"))
    for number in range(1, 6):
        desk.update("ana", number, base=number)
        patch = BlobRef(sha256=number.to_bytes(32, "big"), bytes=4)
        desk.take(fleet.Aggregated(number, model(number + 1), patch))
        broadcast = next(e for e in desk.effects if isinstance(e, Broadcast))
        assert isinstance(broadcast.message, Published)
        assert broadcast.message.patches is not None
        assert [blob.hash for blob in broadcast.message.patches.blobs] == [f"{number:064x}"]
        assert way_of(desk) == {"ana": 1}  # the offer of the next round
    for version, patches in ((2, 0), (3, 3), (4, 2), (5, 1), (6, 0)):
        desk.check_in("eve", version)
        assert way_of(desk).get("eve", 0) == patches


def test_patches_that_add_up_to_more_than_the_model_are_not_named() -> None:
    desk = opened(RoundRules(cohort=1, quorum=1), "ana", way=Way(Codec(), 1))
    desk.take(fleet.Joined("eve", "Eve"))
    for number in (1, 2):
        desk.update("ana", number, base=number)
        patch = BlobRef(sha256=number.to_bytes(32, "big"), bytes=9)
        desk.take(fleet.Aggregated(number, model(number + 1), patch))
    desk.check_in("eve", 1)
    assert way_of(desk) == {}  # 18 bytes, and the model has 16
    desk.check_in("eve", 2)
    assert way_of(desk) == {"eve": 1}


def test_a_large_fleet_is_told_when_to_come_and_counts_as_present_until_then() -> None:
    names = [f"device-{n:05d}" for n in range(2000)]
    rules = RoundRules(cohort=5, quorum=5, devices_min=2000, check_ins_per_second_max=50)
    desk = Desk(rules, *names)
    assert desk.take(fleet.Started()) == ["to all: roll_call 80s"]  # 25 a second
    seconds = []
    for name in names[:50]:
        (line,) = desk.check_in(name)
        assert line.startswith(f"to {name}: pace ")
        seconds.append(float(line.rpartition(" ")[2].removesuffix("s")))
    assert 0 < min(seconds) < max(seconds) <= 120.1
    assert len(set(seconds)) == 50
    soon, late = (names[seconds.index(wanted(seconds))] for wanted in (min, max))
    desk.now = max(seconds) - 1 + rules.presence_seconds
    assert desk.state.is_present(desk.state.members[late], desk.now)
    assert not desk.state.is_present(desk.state.members[soon], desk.now)


def test_a_small_fleet_comes_at_its_own_rhythm() -> None:
    desk = Desk(RoundRules(cohort=5, quorum=5), *(f"device-{n}" for n in range(500)))
    desk.take(fleet.Started())
    assert desk.check_in("device-7") == []


def test_a_policy_chooses_and_remembers_what_came_of_it() -> None:
    desk = opened(
        RoundRules(cohort=2, quorum=2, seed=3),
        *("ana", "ben", "cem", "dot"),
        policy=PowerOfChoice(draw=2.0, fairness_share=0.0),
    )
    assert desk.state.open is not None
    first = set(desk.state.open.cohort)
    for who, loss in zip(sorted(first), (0.1, 9.0), strict=True):
        desk.update(who, metrics={"loss": loss, "seconds": 3.0})
    assert {who: past.loss for who, past in desk.state.memory.past.items()} == dict(
        zip(sorted(first), (0.1, 9.0), strict=True)
    )
    desk.aggregated()
    second = set(desk.state.open.cohort)
    assert second == {"ana", "ben", "cem", "dot"} - first  # a loss nobody knows comes first
    for who in sorted(second):
        desk.update(who, 2, base=2, metrics={"loss": 0.2})
    desk.aggregated(2, 3)
    assert sorted(first)[1] in desk.state.open.cohort  # the one with the loss of 9


def test_a_budget_keeps_devices_out_and_no_round_opens_for_too_few() -> None:
    desk = Desk(
        RoundRules(cohort=2, quorum=2), "ana", "ben", policy=Uniform(budget=Budget(battery_min=0.5))
    )
    desk.take(fleet.Started())
    for who, battery in (("ana", 0.9), ("ben", 0.1)):
        assert desk.hear(who, CheckIn(model_version=1, samples=9, battery=battery)) == []
    assert desk.state.phase == "idle"
    lines = desk.hear("ben", CheckIn(model_version=1, samples=9, battery=0.1, on_power=True))
    assert lines[0] == "save round 1 v1 target 2: ana ben"


def test_skew_is_judged_by_the_last_layers_of_a_round() -> None:
    desk = opened(RoundRules(cohort=3, quorum=3), policy=FedACS())
    for who, value in (("ana", 1.0), ("ben", 1.0), ("cem", 4.0)):
        desk.update(who, payload=delta(value, value, value, value), samples=100)
    rewards = {who: past.reward for who, past in desk.state.memory.past.items()}
    # Distances from the mean of 2 in four numbers: 2, 2 and 4; times −√100.
    assert rewards == pytest.approx({"ana": -20, "ben": -20, "cem": -40})


def test_a_restart_in_the_middle_of_a_round_gives_the_same_rewards() -> None:
    values = {"ana": 1.0, "ben": 1.5, "cem": 4.0}
    desk = opened(RoundRules(cohort=3, quorum=3), *values, policy=FedACS())
    again = crashed(desk, policy=FedACS())
    for one in (desk, again):
        for who, value in values.items():
            one.update(who, payload=delta(value, 0, value, -value), samples=100)
    again.take(fleet.Started())  # the journal was read; only now does the round close
    assert again.state.phase == desk.state.phase == "aggregating"
    assert again.state.memory == desk.state.memory
    assert all(past.reward is not None for past in desk.state.memory.past.values())


def test_no_last_layer_is_kept_for_a_policy_that_does_not_ask() -> None:
    desk = opened(RoundRules(cohort=3, quorum=3), policy=PowerOfChoice())
    desk.update("ana")
    assert desk.state.open is not None
    assert desk.state.open.changes == {}


def test_what_is_kept_of_last_layers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CHANGES_MAX", 7)
    desk = opened(RoundRules(cohort=3, quorum=3), policy=FedACS())
    desk.update("ana")
    assert desk.state.open is not None
    assert desk.state.open.changes[0].tolist() == [3, 4]  # ⌊7/3⌋ of [1, 2, 3, 4]


def fed_lecc(**labels: tuple[int, ...] | None) -> set[str]:
    """Who is asked of devices with these counts of labels; two of all."""
    policy = FedLECC(clusters=2, clusters_taken=2, fairness_share=0.0)
    desk = Desk(RoundRules(cohort=2, quorum=2, devices_min=len(labels)), *labels, policy=policy)
    desk.take(fleet.Started())
    for who, counts in labels.items():
        desk.hear(who, CheckIn(model_version=1, samples=9, labels=counts))
    assert desk.state.open is not None
    return set(desk.state.open.cohort)


def test_devices_of_either_kind_are_asked_where_they_say_of_which_kind_they_are() -> None:
    chosen = fed_lecc(ana=(9, 0), ben=(9, 1), cem=(0, 9), dot=(1, 9))
    assert len(chosen & {"ana", "ben"}) == len(chosen & {"cem", "dot"}) == 1


def test_devices_that_keep_their_labels_to_themselves_are_asked_all_the_same() -> None:
    assert len(fed_lecc(ana=None, ben=None, cem=None)) == 2
    chosen = fed_lecc(ana=None, ben=None, cem=(0, 9), dot=(1, 9))
    assert len(chosen & {"ana", "ben"}) == 1
