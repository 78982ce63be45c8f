"""The machines under loss, copies, reordering, partitions and crashes, from seeds."""

import os
import time

import pytest

from hedgerow.protocol.fleet import RoundRules
from tests.protocol.small_fleet import FAIR, NAMES, SCENARIOS, Fleet, Weather

SEEDS = int(os.environ.get("SOAK_SEEDS", "200"))
"""`make soak` sweeps more."""
BLOCKS = 8


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_is_counted_twice_or_lost_and_everything_ends(block: int) -> None:
    """All scenarios in turn; a failure says which command replays it."""
    began, events = time.process_time(), 0
    for seed in range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS):
        fleet = Fleet(seed).run()
        events += fleet.world.events
        fleet.check()
    print(f"{events / (time.process_time() - began):,.0f} events a second")  # noqa: T201


@pytest.mark.parametrize("name", NAMES)
def test_the_weather_is_bad(name: str) -> None:
    """Else the test above would show nothing."""
    fleet = Fleet(1, name).run()
    fleet.check()
    assert fleet.world.faults["crash"] > 3
    assert fleet.world.faults["lost"] > 50
    assert fleet.world.faults["copied"] > 20
    assert fleet.world.faults["partition"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_from_the_same_seed(name: str) -> None:
    first, second, other = (Fleet(seed, name).run() for seed in (5, 5, 6))
    assert first.world.trace == second.world.trace != other.world.trace
    assert first.desk.model == second.desk.model


@pytest.mark.parametrize("crash", [0.05, 0.15])
def test_power_that_goes_all_the_time_changes_nothing(crash: float) -> None:
    for seed in range(14):
        Fleet(seed, weather=Weather(crash=crash)).run().check()


@pytest.mark.parametrize("victim", ["coordinator", "watch-0"])
@pytest.mark.parametrize("name", ["fedavg", "fedbuff, stc"])
def test_a_crash_at_any_event_of_a_round_is_survived(name: str, victim: str) -> None:
    """In fair weather, so that nothing hides it: once at each of the victim's effects in turn."""
    rules = RoundRules(cohort=3, quorum=2, deadline_seconds=40, retry_seconds=2, rounds=2)
    for place in range(1, 60):
        fleet = Fleet(3, name, size=3, weather=FAIR, rules=rules)
        fleet.world.strike(victim, place)
        fleet.run().check()
        assert fleet.world.faults["crash"] <= 1


def test_in_fair_weather_no_round_is_abandoned() -> None:
    rules = RoundRules(cohort=20, quorum=20, deadline_seconds=60, rounds=5)
    fleet = Fleet(3, "fedavg", size=20, weather=FAIR, rules=rules).run()
    fleet.check()
    assert not fleet.desk.abandoned
    assert all(len(closed.counted) == 20 for closed in fleet.desk.closed.values())
    assert fleet.desk.state.outcomes["counted"] == 100


def test_patches_are_what_comes_down() -> None:
    fleet = Fleet(4, "stc", weather=FAIR).run()
    fleet.check()
    watches = fleet.watches.values()
    assert sum(watch.patched for watch in watches) == 5 * fleet.rules.rounds
    assert sum(watch.whole for watch in watches) == 0


def test_in_bad_weather_most_come_down_as_patches_too() -> None:
    patched = whole = 0
    for seed in range(4, 60, len(SCENARIOS)):
        fleet = Fleet(seed).run()
        patched += sum(watch.patched for watch in fleet.watches.values())
        whole += sum(watch.whole for watch in fleet.watches.values())
    assert patched > whole


def test_without_rounds_slow_updates_count_with_their_staleness() -> None:
    """Each version takes three; the slowest devices bring what they learned from older ones."""
    fleet = Fleet(2, "fedbuff", weather=FAIR).run()
    fleet.check()
    late = [(n, of) for n, c in fleet.desk.closed.items() for _, of in c.counted if of < n]
    assert late


def test_a_failure_says_which_command_replays_it() -> None:
    fleet = Fleet(5, "ifca", weather=FAIR).run()
    next(iter(fleet.desk.closed.values())).digest = "another"
    with pytest.raises(AssertionError, match=r"python -m tests.protocol.small_fleet 5 'ifca'"):
        fleet.check()
