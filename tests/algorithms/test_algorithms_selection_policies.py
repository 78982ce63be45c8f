"""Selection policies against numbers worked out by hand and plain twins."""

import math
from collections import Counter
from itertools import combinations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.algorithms.selection import (
    AnyPolicy,
    Candidate,
    FedACS,
    FedLECC,
    Memory,
    Oort,
    Outcome,
    Past,
    PowerOfChoice,
    RoundFacts,
    Uniform,
    base,
    forget,
    last_layer,
    observe,
    select,
    skew_rewards,
    uniform,
)
from hedgerow.algorithms.selection.base import LOSS_MAX, Pool, fair_places
from hedgerow.algorithms.selection.fedlecc import cluster_of
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.streams import stream

POLICIES: list[AnyPolicy] = [
    Uniform(),
    PowerOfChoice(),
    PowerOfChoice(by="samples"),
    Oort(),
    FedACS(),
    FedLECC(),
]


def fleet(count: int, **facts: float) -> list[Candidate]:
    return [Candidate(id=f"d{i:03}", samples=10 + i, **facts) for i in range(count)]  # type: ignore[arg-type]


# What holds for all -------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@given(data=st.data())
def test_so_many_of_them_and_in_any_order(policy: AnyPolicy, data: st.DataObject) -> None:
    maybe = st.none() | st.floats(0, 1e9)
    candidates = data.draw(
        st.lists(
            st.builds(
                Candidate,
                id=st.text(max_size=3),
                samples=st.integers(0, 10**9),
                loss=maybe,
                loss_squared_mean=maybe,
                train_seconds=maybe,
                labels=st.none() | st.tuples(maybe.map(lambda v: v or 0.0), st.floats(0, 5)),
            ),
            max_size=12,
            unique_by=lambda candidate: candidate.id,
        )
    )
    count, seed = data.draw(st.integers(-1, 14)), data.draw(st.integers(0, 99))
    memory = data.draw(memories)
    chosen = select(policy, candidates, count, 3, memory, stream(seed))
    ids = {candidate.id for candidate in candidates}
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= ids
    assert len(chosen) == max(min(count, len(ids)), 0)
    assert chosen == select(policy, candidates[::-1], count, 3, memory, stream(seed))


memories = st.builds(
    Memory,
    past=st.dictionaries(
        st.text(max_size=3),
        st.builds(
            Past, picked=st.integers(0, 9), last=st.integers(0, 3), loss=st.floats(0, 9) | st.none()
        ),
        max_size=5,
    ),
    duels=st.lists(
        st.lists(st.tuples(st.text(max_size=3), st.floats(-9, 0)), max_size=4).map(tuple),
        max_size=3,
    ).map(tuple),
)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_settings_and_memory_survive_the_wire(policy: AnyPolicy) -> None:
    assert msgspec.json.decode(msgspec.json.encode(policy), type=AnyPolicy) == policy
    memory = played(policy, rounds=7)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Memory) == memory


def played(policy: AnyPolicy, rounds: int, devices: int = 20, places: int = 4) -> Memory:
    """Rounds in which device 0 is the worst by every measure there is."""
    memory = Memory()
    for number in range(1, rounds + 1):
        chosen = select(policy, fleet(devices), places, number, memory, stream(5, "pick", number))
        outcomes = tuple(
            Outcome(
                id=device,
                samples=10 if device == "d000" else 100,
                loss=0.0 if device == "d000" else 1.0,
                seconds=900.0 if device == "d000" else 1.0,
                reward=-9.0 if device == "d000" else -1.0,
            )
            for device in chosen
        )
        memory = observe(
            policy, memory, RoundFacts(round=number, chosen=tuple(chosen), outcomes=outcomes)
        )
    return memory


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_nobody_is_left_out_for_good(policy: AnyPolicy) -> None:
    """With a quarter of four places, 20 devices have each their turn within 20 rounds."""
    fair = msgspec.structs.replace(policy, fairness_share=0.25)
    memory = played(fair, rounds=200)
    assert min(past.picked for past in memory.past.values()) >= 9
    assert len(memory.past) == 20
    assert sum(past.picked for past in memory.past.values()) == 4 * 200


