"""Who holds which rows: every row once, the sizes promised, the same for the same seed."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.sim import partition as p
from hedgerow.sim.partition import Partition

Labels = NDArray[np.int64]

RULES: dict[str, Callable[[Labels, int, np.random.Generator], Partition]] = {
    "iid": lambda labels, clients, rng: p.iid(len(labels), clients, rng),
    "dirichlet": lambda labels, clients, rng: p.dirichlet(
        labels, clients, rng, alpha=0.1, minimum=1
    ),
    "dirichlet balanced": lambda labels, clients, rng: p.dirichlet(
        labels, clients, rng, alpha=0.1, minimum=1, balanced=True
    ),
    "dirichlet tiny": lambda labels, clients, rng: p.dirichlet(
        labels, clients, rng, alpha=1e-3, minimum=1
    ),
    "shards": lambda labels, clients, rng: p.shards(labels, clients, rng, per_client=2),
    "lognormal": lambda labels, clients, rng: p.quantity_skew(len(labels), clients, rng),
    "power": lambda labels, clients, rng: p.quantity_skew(
        len(labels), clients, rng, kind="power", spread=2.0
    ),
}


def each_row_once(partition: Partition, rows: int) -> None:
    np.testing.assert_array_equal(np.sort(partition.order), np.arange(rows))
    assert partition.offsets[0] == 0 and partition.offsets[-1] == rows
    assert np.all(partition.counts >= 0) and partition.counts.sum() == rows


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(
    clients=st.integers(1, 12),
    labels=st.lists(st.integers(0, 4), min_size=24, max_size=200),
    seed=st.integers(0, 99),
)
def test_every_row_is_at_one_client_and_the_seed_says_at_which(
    rule: Callable[[Labels, int, np.random.Generator], Partition],
    clients: int,
    labels: list[int],
    seed: int,
) -> None:
    y = np.array(labels)
    first, again = (rule(y, clients, stream(seed, "test")) for _ in range(2))
    each_row_once(first, len(y))
    assert len(first) == clients and first.counts.min() >= 1
    np.testing.assert_array_equal(first.order, again.order)
    np.testing.assert_array_equal(first.offsets, again.offsets)


@given(rows=st.integers(1, 300), clients=st.integers(1, 40))
def test_iid_is_even(rows: int, clients: int) -> None:
    if rows < clients:
        with pytest.raises(UsageError, match="cannot be spread"):
            p.iid(rows, clients, stream(1))
        return
    counts = p.iid(rows, clients, stream(1)).counts
    assert counts.max() - counts.min() <= 1


def test_a_partition_from_lists_and_by_hand() -> None:
    made = Partition.of([np.array([3, 1]), np.array([], np.int64), np.array([0])])
    assert len(made) == 3 and made.counts.tolist() == [2, 0, 1]
    assert [own.tolist() for own in made] == [[3, 1], [], [0]]
    with pytest.raises(IndexError):
        made[3]
    assert len(Partition.of([])) == 0


def test_natural_keeps_the_order_of_rows() -> None:
    groups = np.array([7, 2, 7, 2, 9])
    assert [own.tolist() for own in p.natural(groups)] == [[1, 3], [0, 2], [4]]
    names = np.array(["b", "a", "b"])
    assert [own.tolist() for own in p.natural(names)] == [[1], [0, 2]]
    assert len(p.natural(np.array([], np.int64))) == 0


def test_shards_hold_few_labels() -> None:
    # 4 labels of 10 rows, 4 clients of 2 shards of 5: each shard is of one label.
    y = np.repeat(np.arange(4), 10)
    made = p.shards(y, 4, stream(3), per_client=2)
    assert made.counts.tolist() == [10] * 4
    kinds = p.label_counts(made, y, 4)
    assert np.all((kinds > 0).sum(axis=1) <= 2) and np.all(kinds % 5 == 0)


def test_dirichlet_goes_from_one_label_to_all_alike() -> None:
    y = np.repeat(np.arange(10), 600)
    for balanced in (False, True):
        shares = []
        for alpha in (1e-3, 0.1, 1e4):
            made = p.dirichlet(
                y, 20, stream(5, balanced), alpha=alpha, minimum=10, balanced=balanced
            )
            each_row_once(made, len(y))
            assert made.counts.min() >= 10
            kinds = p.label_counts(made, y, 10)
            shares.append(float((kinds.max(axis=1) / kinds.sum(axis=1)).mean()))
        # the largest label's share of a client: most of it; about half; a tenth
        assert shares[0] > 0.55 > 0.15 > shares[2] >= 0.1
        assert 0.95 > shares[1] > 0.35
        if balanced:
            assert made.counts.tolist() == [300] * 20 and shares[0] > shares[1] > 0.8


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution() -> None:
    # Dir(α) over J clients: mean 1/J, variance (J − 1) / (J² (αJ + 1)); here 1/4 and 3/32.
    y = np.zeros(1000, np.int64)
    shares = np.array(
        [
            p.dirichlet(y, 4, stream(seed), alpha=0.25, minimum=0).counts / 1000
            for seed in range(1500)
        ]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 0.25, atol=0.025)
    np.testing.assert_allclose(shares.var(axis=0), 3 / 32, rtol=0.1)


def test_a_minimum_that_no_draw_meets_is_mended() -> None:
    # 20 clients of 5 rows at least out of 100: only an even split will do, and no draw gives one.
    y = np.repeat(np.arange(2), 50)
    made = p.dirichlet(y, 20, stream(1), alpha=0.05, minimum=5)
    each_row_once(made, 100)
    assert made.counts.tolist() == [5] * 20
    with pytest.raises(UsageError, match="at least 6 each"):
        p.dirichlet(y, 20, stream(1), alpha=0.05, minimum=6)


def test_quantities_are_uneven_as_told() -> None:
    even = p.quantity_skew(1000, 10, stream(1), spread=0.0)
    assert even.counts.tolist() == [100] * 10
    power = p.quantity_skew(1000, 10, stream(1), kind="power", spread=1.0, minimum=0)
    # 1/rank over H(10) = 2.929: 341, 171, 114 … of 1,000
    expected = 1000 / np.arange(1, 11) / 2.928968
    np.testing.assert_allclose(np.sort(power.counts)[::-1], expected, atol=1.01)
    wide = p.quantity_skew(10_000, 100, stream(1), spread=2.0, minimum=7)
    assert wide.counts.min() >= 7 and wide.counts.max() > 1000


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    share=st.floats(0.05, 0.95),
    mixed=st.booleans(),
)
def test_a_cut_loses_nothing(sizes: list[int], share: float, mixed: bool) -> None:
    order = stream(1).permutation(sum(sizes))
    offsets = np.array([0, *np.cumsum(sizes)], np.int64)
    whole = Partition(order, offsets)
    first, rest = p.cut(whole, share, stream(2) if mixed else None)
    for own, a, b in zip(whole, first, rest, strict=True):
        together = np.concatenate([a, b])
        np.testing.assert_array_equal(np.sort(together), np.sort(own))
        if not mixed:
            np.testing.assert_array_equal(together, own)
        assert len(a) >= min(len(own), 1) and len(b) >= min(max(len(own) - 1, 0), 1)
        assert abs(len(a) - share * len(own)) <= 1
    with pytest.raises(UsageError, match="between 0 and 1"):
        p.cut(whole, 1.0)


def test_rows_alike_have_the_clients_mix() -> None:
    y = np.array([0, 0, 0, 1, 2, 2])
    own = Partition.of([np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([], np.int64)])
    other = np.repeat([0, 1, 2], [50, 50, 5])
    made = p.alike(own, y, other, 20, stream(4))
    assert p.label_counts(made, other, 3).tolist() == [[15, 5, 0], [0, 0, 5], [0, 0, 0]]
    for rows in made:
        assert len(set(rows.tolist())) == len(rows)  # no row twice at one client


def test_label_counts_by_hand() -> None:
    made = Partition.of([np.array([0, 1]), np.array([], np.int64), np.array([2, 3, 4])])
    counts = p.label_counts(made, np.array([1, 1, 0, 2, 2]), 3)
    assert counts.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 2]]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ('{"name":"natural"}', [20, 40]),
        ('{"name":"iid"}', [12] * 5),
        ('{"name":"dirichlet","alpha":0.5,"balanced":true}', [12] * 5),
        ('{"name":"shards","per_client":3}', [12] * 5),
        ('{"name":"quantity","kind":"power","spread":0.0}', [12] * 5),
    ],
)
def test_settings_name_the_rules(text: str, counts: list[int]) -> None:
    rule = msgspec.json.decode(text, type=p.AnyPartition)
    labels, groups = np.arange(60) % 3, np.repeat([0, 1], [20, 40])
    made = rule.deal(labels, groups, 5, stream(1))
    each_row_once(made, 60)
    assert made.counts.tolist() == counts


def test_settings_are_bounded_and_a_split_that_is_not_there_is_refused() -> None:
    for text in (
        '{"name":"dirichlet","alpha":0}',
        '{"name":"shards","per_client":0}',
        '{"name":"iid","alpha":1}',
        '{"name":"fair"}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=p.AnyPartition)
    with pytest.raises(UsageError, match="no natural split"):
        p.Natural().deal(np.zeros(3, np.int64), None, 2, stream(1))
