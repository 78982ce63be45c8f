"""Data of many clients: views, wrappers, skew and drift."""

import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.model.samples import Samples
from hedgerow.sim.data import ArrayData, FederatedData, Repeated, Subset, joined, pooled
from hedgerow.sim.partition import Partition, dirichlet, natural
from hedgerow.sim.skew import Drift, Drifting, FeatureSkew, Skew


def small(**more: object) -> ArrayData:
    """Three clients with 3, 0 and 2 of six rows; x says which row it is."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    y = np.array([0, 1, 2, 0, 1, 2])
    rows = [np.array([4, 0, 2]), np.array([], np.int64), np.array([5, 1])]
    return ArrayData(x, y, rows, **more)  # type: ignore[arg-type]


def pictures(clients: int = 4, rows: int = 8) -> ArrayData:
    rng = stream(1)
    x = rng.standard_normal((clients * rows, 2, 5, 5), np.float32)
    y = np.arange(clients * rows) % 4
    groups = np.repeat(np.arange(clients), rows)
    whole = Samples(x, y)
    return ArrayData(x, y, natural(groups), test=whole, held_out=(whole, natural(groups)))


def test_each_client_sees_its_rows_without_a_copy() -> None:
    data: FederatedData = small(names=["a", "b", "c"])
    assert len(data) == 3 and data.counts.tolist() == [3, 0, 2] and data.classes == 3
    first = data.samples(0)
    assert first.x[:, 0].tolist() == [8, 0, 4] and first.y is not None
    assert first.y.tolist() == [1, 0, 2]
    assert data.samples(1).x.shape == (0, 2)
    assert data.samples(2).x[:, 0].tolist() == [10, 2]
    assert np.shares_memory(first.x, data.samples(0, round=9).x)
    assert data.names == ["a", "b", "c"]
    assert data.test is None and data.held_out(0) is None
    with pytest.raises(IndexError):
        data.samples(3)
    with pytest.raises(ValueError, match="read-only"):
        data.counts[0] = 1


def test_rows_in_order_are_not_even_copied_once() -> None:
    x = np.zeros((6, 2), np.float32)
    data = ArrayData(x, None, Partition(np.arange(6), np.array([0, 2, 6])))
    assert np.shares_memory(x, data.samples(1).x)
    assert data.classes == 0 and data.samples(1).y is None


def test_held_out_rows_and_weights_follow_the_client() -> None:
    held = Samples(np.full((2, 2), 7, np.float32), np.array([1, 0]))
    own = Partition.of([np.array([1]), np.array([], np.int64), np.array([0, 1])])
    data = small(held_out=(held, own), weight=np.arange(6, dtype=np.float32), test=held)
    one = data.held_out(0)
    assert one is not None and one.y is not None and one.y.tolist() == [0]
    assert data.held_out(1) is None
    weight = data.samples(2).weight
    assert weight is not None and weight.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.zeros((6, 2))}, "float64; wanted float32"),
        ({"y": np.zeros(5, np.int64)}, "6 rows of x and 5 of y"),
        ({"y": np.zeros(6, np.int32)}, "y of the training data is int32"),
        ({"partition": [np.array([0, 6])]}, "names row 6"),
        ({"partition": [np.array([0, -1])]}, "names row -1"),
        ({"names": ["a"]}, "1 names for 2 clients"),
        ({"weight": np.ones(2, np.float32)}, "2 of weight"),
        (
            {"held_out": (Samples(np.zeros((1, 2), np.float32), None), Partition.of([]))},
            "held-out rows are for 0 clients",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {
        "x": np.zeros((6, 2), np.float32),
        "y": np.zeros(6, np.int64),
        "partition": [np.array([0]), np.array([1])],
    }
    with pytest.raises(UsageError, match=said):
        ArrayData(**{**arguments, **change})  # type: ignore[arg-type]


def test_a_subset_and_a_fleet_of_repeats() -> None:
    data = small(names=["a", "b", "c"])
    some = Subset(data, [2, 0])
    assert some.counts.tolist() == [2, 3] and some.names == ["c", "a"] and len(some) == 2
    assert some.samples(0).x.tolist() == data.samples(2).x.tolist()
    assert some.held_out(1) is None and some.classes == 3 and some.test is None
    with pytest.raises(UsageError, match="no client 3"):
        Subset(data, [3])

    many = Repeated(data, 7)
    assert many.counts.tolist() == [3, 0, 2, 3, 0, 2, 3] and len(many) == 7
    assert np.shares_memory(many.samples(6).x, data.samples(0).x)
    assert many.held_out(6) is None and many.names is None
    with pytest.raises(UsageError, match="at least one"):
        Repeated(Subset(data, []), 5)


def test_a_million_clients_cost_eight_bytes_each() -> None:
    data = small()
    tracemalloc.start()
    try:
        many = Repeated(data, 1_000_000)
        assert len(many.samples(999_999).x) == 3
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8_100_000


def test_pooled_is_everybody_in_order() -> None:
    everything = pooled(small())
    assert everything.x[:, 0].tolist() == [8, 0, 4, 10, 2]
    assert everything.weight is None
    part = Samples(np.zeros((1, 2), np.float32), np.array([1]), np.array([3], np.float32))
    both = joined([pooled(small(), [2]), part])
    assert both.weight is not None and both.weight.tolist() == [1, 1, 3]
    with pytest.raises(UsageError, match="nothing to join"):
        joined([])


def test_quarters_turn_pictures_and_nothing_else() -> None:
    data = pictures()
    turned = FeatureSkew(data, Skew(quarter_turns=4), seed=3)
    for client in range(4):
        expected = np.rot90(data.samples(client).x, client, (2, 3))
        np.testing.assert_array_equal(turned.samples(client).x, expected)
        held, before = turned.held_out(client), data.held_out(client)
        assert held is not None and before is not None
        np.testing.assert_array_equal(held.x, np.rot90(before.x, client, (2, 3)))
    assert turned.test is data.test and turned.classes == 4 and len(turned) == 4
    assert turned.counts is data.counts and turned.names is None
    with pytest.raises(UsageError, match="cannot be turned"):
        FeatureSkew(small(), Skew(quarter_turns=2), seed=3)


def test_sensors_differ_by_channel_and_stay_as_they_are() -> None:
    data = pictures()
    skewed = FeatureSkew(data, Skew(gain=0.5, offset=0.3), seed=3)
    once, later = skewed.samples(2, 0).x, skewed.samples(2, 7).x
    np.testing.assert_array_equal(once, later)
    assert once.dtype == np.float32
    # x' = g·x + o for each channel: two unknowns, found from two numbers and true of the rest
    x = data.samples(2).x
    for channel in range(2):
        (x1, x2), (s1, s2) = x[:2, channel, 0, 0], once[:2, channel, 0, 0]
        gain = (s1 - s2) / (x1 - x2)
        np.testing.assert_allclose(
            once[:, channel], gain * x[:, channel] + (s1 - gain * x1), rtol=1e-3, atol=1e-4
        )
        assert gain > 0
    other = FeatureSkew(data, Skew(gain=0.5, offset=0.3), seed=4).samples(2).x
    assert not np.array_equal(once, other)


def test_noise_grows_over_the_clients() -> None:
    data = pictures(clients=5, rows=400)
    noisy = FeatureSkew(data, Skew(noise=2.0), seed=3)
    spread = [float((noisy.samples(k).x - data.samples(k).x).std()) for k in range(5)]
    np.testing.assert_allclose(spread, [0, 0.5, 1.0, 1.5, 2.0], rtol=0.03, atol=1e-6)
    np.testing.assert_array_equal(noisy.samples(4).x, noisy.samples(4, 3).x)
    held = noisy.held_out(4)
    assert held is not None and not np.array_equal(held.x, noisy.samples(4).x)  # other noise


@given(
    labels=st.floats(0, 1),
    visible=st.floats(0.05, 1),
    round=st.integers(0, 500),
    period=st.integers(1, 50),
)
def test_drift_comes_round_and_shows_what_it_said(
    labels: float, visible: float, round: int, period: int
) -> None:
    data = pictures(clients=3, rows=12)
    drifting = Drifting(data, Drift(period_rounds=period, labels=labels, visible=visible), seed=1)
    for client in range(3):
        seen, again = (drifting.samples(client, round + turn * period) for turn in (0, 2))
        assert len(seen.x) == drifting.counts[client] >= 1
        np.testing.assert_array_equal(seen.x, again.x)
        rows = {row.tobytes() for row in seen.x}
        assert len(rows) == len(seen.x)  # none twice
        assert rows <= {row.tobytes() for row in data.samples(client).x}


def test_labels_come_one_after_the_other_and_all_in_a_period() -> None:
    data = pictures(clients=2, rows=12)  # three of each of four labels
    drift = Drift(period_rounds=4, labels=1.0, visible=0.25)
    drifting = Drifting(data, drift, seed=1)
    seen = [drifting.samples(0, round).y for round in range(4)]
    assert all(y is not None and len(set(y.tolist())) == 1 for y in seen)
    everything = np.concatenate([y for y in seen if y is not None])
    assert sorted(everything.tolist()) == sorted(data.samples(0).y.tolist())  # type: ignore[union-attr]
    assert drifting.held_out(0) is not None and drifting.test is data.test
    values = ArrayData(np.zeros((2, 1), np.float32), None, [np.arange(2)])
    with pytest.raises(UsageError, match="labels cannot drift"):
        Drifting(values, drift, seed=1)


def test_features_swing_and_come_back() -> None:
    data = pictures()
    drifting = Drifting(data, Drift(period_rounds=10, gain=0.4, offset=0.5), seed=1)
    start, middle, end = (drifting.samples(1, round).x for round in (0, 5, 10))
    np.testing.assert_allclose(start, end, atol=1e-5)
    assert not np.allclose(start, middle, atol=1e-2)
    assert start.dtype == np.float32
    # half a period on, sine has changed its sign: the two gains make one, the two offsets none
    np.testing.assert_allclose(
        (start[0] - start[1]) * (middle[0] - middle[1]),
        (data.samples(1).x[0] - data.samples(1).x[1]) ** 2,
        rtol=1e-3,
        atol=1e-4,
    )


def test_an_empty_client_is_no_trouble_to_any_wrapper() -> None:
    data = small()
    skewed = FeatureSkew(data, Skew(noise=1.0, gain=1.0), seed=1)
    drifting = Drifting(skewed, Drift(labels=0.5, visible=0.5, gain=0.1), seed=1)
    assert drifting.counts.tolist() == [2, 0, 1]
    assert len(drifting.samples(1, 3).x) == 0


def test_skew_and_drift_are_bounded() -> None:
    for text in ('{"quarter_turns":5}', '{"noise":-1}', '{"blur":1}', '{"gain":11}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Skew)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode('{"visible":0}', type=Drift)
    # the largest that is allowed gives finite numbers still
    data = pictures()
    for x in (
        FeatureSkew(data, Skew(gain=10.0), seed=1).samples(1).x,
        Drifting(data, Drift(gain=10.0), seed=1).samples(1, 25).x,
    ):
        assert np.isfinite(x).all()


def test_a_partition_of_many_clients_reads_back() -> None:
    y = np.arange(3000) % 10
    made = dirichlet(y, 30, stream(2), alpha=0.1)
    x = np.arange(3000, dtype=np.float32)[:, None]
    data = ArrayData(x, y, made)
    for client in range(30):
        own = data.samples(client)
        np.testing.assert_array_equal(own.x[:, 0], made[client])
        np.testing.assert_array_equal(own.y, y[made[client]])
