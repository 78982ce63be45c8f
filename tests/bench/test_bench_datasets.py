"""The data sets as federated data: who learns from what, and is measured on what."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.bench import datasets
from hedgerow.bench.datasets import federated
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.core.streams import stream
from hedgerow.io import data as store
from hedgerow.io.data.bearings import Vibration
from hedgerow.io.data.buildings import Building
from hedgerow.io.data.glucose import Person
from hedgerow.io.data.images import Images
from hedgerow.io.data.pedestrians import Street
from hedgerow.sim.data_settings import DataSettings
from hedgerow.sim.folder import FolderSettings
from hedgerow.sim.partition import Dirichlet, Iid, Natural, Quantity, Shards
from hedgerow.sim.skew import Drift, Skew


def schema(channels: tuple[str, ...], window: int, hop: int, **more: Any) -> InputSchema:
    rest: dict[str, Any] = {"shape": (len(channels), window), **more}
    return InputSchema(
        channels=channels,
        units=("1",) * len(channels),
        rate_hz=1.0,
        window=window,
        hop=hop,
        **rest,
    )


PICTURE = schema(("grey",), 784, 784, shape=(1, 28, 28))
WRIST = schema(store.WATCH_CHANNELS, 10, 5, scale=(2.0,) * 6)


@pytest.fixture
def wearers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten wearers with two recordings of 40 samples; noise around the wearer's number."""

    def load(wearer: int) -> list[store.Recording]:
        rng = stream(wearer)
        return [
            store.Recording(
                (wearer + 0.1 * rng.standard_normal((40, 6))).astype(np.float32), label, "left"
            )
            for label in (0, 6)
        ]

    monkeypatch.setattr(store, "load_wearer", load)


