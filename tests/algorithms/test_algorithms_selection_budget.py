"""Who may be asked at all."""

import pytest

from hedgerow.algorithms.selection import Budget, Candidate, Memory, Past, Uniform, select
from hedgerow.core.streams import stream

FINE = Candidate(
    id="a",
    samples=50,
    battery=0.5,
    on_power=False,
    metered=False,
    data_age_seconds=100,
    link_bytes_per_second=1000,
)
STRICT = Budget(
    battery_min=0.5,
    metered=False,
    link_bytes_per_second_min=1000,
    data_age_seconds_max=100,
    samples_min=50,
    rest_rounds=2,
    unknown=False,
)


def changed(**facts: object) -> Candidate:
    return Candidate(**({name: getattr(FINE, name) for name in FINE.__struct_fields__} | facts))


@pytest.mark.parametrize(
    ("candidate", "last_round", "reason"),
    [
        (FINE, 0, None),
        (FINE, 7, None),
        (FINE, 8, "resting"),
        (changed(samples=49), 0, "samples"),
        (changed(battery=0.49), 0, "battery"),
        (changed(battery=0.1, on_power=True), 0, None),
        (changed(battery=None), 0, "battery"),
        (changed(metered=True), 0, "metered"),
        (changed(metered=None), 0, "metered"),
        (changed(link_bytes_per_second=999.0), 0, "slow_link"),
        (changed(link_bytes_per_second=None), 0, "slow_link"),
        (changed(data_age_seconds=100.5), 0, "old_data"),
        (changed(data_age_seconds=None), 0, "old_data"),
    ],
)
def test_each_rule_at_its_edge(candidate: Candidate, last_round: int, reason: str | None) -> None:
    """Round 10; with two rounds of rest a device picked in round 7 may be asked again."""
    assert STRICT.refusal(candidate, 10, last_round) == reason


def test_power_only() -> None:
    budget = Budget(power_only=True)
    assert budget.refusal(changed(on_power=True), 1, 0) is None
    assert budget.refusal(changed(on_power=False, battery=1.0), 1, 0) == "no_power"
    assert budget.refusal(changed(on_power=None), 1, 0) is None
    assert Budget(power_only=True, unknown=False).refusal(Candidate(id="x"), 1, 0) == "no_power"


def test_what_is_not_told_passes_unless_it_must_be() -> None:
    assert Budget().refusal(Candidate(id="x"), 1, 0) is None
    assert Budget(battery_min=0.5, metered=False).refusal(Candidate(id="x"), 1, 0) is None


def test_the_budget_comes_before_the_policy_and_its_floor() -> None:
    candidates = [changed(id=str(i), battery=i / 10) for i in range(10)]
    memory = Memory(past={"9": Past(3, 3), "8": Past(3, 1)})
    policy = Uniform(budget=Budget(battery_min=0.7), fairness_share=1.0)
    assert select(policy, candidates, 9, 4, memory, stream(1)) == ["7", "8", "9"]
    assert select(policy, candidates, 2, 4, memory, stream(1)) == ["7", "8"]
    resting = Uniform(budget=Budget(battery_min=0.7, rest_rounds=1))
    assert select(resting, candidates, 9, 4, memory, stream(1)) == ["7", "8"]
    nobody = Uniform(budget=Budget(samples_min=51))
    assert select(nobody, candidates, 9, 4, memory, stream(1)) == []
