"""The machines under loss, copies, reordering and crashes, from seeds."""

import os

import pytest

from hedgerow.protocol.fleet import RoundRules
from tests.protocol.small_fleet import Fleet, Weather

SEEDS = int(os.environ.get("SOAK_SEEDS", "200"))
"""`make soak` sweeps more."""
FAIR = Weather(loss=0, copies=0, fetch_failure=0, crash=0, ends_at=0)


def check(fleet: Fleet) -> None:
    """What must hold whatever happened."""
    desk = fleet.desk
    for number, closed in desk.closed.items():
        assert len(set(closed.counted)) == len(closed.counted), f"counted twice in {number}"
        assert fleet.rules.quorum <= len(closed.counted) <= fleet.rules.cohort
        assert closed.digest == fleet.sum_of_first(number, closed.counted)
        told = {who for (who, n), outcomes in desk.receipts.items() if n == number}
        assert told >= set(closed.counted) or fleet.faults["crash"]
    for (who, number), outcomes in desk.receipts.items():
        if "counted" in outcomes and number in desk.closed:
            assert who in desk.closed[number].counted
        assert outcomes <= {"counted", "duplicate", "late"}
    assert not desk.closed.keys() & desk.abandoned


@pytest.mark.parametrize("block", range(8))
def test_nothing_is_counted_twice_and_everything_ends(block: int) -> None:
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        fleet = Fleet(seed).run()
        check(fleet)
        assert fleet.settled(), (
            f"seed {seed}: {fleet.desk.state.phase} after {fleet.now:.0f} s, "
            f"outboxes {[len(watch.outbox) for watch in fleet.watches.values()]}"
        )
        assert len(fleet.desk.closed) == fleet.rules.rounds


def test_the_weather_is_bad() -> None:
    """Else the test above would show nothing."""
    fleet = Fleet(1).run()
    assert fleet.faults["crash"] > 3
    assert fleet.faults["lost"] > 50
    assert fleet.faults["copied"] > 50


def test_a_run_is_the_same_from_the_same_seed() -> None:
    first, second, other = (Fleet(seed).run() for seed in (5, 5, 6))
    assert first.trace.digest() == second.trace.digest() != other.trace.digest()
    assert first.desk.model == second.desk.model


def test_in_fair_weather_no_round_is_abandoned() -> None:
    rules = RoundRules(cohort=20, quorum=20, deadline_seconds=60, rounds=5)
    fleet = Fleet(3, size=20, weather=FAIR, rules=rules).run()
    check(fleet)
    assert not fleet.desk.abandoned
    assert fleet.settled()
    assert all(len(closed.counted) == 20 for closed in fleet.desk.closed.values())
    assert fleet.desk.state.outcomes["counted"] == 100