@pytest.fixture
def clothes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures whose grey value says which row they are: 400 to learn from, 100 to test on."""

    def images(count: int) -> Images:
        x = np.zeros((count, 28, 28), np.uint8)
        x[:, 0, 0], x[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
        return Images(x, np.arange(count) % 10)

    monkeypatch.setattr(store, "load_fashion", lambda: (images(400), images(100)))
    monkeypatch.setattr(store, "load_digits", lambda: images(500))


def test_the_watch_is_cut_as_an_agent_cuts_it(wearers: None) -> None:
    data = federated(DataSettings(), WRIST, seed=0)
    assert data.names == [str(wearer) for wearer in range(1, 11)] and data.classes == 7
    # 28 and 12 samples of each recording, windows of 10 every 5: 4 and 1 of each
    assert data.counts.tolist() == [8] * 10
    for client in range(10):
        held = data.held_out(client)
        assert held is not None and held.y is not None and held.y.tolist() == [0, 6]
        for part in (data.samples(client), held):
            assert part.x.shape[1:] == (6, 10)
            np.testing.assert_allclose(part.x, (client + 1) / 2, atol=0.3)  # the schema's scale
    assert data.test is not None and len(data.test.x) == 20


def test_who_is_left_out_is_what_is_tested_on(wearers: None) -> None:
    data = federated(DataSettings(leave_out=("3",)), WRIST, seed=0)
    assert len(data) == 9 and data.names is not None and "3" not in data.names
    assert data.test is not None and len(data.test.x) == 10  # all of 3's, early and late
    np.testing.assert_allclose(data.test.x, 1.5, atol=0.3)
    learned = np.concatenate([data.samples(client).x.ravel() for client in range(9)])
    assert not ((learned > 1.3) & (learned < 1.7)).any()
    held = data.held_out(2)
    assert held is not None
    np.testing.assert_allclose(held.x, 2.0, atol=0.3)  # the third client is wearer 4
    with pytest.raises(UsageError, match="no client '11' to leave out; there is 1, 2"):
        federated(DataSettings(leave_out=("11",)), WRIST, seed=0)
    with pytest.raises(UsageError, match="every client is left out"):
        federated(DataSettings(leave_out=tuple(map(str, range(1, 11)))), WRIST, seed=0)


def test_the_watch_can_be_dealt_otherwise(wearers: None) -> None:
    data = federated(DataSettings(partition=Iid(), clients=4), WRIST, seed=0)
    assert data.counts.tolist() == [20] * 4 and data.names is None
    held = data.held_out(0)
    assert held is not None and len(held.x) <= 20


@pytest.mark.parametrize("source", ["fashion", "digits"])
def test_pictures_are_dealt_once_and_measured_alike(source: str, clothes: None) -> None:
    rule = Shards(per_client=2)
    settings = DataSettings(source=source, clients=10, partition=rule, held_out_rows=10)
    data, again = (federated(settings, PICTURE, seed=1) for _ in range(2))
    assert data.counts.tolist() == [40] * 10 and data.classes == 10
    assert data.test is not None and len(data.test.x) == 100
    assert np.bincount(data.test.y).tolist() == [10] * 10  # type: ignore[arg-type]
    seen = set()
    for client in range(10):
        own, held = data.samples(client), data.held_out(client)
        assert own.x.shape == (40, 1, 28, 28) and own.x.dtype == np.float32
        assert held is not None and own.y is not None and held.y is not None
        assert set(held.y.tolist()) <= set(own.y.tolist()) and 5 <= len(held.y) <= 10
        np.testing.assert_array_equal(own.x, again.samples(client).x)
        seen |= {row.tobytes() for row in own.x}
    assert len(seen) == 400
    if source == "digits":
        assert not seen & {row.tobytes() for row in data.test.x}


def test_grey_values_are_standardised(clothes: None) -> None:
    data = federated(DataSettings(source="fashion", partition=Iid(), clients=1), PICTURE, seed=0)
    lowest = -datasets.GREY_MEAN["fashion"] / datasets.GREY_SCALE["fashion"]
    highest = (1 - datasets.GREY_MEAN["fashion"]) / datasets.GREY_SCALE["fashion"]
    x = data.samples(0).x
    np.testing.assert_allclose([x.min(), x.max()], [lowest, highest], rtol=1e-6)
    flat = schema(("grey",), 784, 784, shape=(784,))
    assert federated(DataSettings(source="fashion", clients=3), flat, 0).samples(0).x.ndim == 2
    with pytest.raises(UsageError, match="28×28"):
        federated(DataSettings(source="fashion"), WRIST, 0)


def test_the_rule_without_a_natural_split_is_dirichlet(clothes: None) -> None:
    bare = federated(DataSettings(source="fashion", clients=10), PICTURE, seed=5)
    named = DataSettings(source="fashion", clients=10, partition=Dirichlet(alpha=0.1, minimum=10))
    assert bare.counts.tolist() == federated(named, PICTURE, seed=5).counts.tolist()
    assert bare.counts.min() >= 10 and bare.counts.max() > bare.counts.min()
    with pytest.raises(UsageError, match="no natural split"):
        federated(DataSettings(source="fashion", partition=Natural()), PICTURE, 0)
    with pytest.raises(UsageError, match="nobody"):
        federated(DataSettings(source="fashion", leave_out=("1",)), PICTURE, 0)


def test_skew_and_drift_wrap_what_was_dealt(clothes: None) -> None:
    plain = DataSettings(source="fashion", clients=4, partition=Iid())
    skewed = DataSettings(
        source="fashion",
        clients=4,
        partition=Iid(),
        skew=Skew(quarter_turns=4),
        drift=Drift(visible=0.5),
    )
    before, after = federated(plain, PICTURE, 0), federated(skewed, PICTURE, 0)
    assert after.counts.tolist() == (before.counts // 2).tolist()
    turned = {np.rot90(row, 1, (1, 2)).tobytes() for row in before.samples(1).x}
    assert {row.tobytes() for row in after.samples(1).x} <= turned


def hourly(monkeypatch: pytest.MonkeyPatch) -> InputSchema:
    hours = np.arange(200, dtype=np.float32)
    table = np.stack([hours, *(np.zeros(200, np.float32) for _ in range(8))], 1)
    houses = [Building("1", table), Building("2", table + 1000)]
    monkeypatch.setattr(store, "load_buildings", lambda: houses)
    return schema(("load", "price"), 24, 6, mean=(10.0, 0.0), scale=(2.0, 1.0))


def test_a_house_foresees_its_next_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = hourly(monkeypatch)
    data = federated(DataSettings(source="buildings"), wanted, seed=0)
    assert len(data) == 2 and data.classes == 0 and data.names == ["1", "2"]
    own = data.samples(0)
    assert own.y is not None and own.y.shape == (len(own.x), 1) and own.y.dtype == np.float32
    # the first window holds hours 0 to 23, and hour 24 is wanted: (24 − 10) / 2
    np.testing.assert_array_equal(own.x[0, 0], (np.arange(24) - 10) / 2)
    assert own.y[0].tolist() == [7.0] and own.y[1].tolist() == [10.0]
    assert own.y.max() < (140 - 10) / 2  # the first 70% are learned from
    held = data.held_out(1)
    assert held is not None and held.x[0, 0, 0] == (1140 - 10) / 2
    with pytest.raises(UsageError, match="no channel 'a'"):
        federated(DataSettings(source="buildings"), schema(("a",), 24, 6), 0)
    with pytest.raises(UsageError, match="no labels to deal by"):
        federated(DataSettings(source="buildings", partition=Shards()), wanted, 0)
    dealt = DataSettings(source="buildings", partition=Quantity(minimum=1), clients=3)
    assert federated(dealt, wanted, 0).counts.sum() == data.counts.sum()


def test_a_street_leaves_out_what_it_did_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = np.delete(np.arange(100), 30)  # an hour that is not in the file
    counts = hours.astype(np.float32)
    counts[10] = np.nan
    monkeypatch.setattr(store, "load_pedestrians", lambda: (hours, [Street("Queen", counts)]))
    wanted = schema(("people",), 4, 1)
    own = federated(DataSettings(source="pedestrians"), wanted, seed=0).samples(0)
    assert own.y is not None
    firsts = own.x[:, 0, 0].astype(int).tolist()
    assert firsts == [*range(6), *range(11, 26), *range(31, 66)]
    np.testing.assert_array_equal(own.y[:, 0], np.array(firsts) + 4)


def test_a_person_is_put_on_a_grid_of_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 1000 + 300 * np.arange(60) + np.arange(60) % 7
    person = Person("a", "healthy", seconds, np.arange(60, dtype=np.float32))
    monkeypatch.setattr(store, "load_glucose", lambda: [person])
    own = federated(DataSettings(source="glucose"), schema(("glucose",), 3, 1), 0).samples(0)
    assert own.y is not None
    assert own.x[0, 0].tolist() == [0, 1, 2] and own.y[0].tolist() == [8.0]  # half an hour on


def test_a_bearing_is_heard_at_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = np.arange(40, dtype=np.float32), np.arange(80, dtype=np.float32)
    recordings = [Vibration("a", slow, 48_828.0, 250, 2), Vibration("b", fast, 97_656.0, 0, 0)]
    monkeypatch.setattr(store, "load_bearings", lambda: recordings)
    data = federated(DataSettings(source="bearings"), schema(("acceleration",), 4, 4), 0)
    assert data.names == ["0", "250"] and data.counts.tolist() == [7, 7]
    assert data.samples(0).x[0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]  # means of two neighbours
    assert data.samples(1).y.tolist() == [2] * 7  # type: ignore[union-attr]
    held = data.held_out(0)
    assert held is not None and len(held.x) == 3


def test_a_folder_is_a_source_too(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        lines = [
            "x,y,activity",
            *(f"{i},{2 * i},{'rest' if i % 8 < 4 else 'run'}" for i in range(40)),
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), "utf-8")
    settings = DataSettings(source=str(tmp_path), folder=FolderSettings(label="activity"))
    wanted = schema(("y", "x"), 4, 4, scale=(2.0, 1.0))
    data = federated(settings, wanted, seed=0)
    assert data.names == ["anna", "ben"] and data.classes == 2
    assert data.samples(0).x[1].tolist() == [[4, 5, 6, 7], [4, 5, 6, 7]]
    alone = DataSettings(source=str(tmp_path), folder=settings.folder, leave_out=("anna",))
    assert len(federated(alone, wanted, seed=0)) == 1
    with pytest.raises(UsageError, match="no data set and no folder 'nowhere'"):
        federated(DataSettings(source="nowhere"), wanted, seed=0)


@pytest.mark.parametrize("source", sorted(datasets.POOLS))
def test_what_is_not_fetched_says_so(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=f"hedgerow data fetch {source}"):
        federated(DataSettings(source=source), PICTURE, seed=0)
    assert set(datasets.POOLS) == set(store.SOURCES)