def test_without_the_floor_some_are() -> None:
    memory = played(PowerOfChoice(fairness_share=0.0, draw=5), rounds=200)
    assert memory.past["d000"].picked == 1


@given(st.floats(0, 1), st.integers(0, 50), st.integers(1, 60))
def test_the_floor_takes_its_share_over_the_rounds(share: float, count: int, rounds: int) -> None:
    taken = [fair_places(share, count, number) for number in range(1, rounds + 1)]
    assert sum(taken) == math.floor(share * count * rounds + 1e-9)
    assert all(0 <= places <= count for places in taken)


def test_the_floor_by_hand() -> None:
    """0.3 of 2 places: 0.6, 1.2, 1.8, 2.4, 3.0 after rounds 1 to 5."""
    assert [fair_places(0.3, 2, number) for number in range(1, 6)] == [0, 1, 0, 1, 1]


def test_the_least_picked_have_the_floor() -> None:
    past = {"a": Past(5, 9), "b": Past(1, 9), "c": Past(1, 2), "d": Past(7, 1)}
    candidates = [Candidate(id=device, samples=1) for device in past]
    policy = Uniform(fairness_share=1.0)
    for seed in range(8):  # whatever the lot says
        assert select(policy, candidates, 1, 10, Memory(past=past), stream(seed)) == ["c"]
    assert select(policy, candidates, 2, 10, Memory(past=past), stream(1)) == ["b", "c"]
    assert select(policy, candidates, 3, 10, Memory(past=past), stream(1)) == ["a", "b", "c"]


def test_a_device_is_there_once() -> None:
    with pytest.raises(UsageError, match="'a' is there twice"):
        select(Uniform(), [Candidate(id="a"), Candidate(id="a")], 1, 1, Memory(), stream(1))


def test_what_a_device_claims_is_bounded() -> None:
    facts = RoundFacts(
        round=4,
        chosen=("a", "b"),
        outcomes=(
            Outcome(id="a", samples=10**12, loss=1e300, seconds=-5, reward=math.nan),
            Outcome(id="b", samples=-3, loss=math.inf, loss_squared=math.nan),
        ),
    )
    memory = observe(Uniform(), Memory(past={"b": Past(1, 2, 7, 0.5)}), facts)
    assert memory.past["a"] == Past(1, 4, 65536, LOSS_MAX, None, 0.0, None)
    assert memory.past["b"] == Past(2, 4, 0, 0.5)


def test_memory_holds_no_more_than_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "DEVICES_MAX", 3)
    memory = Memory()
    for number, device in enumerate("abcd", 1):
        memory = observe(Uniform(), memory, RoundFacts(round=number, chosen=(device,)))
    assert set(memory.past) == {"b", "c", "d"}  # those picked last


def test_who_left_is_forgotten() -> None:
    memory = Memory(past={"a": Past(1), "b": Past(2)}, duels=((("a", -1.0), ("b", -2.0)),))
    assert forget(memory, ["a"]) == Memory(past={"b": Past(2)}, duels=((("b", -2.0),),))


# Uniform ------------------------------------------------------------------------------------------


@given(st.sets(st.text(max_size=3), max_size=20), st.integers(0, 25), st.integers(0, 99))
def test_uniform_is_the_plain_draw(names: set[str], count: int, seed: int) -> None:
    candidates = [Candidate(id=name) for name in names]
    drawn = select(Uniform(), candidates, count, 1, Memory(), stream(seed))
    assert drawn == uniform(names, count, stream(seed))


# Power of choice ----------------------------------------------------------------------------------


def test_power_of_choice_takes_the_highest_losses_of_those_drawn() -> None:
    candidates = [Candidate(id=str(i), samples=1, loss=float(i)) for i in range(8)]
    policy = PowerOfChoice(draw=4, fairness_share=0)
    assert select(policy, candidates, 2, 1, Memory(), stream(0)) == ["6", "7"]  # all are drawn
    counts = Counter(
        device
        for seed in range(2000)
        for device in select(
            PowerOfChoice(draw=2, fairness_share=0), candidates, 1, 1, Memory(), stream(seed)
        )
    )
    # The higher of two drawn from 0…7 is i with probability i / 28.
    for i in range(8):
        assert abs(counts[str(i)] / 2000 - i / 28) < 0.04


