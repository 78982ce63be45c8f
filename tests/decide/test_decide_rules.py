"""Decisions: hand-worked sequences, and what must hold for every sequence."""

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout
from hedgerow.core.schema import InputSchema, OutputSchema, Task
from hedgerow.decide.decision import Decision
from hedgerow.decide.rules import Band, Rule, RuleState, decide
from hedgerow.model.bundle import Manifest
from hedgerow.sense.quality import GOOD, Quality

RULE = Rule(labels=("squat", "bicep curl", "row"), enter=0.7, leave=0.4, hold=3)
SQUAT, CURL, UNCLEAR = (0.93, 0.05, 0.02), (0.1, 0.85, 0.05), (0.35, 0.34, 0.31)
STUCK = Quality(stuck=("gyroscope_x",))


def follow(
    rule: Rule | Band,
    predictions: Sequence[Sequence[float]],
    state: RuleState | None = None,
    first_seconds: float | None = None,
) -> tuple[RuleState, list[Decision]]:
    """One prediction a second, all of good quality, going on from where `state` ended."""
    state = RuleState() if state is None else state
    if first_seconds is None:
        first_seconds = 0.0 if math.isnan(state.seen_seconds) else state.seen_seconds + 1
    decisions = []
    for i, prediction in enumerate(predictions):
        state, decision = decide(rule, state, prediction, first_seconds + i, GOOD)
        decisions.append(decision)
    return state, decisions


def labels(decisions: list[Decision]) -> list[str]:
    return [decision.label for decision in decisions]


def test_a_session_in_words() -> None:
    _, decisions = follow(RULE, [SQUAT] * 4 + [CURL] * 3 + [UNCLEAR] * 3)
    told = [(round(d.since_seconds), d.label, d.changed, d.reason) for d in decisions]
    assert told == [
        (0, "uncertain", False, "uncertain so far; squat at 0.93 for 1 of 3 windows"),
        (0, "uncertain", False, "uncertain so far; squat at 0.93 for 2 of 3 windows"),
        (2, "squat", True, "squat at 0.93 for 3 windows; was uncertain"),
        (2, "squat", False, "squat at 0.93"),
        (2, "squat", False, "squat so far; bicep curl at 0.85 for 1 of 3 windows"),
        (2, "squat", False, "squat so far; bicep curl at 0.85 for 2 of 3 windows"),
        (6, "bicep curl", True, "bicep curl at 0.85 for 3 windows; was squat"),
        (6, "bicep curl", False, "bicep curl so far; fell to 0.34 for 1 of 3 windows"),
        (6, "bicep curl", False, "bicep curl so far; fell to 0.34 for 2 of 3 windows"),
        (9, "uncertain", True, "bicep curl given up at 0.34 after 3 windows"),
    ]
    assert all(decision.decided for decision in decisions)


def test_confidence_is_that_of_the_label_that_holds() -> None:
    _, decisions = follow(RULE, [SQUAT] * 3 + [CURL, UNCLEAR])
    assert [d.confidence for d in decisions] == [0.93, 0.93, 0.93, 0.1, 0.35]


def test_hold_1_follows_every_window() -> None:
    rule = msgspec.structs.replace(RULE, hold=1)
    _, decisions = follow(rule, [SQUAT, CURL, UNCLEAR, SQUAT])
    assert labels(decisions) == ["squat", "bicep curl", "uncertain", "squat"]
    assert decisions[1].reason == "bicep curl at 0.85 for 1 window; was squat"


def test_between_leave_and_enter_nothing_changes() -> None:
    between = (0.5, 0.3, 0.2)
    state, _ = follow(RULE, [SQUAT] * 3)
    assert set(labels(follow(RULE, [between] * 20, state)[1])) == {"squat"}
    assert set(labels(follow(RULE, [between] * 20)[1])) == {"uncertain"}


def test_a_challenger_must_win_in_a_row() -> None:
    state, _ = follow(RULE, [SQUAT] * 3)
    _, decisions = follow(RULE, [CURL, CURL, SQUAT, CURL, CURL, SQUAT], state)
    assert set(labels(decisions)) == {"squat"}


