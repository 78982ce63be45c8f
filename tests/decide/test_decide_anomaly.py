"""From features to scores: learning, alarms, drift, labels, and what is kept."""

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout
from hedgerow.core.schema import InputSchema, OutputSchema
from hedgerow.core.streams import stream
from hedgerow.decide.anomaly import Anomaly, AnomalySettings
from hedgerow.decide.drift import DriftSettings
from hedgerow.model.bundle import Manifest

SIZE = 12
SCHEMA = InputSchema(
    channels=("acceleration",),
    units=("g",),
    rate_hz=100.0,
    window=22,
    hop=22,
    shape=(SIZE,),
    features="spectrum",
)
MANIFEST = Manifest(
    name="small",
    version="1",
    input=SCHEMA,
    output=OutputSchema(task="reconstruction", size=SIZE),
    layout=Layout(()),
    decide={"hold": 2},
)
QUICK = AnomalySettings(
    baseline_windows=32,
    calibration_windows=256,
    false_alarms_per_day=40,
    settle_windows=0,
    drift=DriftSettings(block=32, stability_windows=512),
)
Array = NDArray[np.float32]


class Hall:
    """Machines whose bands rise and fall together with their load, and a model that knows it."""

    def __init__(self, streams: int, seed: int = 0) -> None:
        self.rng = stream(seed, "hall")
        self.rows = np.arange(streams)
        self.level = self.rng.uniform(-5, 5, (streams, SIZE)).astype(np.float32)

    def windows(self, apart: float = 0.0, shift: float = 0.0) -> Array:
        load = 0.5 * self.rng.standard_normal((len(self.rows), 1))
        own = 0.2 * self.rng.standard_normal((len(self.rows), SIZE))
        odd = apart * np.array([1, -1] * (SIZE // 2))
        return (self.level + load + own + odd + shift).astype(np.float32)

    def push(self, anomaly: Anomaly, features: Array, usable: bool = True) -> Array:
        x = anomaly.prepare(self.rows, features, np.full(len(self.rows), usable))
        return anomaly(self.rows, x, answers(x))


def answers(x: Array) -> Array:
    """An autoencoder of one number: the load, which moves all bands alike."""
    flat = x.reshape(len(x), -1)
    return np.repeat(flat.mean(1, keepdims=True), flat.shape[1], axis=1)


def learned(hall: Hall, settings: AnomalySettings = QUICK) -> Anomaly:
    anomaly = Anomaly(MANIFEST, settings)
    for _ in range(settings.baseline_windows + settings.calibration_windows):
        hall.push(anomaly, hall.windows())
    assert anomaly.ready.all()
    return anomaly


def test_it_learns_then_judges() -> None:
    hall = Hall(5)
    anomaly = Anomaly(MANIFEST, QUICK)
    progress = []
    for _ in range(288):
        assert np.isnan(hall.push(anomaly, hall.windows())).all()
        progress.append(anomaly.progress(3))
        assert (np.isnan(anomaly.drift(hall.rows)) == (progress[-1] < 1)).all()
    assert progress == sorted(progress) and progress[-1] == 1 and progress[0] > 0
    scores = np.concatenate([hall.push(anomaly, hall.windows()) for _ in range(200)])
    assert np.isfinite(scores).all() and 0.3 < np.median(scores) < 0.9
    assert (scores >= 1).mean() < 0.02
    assert (hall.push(anomaly, hall.windows(apart=2.0)) > 1).all()


def test_the_error_sees_what_the_distance_does_not() -> None:
    hall = Hall(40)
    anomaly = learned(hall)
    # Bands move apart by less than load moves them all: no further off, but not how they move.
    scores = np.stack([hall.push(anomaly, hall.windows(apart=0.6)) for _ in range(20)])
    far = np.stack(
        [
            np.sqrt(
                (anomaly.prepare(hall.rows, hall.windows(apart=0.6), np.ones(40, bool)) ** 2).mean(
                    1
                )
            )
            / anomaly._far.limit[:40]
            for _ in range(20)
        ]
    )
    assert (scores >= 1).mean() > 0.9 > 0.2 > (far >= 1).mean()


def test_the_rate_of_false_alarms_is_the_stated_one() -> None:
    hall = Hall(200)
    anomaly = learned(hall, msgspec.structs.replace(QUICK, false_alarms_per_day=2000))
    assert anomaly.rate == pytest.approx(2000 * 2 * 0.22 / 86_400)
    beyond = np.mean([hall.push(anomaly, hall.windows()) >= 1 for _ in range(400)])
    assert anomaly.rate / 3 < beyond < 1.5 * anomaly.rate


def test_windows_that_cannot_be_used_get_no_score_and_teach_nothing() -> None:
    hall = Hall(2)
    anomaly = learned(hall)
    before = anomaly.to_bytes(["a", "b"])
    assert np.isnan(hall.push(anomaly, hall.windows(shift=9), usable=False)).all()
    broken = hall.windows()
    broken[1, 3] = np.nan
    got = hall.push(anomaly, broken)
    assert math.isfinite(got[0]) and math.isnan(got[1])
    assert anomaly.to_bytes(["a", "b"]) == before


def test_streams_may_come_later_and_often_in_one_batch() -> None:
    hall = Hall(3)
    anomaly = Anomaly(MANIFEST, QUICK)
    for turn in range(120):
        several = [hall.windows() for _ in range(4)]
        rows = np.tile(hall.rows[: 2 + (turn > 5)], 4)
        x = np.concatenate([part[: 2 + (turn > 5)] for part in several])
        given = anomaly.prepare(rows, x, np.ones(len(rows), bool))
        anomaly(rows, given, answers(given))
    assert len(anomaly) >= 3 and anomaly.ready[:3].all()


def test_a_lasting_change_is_drift_until_it_is_settled() -> None:
    hall = Hall(6)
    anomaly = learned(hall)
    for _ in range(600):
        hall.push(anomaly, hall.windows())
    assert not len(anomaly.drifted) and (anomaly.drift(hall.rows) < 1).all()
    hall.level[2] += 0.6  # less than an alarm
    for _ in range(600):
        hall.push(anomaly, hall.windows())
    assert anomaly.drifted.tolist() == [2]
    assert anomaly.drift(hall.rows)[2] >= 1
    anomaly.settle(np.array([2]))
    assert not len(anomaly.drifted) and anomaly.drift(hall.rows)[2] == 0


def test_the_first_day_goes_into_the_baseline_and_later_days_do_not() -> None:
    young = msgspec.structs.replace(QUICK, settle_windows=100_000)
    found = []
    for settings in (young, QUICK):
        hall = Hall(4)
        anomaly = learned(hall, settings)
        for step in range(2500):  # slowly warmer: by three deviations in the end
            hall.push(anomaly, hall.windows(shift=1.6 * step / 2500))
        scores = [hall.push(anomaly, hall.windows(shift=1.6)) for _ in range(50)]
        found.append(float(np.median(scores)))
    assert found[0] < 0.75 * found[1]


def test_an_alarm_is_not_learned_away() -> None:
    hall = Hall(3)
    anomaly = learned(hall, msgspec.structs.replace(QUICK, settle_windows=100_000))
    for _ in range(2500):
        scores = hall.push(anomaly, hall.windows(shift=6.0))
    assert (scores >= 1).all()
    anomaly.relearn(np.array([1]))  # the owner: this is normal now
    for _ in range(300):
        scores = hall.push(anomaly, hall.windows(shift=6.0))
    assert scores[0] >= 1 and scores[1] < 1 and scores[2] >= 1


def test_other_weights_make_the_error_be_learned_anew_and_the_distance_still_watches() -> None:
    hall = Hall(3)
    anomaly = learned(hall)
    anomaly.recalibrate()
    assert (hall.push(anomaly, hall.windows(shift=6.0)) > 1).all()
    assert (hall.push(anomaly, hall.windows(apart=0.6)) < 1).any()
    for _ in range(256):
        hall.push(anomaly, hall.windows())
    assert np.mean([hall.push(anomaly, hall.windows(apart=0.8)) >= 1 for _ in range(20)]) > 0.9


def test_labels_move_the_threshold_of_one_stream() -> None:
    hall = Hall(2)
    anomaly = learned(hall)
    odd = hall.windows(apart=0.7)
    before = hall.push(anomaly, odd)
    assert before[0] >= 1
    anomaly.tune(0, before[:1].tolist(), [])
    after = hall.push(anomaly, odd)
    assert after[0] == pytest.approx(1 / 1.05, rel=1e-4) and after[1] == before[1]
    # Scores told later are relative to the moved threshold: nothing is moved twice.
    assert anomaly.tune(0, after[:1].tolist(), []) == pytest.approx(float(before[0]) * 1.05)


def test_it_comes_back_as_it_was_kept() -> None:
    hall = Hall(3)
    anomaly = learned(hall)
    anomaly.tune(1, [1.5], [])
    data = anomaly.to_bytes(["press", "pump", "fan"])
    back, names = Anomaly.from_bytes(data, MANIFEST, QUICK)
    assert names == ["press", "pump", "fan"] and back.ready[:3].all()
    features = hall.windows()
    np.testing.assert_allclose(hall.push(back, features), hall.push(anomaly, features), rtol=1e-5)


@pytest.mark.parametrize("cut", [0, 7, 500])
def test_what_was_kept_and_is_damaged_is_refused(cut: int) -> None:
    data = learned(Hall(2)).to_bytes(["a", "b"])
    with pytest.raises(UsageError, match="anew"):
        Anomaly.from_bytes(data[:cut], MANIFEST, QUICK)


def test_what_was_kept_of_another_model_is_refused() -> None:
    data = learned(Hall(2)).to_bytes(["a", "b"])
    other = msgspec.structs.replace(
        MANIFEST,
        input=msgspec.structs.replace(SCHEMA, shape=(6,)),
        output=OutputSchema(task="reconstruction", size=6),
    )
    with pytest.raises(UsageError, match="12 features"):
        Anomaly.from_bytes(data, other, QUICK)
    classifier = msgspec.structs.replace(
        MANIFEST, output=OutputSchema(task="classification", size=1, labels=("a",))
    )
    with pytest.raises(UsageError, match="'small' is for classification"):
        Anomaly(classifier)


def test_two_thousand_streams_fit_in_a_few_megabytes() -> None:
    hall = Hall(2000)
    anomaly = learned(hall, msgspec.structs.replace(QUICK, calibration_windows=128))
    assert anomaly.nbytes < 2000 * 512
    assert len(anomaly.to_bytes([f"machine {number}" for number in range(2000)])) < 2000 * 320