def test_an_unknown_loss_counts_as_the_highest() -> None:
    candidates = [Candidate(id="new"), *(Candidate(id=str(i), loss=9.0) for i in range(5))]
    policy = PowerOfChoice(draw=6, fairness_share=0)
    assert select(policy, candidates, 1, 1, Memory(), stream(0)) == ["new"]


def test_drawn_as_they_have_samples() -> None:
    candidates = [Candidate(id="few", samples=1), Candidate(id="many", samples=9)]
    policy = PowerOfChoice(draw=1, by="samples", fairness_share=0)
    drawn = [select(policy, candidates, 1, 1, Memory(), stream(seed)) for seed in range(1000)]
    assert abs(drawn.count(["many"]) / 1000 - 0.9) < 0.04


# Oort ---------------------------------------------------------------------------------------------


def oort_pool(round: int, memory: Memory | None = None) -> Pool:
    """Utilities 10, 40, 30 and 20; picked in rounds 1, 4, 2, 4; seconds 1, 2, 4, unknown."""
    candidates = [
        Candidate(id="a", samples=10, loss_squared_mean=1, last_round=1, train_seconds=1),
        Candidate(id="b", samples=20, loss_squared_mean=4, last_round=4, train_seconds=2),
        Candidate(id="c", samples=10, loss_squared_mean=9, last_round=2, train_seconds=4),
        Candidate(id="d", samples=5, loss_squared_mean=16, last_round=4),
    ]
    return Pool.of(candidates, memory or Memory(), round)


def test_oort_scores_by_hand() -> None:
    """Normalised 0, 1, ⅔, ⅓; in round 5, √(0.1·ln 5 / L) for L = 1, 4, 2, 4 is 0.4012, 0.2006,
    0.2837, 0.2006. The median of the seconds known is T = 2: c is slow, × (2/4)² = ¼.
    """
    scores = Oort(clip=1.0, quantile=0.5).scores(oort_pool(5))
    assert scores == pytest.approx([0.401178, 1.200589, 0.237590, 0.533922], abs=1e-5)


def test_oort_clips_what_stands_out() -> None:
    """The three-quarter quantile of 10, 20, 30, 40 is 30: normalised 0, 1, 1, ½; ln 1 = 0."""
    scores = Oort(clip=0.75, quantile=1.0).scores(oort_pool(1))
    assert scores == pytest.approx([0, 1, 1, 0.5])


def oort_twin(policy: Oort, pool: Pool) -> list[float]:
    """The formulas of the module, one device at a time."""
    utility = [n * math.sqrt(s) for n, s in zip(pool.samples, pool.loss_squared, strict=True)]
    ordered = sorted(utility)
    bound = ordered[max(math.ceil(policy.clip * len(ordered) - 1e-9), 1) - 1]
    utility = [min(u, bound) for u in utility]
    timed = sorted(t for t in pool.seconds if not math.isnan(t))
    scores = []
    for i, u in enumerate(utility):
        span = max(utility) - min(utility)
        score = (u - min(utility)) / span if span > 0 else 1.0
        score += math.sqrt(0.1 * math.log(pool.round) / max(pool.last[i], 1))
        if timed and not math.isnan(pool.seconds[i]):
            wanted = timed[max(math.ceil(policy.quantile * len(timed) - 1e-9), 1) - 1]
            if pool.seconds[i] > wanted:
                score *= (wanted / pool.seconds[i]) ** policy.slow_power
        scores.append(score)
    return scores