@given(
    held=st.integers(0, 2),
    odd=st.lists(st.floats(0.001, 1), min_size=3, max_size=3),
    hold=st.integers(2, 5),
)
@settings(deadline=None)
def test_one_odd_window_never_flips(held: int, odd: list[float], hold: int) -> None:
    rule = msgspec.structs.replace(RULE, hold=hold)
    steady = [0.05] * 3
    steady[held] = 0.9
    strange = [value / sum(odd) for value in odd]
    state, _ = follow(rule, [steady] * hold)
    _, decisions = follow(rule, [steady, strange, steady, steady], state)
    assert labels(decisions) == [rule.labels[held]] * 4
    assert not any(decision.changed for decision in decisions)


@given(
    sequence=st.lists(
        st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=1, max_size=40
    ),
    hold=st.integers(1, 4),
)
@settings(deadline=None)
def test_changes_lie_at_least_hold_windows_apart_and_are_flagged(
    sequence: list[list[float]], hold: int
) -> None:
    rule = Rule(labels=RULE.labels, enter=0.4, leave=0.35, hold=hold)
    rows = [[value / sum(row) for value in row] for row in sequence]
    _, decisions = follow(rule, rows)
    names = ["uncertain", *labels(decisions)]
    assert [d.changed for d in decisions] == [a != b for a, b in pairwise(names)]
    taken = [i for i, d in enumerate(decisions) if d.cause == "taken"]
    for i in taken:
        label = decisions[i].label
        assert i + 1 >= hold
        for row in rows[i - hold + 1 : i + 1]:
            assert rule.labels[row.index(max(row))] == label and max(row) >= rule.enter


def test_smoothing_by_hand() -> None:
    rule = Rule(labels=("a", "b"), enter=0.9, leave=0.1, hold=1, smoothing=0.75)
    _, decisions = follow(rule, [(0.0, 1.0), (1.0, 0.0), (1.0, 0.0)])
    # b: 1, then 0.75·1 + 0.25·0 = 0.75, then 0.75·0.75 = 0.5625
    assert [d.confidence for d in decisions] == pytest.approx([1.0, 0.75, 0.5625])
    assert set(labels(decisions)) == {"b"}


def test_a_stuck_sensor_decides_nothing() -> None:
    state, _ = follow(RULE, [SQUAT] * 3)
    after, decision = decide(RULE, state, CURL, 3.0, STUCK)
    assert (decision.label, decision.decided, decision.changed) == ("squat", False, False)
    assert decision.reason == "sensor stuck on gyroscope x: not decided"
    assert decision.confidence == 0.93
    assert after == state


def test_a_prediction_that_is_not_finite_decides_nothing() -> None:
    _, decision = decide(RULE, RuleState(), (math.nan, 0.5, 0.5), 0.0, GOOD)
    assert not decision.decided
    assert decision.reason == "prediction is not finite: not decided"


def test_a_label_is_forgotten_when_no_usable_window_comes() -> None:
    rule = msgspec.structs.replace(RULE, forget_seconds=10.0)
    state, _ = follow(rule, [SQUAT] * 3)
    state, still = decide(rule, state, CURL, 12.0, STUCK)
    assert still.label == "squat"
    state, gone = decide(rule, state, CURL, 12.5, STUCK)
    assert (gone.label, gone.changed, gone.since_seconds) == ("uncertain", True, 12.5)
    assert gone.reason == "no usable window for 10.50 s: squat is forgotten"
    _, next_one = decide(rule, state, CURL, 13.0, STUCK)
    assert next_one.reason == "sensor stuck on gyroscope x: not decided"


def test_after_a_long_silence_the_count_starts_again() -> None:
    rule = msgspec.structs.replace(RULE, forget_seconds=10.0)
    state, _ = follow(rule, [SQUAT] * 3)
    _, decisions = follow(rule, [SQUAT] * 3, state, first_seconds=500.0)
    assert labels(decisions) == ["uncertain", "uncertain", "squat"]
    assert [d.changed for d in decisions] == [True, False, True]


