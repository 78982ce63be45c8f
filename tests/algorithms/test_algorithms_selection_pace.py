"""When devices come: a small fleet together, a large one spread."""

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.algorithms.selection import Beat, PaceRules, beat, pace, phase_of
from hedgerow.algorithms.selection.pace import mean_rate

RULES = PaceRules(check_ins_per_second_max=50, round_seconds=600, devices_wanted=100, spare=3)


def test_the_rate_leaves_room_for_chance() -> None:
    """25 + 5·√25 = 50; 400 + 5·√400 = 500."""
    assert mean_rate(50) == pytest.approx(25)
    assert mean_rate(500) == pytest.approx(400)


def test_the_rhythm_by_hand() -> None:
    # 500 devices at 25 a second fit into 20 of 30 seconds: they meet.
    assert beat(RULES, 500, 500) == Beat(600, 20, True)
    # 1,000 do not; they come once a round. 300 are needed: once in 2,000 s would do.
    assert beat(RULES, 1000, 1000) == Beat(2000, 2000, False)
    assert beat(RULES, 1000, 200) == Beat(600, 600, False)
    # 100,000 take 4,000 s at the rate, and 300 in 600 s are had from one visit in 200,000 s.
    assert beat(RULES, 100_000, 100_000) == Beat(200_000, 200_000, False)
    assert beat(RULES, 100_000, 1000) == Beat(4000, 4000, False)
    assert beat(RULES, 0, 0) == Beat(600, 0, True)


@given(
    st.floats(0, 1, exclude_max=True), st.integers(0, 10**6), st.integers(0, 10**6),
    st.floats(0, 2e9),
)  # fmt: skip
def test_the_next_visit(phase: float, fleet: int, active: int, now: float) -> None:
    """Within half a period and one and a half of now, and always at the same place of a period."""
    rhythm, at = beat(RULES, fleet, active), pace(RULES, phase, fleet, active, now)
    period = rhythm.period_seconds
    assert now + period / 2 - 1e-3 <= at <= now + 1.5 * period + 1e-3
    place = (at - phase * rhythm.window_seconds) / period
    assert abs(place - round(place)) < 1e-3
    later = pace(RULES, phase, fleet, active, at)
    assert later == pytest.approx(at + period, abs=1e-3)
    early = pace(RULES, phase, fleet, active, at - period / 10)
    assert early == pytest.approx(at + period, abs=1e-3)


def simulated(
    rules: PaceRules, fleet: int, active: int, seconds: int
) -> tuple[Counter[int], Counter[int]]:
    """Visits in every second, and in every round's time, of a fleet whose `active` first devices
    are awake. All of them turn up at time 0, as after an outage, and are only told when next.
    """
    phases = [phase_of(f"device-{i}") for i in range(active)]
    queue = [pace(rules, phase, fleet, active, 0.0) for phase in phases]
    visits = list(zip(queue, phases, strict=True))
    heapq.heapify(visits)
    by_second: Counter[int] = Counter()
    by_round: Counter[int] = Counter()
    while visits[0][0] < seconds:
        now, phase = visits[0]
        by_second[int(now)] += 1
        by_round[int(now // rules.round_seconds)] += 1
        heapq.heapreplace(visits, (pace(rules, phase, fleet, active, now), phase))
    return by_second, by_round


def test_ten_thousand_devices_do_not_come_at_once() -> None:
    rules = PaceRules(check_ins_per_second_max=50, round_seconds=600, devices_wanted=5000, spare=1)
    by_second, by_round = simulated(rules, 10_000, 10_000, 6000)
    assert max(by_second.values()) <= 50
    # 5,000 a round are wanted; after the first, when they spread, each round sees that many.
    assert all(4800 < by_round[number] < 5200 for number in range(2, 10))


def test_a_night_in_which_most_sleep() -> None:
    """Of 10,000 only 600 are awake, 100 a round and twice as many to spare: they come oftener."""
    rules = PaceRules(check_ins_per_second_max=50, round_seconds=600, devices_wanted=100, spare=3)
    by_second, by_round = simulated(rules, 10_000, 600, 12_000)
    assert max(by_second.values()) <= 50
    assert all(by_round[number] >= 200 for number in range(2, 20))
    slow = beat(rules, 10_000, 10_000).period_seconds
    assert beat(rules, 10_000, 600).period_seconds == 1200 < slow == 20_000


def test_a_small_fleet_meets() -> None:
    rules = PaceRules(check_ins_per_second_max=50, round_seconds=600, devices_wanted=50)
    by_second, by_round = simulated(rules, 200, 200, 6000)
    assert max(by_second.values()) <= 50
    assert all(by_round[number] == 200 for number in range(1, 10))
    assert all(second % 600 < 8 for second in by_second)  # 200 devices at 25 a second


def test_phases_are_even() -> None:
    tenths = Counter(int(phase_of(f"device-{i}") * 10) for i in range(10_000))
    assert set(tenths) == set(range(10))
    assert all(880 < count < 1120 for count in tenths.values())  # 1,000 ± 4 deviations of 30