@given(st.integers(1, 30), st.integers(1, 50), st.integers(0, 1000))
def test_oort_scores_against_a_twin(devices: int, round: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates = [
        Candidate(
            id=f"{i:02}",
            samples=int(rng.integers(0, 100)),
            loss_squared_mean=float(rng.random()),
            last_round=int(rng.integers(0, round + 1)),
            train_seconds=float(rng.random()) if rng.random() < 0.7 else None,
        )
        for i in range(devices)
    ]
    policy, pool = Oort(), Pool.of(candidates, Memory(), round)
    assert policy.scores(pool) == pytest.approx(oort_twin(policy, pool))


def test_oort_explores_less_and_less() -> None:
    """Round 1: 0.9 of 10 places are for new devices. Round 200: 0.9·0.98¹⁹⁹ = 0.016, so 0.2."""
    old = {f"old{i}": Past(1, 1, 10, 1.0) for i in range(50)}
    candidates = [Candidate(id=device, samples=10) for device in old]
    candidates += [Candidate(id=f"new{i}", samples=10) for i in range(50)]
    for number, new in ((1, 9), (200, 2)):
        policy = Oort(fairness_share=0)
        chosen = select(policy, candidates, 10, number, Memory(past=old), stream(3))
        assert sum(device.startswith("new") for device in chosen) == new
    chosen = select(Oort(fairness_share=0), candidates[:52], 10, 1, Memory(past=old), stream(3))
    assert sum(device.startswith("new") for device in chosen) == 2  # no more are there
    chosen = select(Oort(fairness_share=0), candidates[45:], 20, 200, Memory(past=old), stream(3))
    assert sum(device.startswith("old") for device in chosen) == 5


def test_oort_leaves_out_what_teaches_little() -> None:
    past = {f"{i:02}": Past(1, 1, 10, 1.0 if i < 10 else 0.01) for i in range(40)}
    candidates = [Candidate(id=device, samples=10) for device in past]
    policy = Oort(fairness_share=0)
    for seed in range(20):
        chosen = select(policy, candidates, 5, 9, Memory(past=past), stream(seed))
        assert all(int(device) < 10 for device in chosen)


def test_the_pacer_becomes_patient_when_less_is_gained() -> None:
    """Windows of two rounds: 4 + 3 gained, then 2 + 1: one step more of 0.05, from 0.3."""
    policy, memory, quantiles = Oort(window=2), Memory(), []
    for number, loss in enumerate((4.0, 3.0, 2.0, 1.0, 5.0, 5.0), 1):
        outcome = Outcome(id="a", samples=1, loss=loss)
        memory = observe(
            policy, memory, RoundFacts(round=number, chosen=("a",), outcomes=(outcome,))
        )
        quantiles.append(memory.quantile)
    assert quantiles == pytest.approx([0.3, 0.3, 0.3, 0.35, 0.35, 0.35])
    assert memory.utilities == pytest.approx((2, 1, 5, 5))


# FedACS -------------------------------------------------------------------------------------------


def test_fedacs_rewards_by_hand() -> None:
    """Mean (1, 1): distances 1, 1, 2 from (1, 0), (1, 2) … with the fourth at the mean."""
    gradients = np.array([[1, 0], [1, 2], [3, 1], [-1, 1]], np.float32)
    rewards = skew_rewards(np.array([4, 1, 9, 1]), [gradients])
    assert rewards == pytest.approx([-2, -1, -6, -2])
    both = skew_rewards(np.array([4, 1, 9, 1]), [gradients, 2 * gradients])
    assert both == pytest.approx([-6, -3, -18, -6])
    assert len(skew_rewards(np.zeros(0, np.int64), [np.zeros((0, 3))])) == 0
    with pytest.raises(UsageError, match="one row for each of 2"):
        skew_rewards(np.array([1, 1]), [gradients])


def test_the_last_layer_is_a_kernel_and_its_bias() -> None:
    first, kernel, bias = (
        TensorSpec("a", (4,)), TensorSpec("w", (3, 2)), TensorSpec("b", (3,)),
    )  # fmt: skip
    private = TensorSpec("p", (5,), shared=False)
    assert last_layer(Layout((first, kernel, bias, private))) == slice(4, 13)
    assert last_layer(Layout((bias, kernel, private))) == slice(3, 9)
    assert last_layer(Layout((first, bias))) == slice(4, 7)
    assert last_layer(Layout((private,))) == slice(0, 0)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([-3.0, -2.0, -1.0]), max_size=6),
        max_size=8,
    )
)
def test_fedacs_counts_every_pair(rounds: list[dict[str, float]]) -> None:
    policy, memory = FedACS(rounds=4), Memory()
    for number, rewards in enumerate(rounds, 1):
        outcomes = tuple(Outcome(id=d, reward=r) for d, r in rewards.items())
        memory = observe(
            policy, memory, RoundFacts(round=number, chosen=tuple(rewards), outcomes=outcomes)
        )
    wins, losses = dict.fromkeys("abcdef", 0.0), dict.fromkeys("abcdef", 0.0)
    for rewards in rounds[-4:]:
        for one, other in combinations(rewards, 2):
            for mine, theirs in ((one, other), (other, one)):
                if rewards[mine] > rewards[theirs]:
                    wins[mine] += 1 / 4
                else:
                    losses[mine] += 1 / 4
    pool = Pool.of([Candidate(id=device) for device in "abcdef"], memory, 1)
    got = policy.record(pool)
    assert got[0] == pytest.approx(list(wins.values()))
    assert got[1] == pytest.approx(list(losses.values()))