def test_a_clock_set_back_starts_over() -> None:
    state, _ = follow(RULE, [SQUAT] * 3, first_seconds=100.0)
    _, decision = decide(RULE, state, SQUAT, 7.0, GOOD)
    assert decision.label == "uncertain" and decision.since_seconds == 7.0
    assert decision.reason == "the clock went back 95.00 s: squat is forgotten"


def test_arrays_and_tuples_decide_alike() -> None:
    row = np.array(SQUAT, np.float32)
    assert decide(RULE, RuleState(), row, 0.0, GOOD)[1].cause == "doubted"


def test_a_prediction_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(UsageError, match="2 numbers; the rule wants 3"):
        decide(RULE, RuleState(), (0.5, 0.5), 0.0, GOOD)


def test_an_anomaly_score_rises_and_clears_with_hysteresis() -> None:
    band = Band(high=2.0, margin=0.5, hold=2, above="anomaly")
    scores = [1.0, 1.0, 9.0, 1.0, 2.1, 2.2, 1.8, 1.6, 1.4, 1.3]
    _, decisions = follow(band, [[score] for score in scores])
    assert labels(decisions) == ["uncertain"] + ["normal"] * 4 + ["anomaly"] * 4 + ["normal"]
    assert decisions[5].reason == "anomaly at 2.20 for 2 windows; was normal"
    assert decisions[7].reason == "anomaly at 1.60"
    assert decisions[2].reason == "normal so far; anomaly at 9.00 for 1 of 2 windows"


def test_a_value_below_within_and_above_its_band() -> None:
    band = Band(low=70.0, high=180.0, margin=5.0, hold=1)
    _, decisions = follow(
        band, [[v] for v in (100.0, 69.0, 74.0, 76.0, 181.0, 176.0, 174.0, 12345.0)]
    )
    assert labels(decisions) == ["normal", "low", "low", "normal", "high", "high", "normal", "high"]
    assert decisions[-1].reason == "high at 12345 for 1 window; was normal"


@pytest.mark.parametrize(
    ("settings_wrong", "says"),
    [
        ({"enter": 0.3}, "leave 0.4 and enter 0.3"),
        ({"hold": 0}, "hold 0"),
        ({"smoothing": 1.0}, "smoothing 1.0"),
        ({"forget_seconds": 0.0}, "forget_seconds 0"),
        ({"labels": ()}, "0 labels"),
        ({"uncertain": "row"}, "'row'"),
    ],
)
def test_rules_that_cannot_work_are_refused(settings_wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        msgspec.structs.replace(RULE, **settings_wrong)


def test_a_band_needs_room_inside() -> None:
    with pytest.raises(UsageError, match="margin 1"):
        Band(low=0.0, high=2.0, margin=1.0)


def manifest(task: Task, numbers: dict[str, float]) -> Manifest:
    names = ("squat", "row") if task == "classification" else ()
    return Manifest(
        name="watch",
        version="1",
        input=InputSchema(
            channels=("a",), units=("g",), rate_hz=50.0, window=100, hop=25, shape=(1, 100)
        ),
        output=OutputSchema(task=task, size=len(names) or 1, labels=names),
        layout=Layout(()),
        decide=numbers,
    )


def test_rules_from_a_manifest() -> None:
    rule = Rule.from_manifest(manifest("classification", {"enter": 0.8, "hold": 2.0}))
    # 20 hops of 25 samples at 50 Hz are 10 s.
    assert rule == Rule(labels=("squat", "row"), enter=0.8, hold=2, forget_seconds=10.0)
    band = Band.from_manifest(manifest("reconstruction", {"high": 3.0, "forget_seconds": 60.0}))
    assert band == Band(high=3.0, above="anomaly", forget_seconds=60.0)
    assert Band.from_manifest(manifest("regression", {"low": 1.0})).above == "high"


@pytest.mark.parametrize(
    ("numbers", "says"),
    [({"entre": 0.8}, "entre; a Rule knows enter, leave, hold"), ({"hold": 2.5}, "amiss.*hold")],
)
def test_a_manifest_with_other_numbers_is_refused(numbers: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Rule.from_manifest(manifest("classification", numbers))