def test_fedacs_prefers_those_who_win_their_duels() -> None:
    duel = tuple((f"{i:02}", -float(i)) for i in range(40))
    memory, candidates = Memory(duels=(duel,) * 5), [Candidate(id=device) for device, _ in duel]
    policy = FedACS(extension=2, fairness_share=0)
    counts = Counter(
        int(device)
        for seed in range(100)
        for device in select(policy, candidates, 5, 6, memory, stream(seed))
    )
    assert sum(counts[i] for i in range(15)) > 450  # of 500
    assert max(counts.values()) < 100  # and by lot among them


# FedLECC ------------------------------------------------------------------------------------------


def test_fedlecc_finds_the_kinds_of_devices() -> None:
    histograms = [(9.0, 1.0, 0.0), (90.0, 8.0, 0.0), (0.0, 1.0, 9.0), None, (0.0, 0.0, 4.0)]
    groups = cluster_of(histograms, 2)
    assert list(groups) == [1, 1, 2, 0, 2]
    nothing = [None, (1.0,), (math.nan, 1.0), (0.0, 0.0), (-1.0, 2.0)]
    assert list(cluster_of(nothing, 3)) == [0, 0, 0, 0, 0]


def test_fedlecc_takes_a_histogram_beyond_all_numbers_as_none() -> None:
    assert cluster_of([(1e308, 1e308), (1.0, 0.0)], 2).tolist() == [0, 1]


def test_fedlecc_by_hand() -> None:
    """Three clusters of three with mean loss 2, 5 and 8; two are taken, two places of each."""
    labels = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    candidates = [
        Candidate(id=f"{kind}{i}", samples=1, loss=3.0 * kind + i + 1, labels=labels[kind])
        for kind in range(3)
        for i in range(3)
    ]
    policy = FedLECC(clusters=3, clusters_taken=2, fairness_share=0)
    assert select(policy, candidates, 4, 1, Memory(), stream(1)) == ["11", "12", "21", "22"]
    assert select(policy, candidates, 1, 1, Memory(), stream(1)) == ["22"]
    assert select(policy, candidates, 3, 1, Memory(), stream(1)) == ["12", "21", "22"]
    # Seven places are four of each of the two clusters: they have three, the next gives one.
    assert select(policy, candidates, 7, 1, Memory(), stream(1)) == [
        "02", "10", "11", "12", "20", "21", "22",
    ]  # fmt: skip


def test_fedlecc_needs_no_histogram() -> None:
    candidates = [Candidate(id=str(i), loss=float(i)) for i in range(6)]
    policy = FedLECC(fairness_share=0)
    assert select(policy, candidates, 2, 1, Memory(), stream(1)) == ["4", "5"]


# Size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_hundred_thousand_candidates(policy: AnyPolicy) -> None:
    rng = np.random.default_rng(1)
    losses, seconds = rng.random(100_000), rng.random(100_000)
    labels = [tuple(row) for row in rng.random((500, 10)).tolist()]
    candidates = [
        Candidate(
            id=f"{i:06}",
            samples=i % 100,
            loss=float(losses[i]) if i % 3 else None,
            train_seconds=float(seconds[i]),
            labels=labels[i % 500],
        )
        for i in range(100_000)
    ]
    memory = Memory(duels=(tuple((f"{i:06}", -float(i)) for i in range(1000)),) * 5)
    chosen = select(policy, candidates, 1000, 5, memory, stream(1))
    assert len(set(chosen)) == 1000
    memory = observe(policy, memory, RoundFacts(round=5, chosen=tuple(chosen)))
    assert sum(past.picked for past in memory.past.values()) == 1000
