"""The anomaly benchmark: its parts on made-up recordings, and on the real ones where they are."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.apps.vibration.synthetic import Machine, vibration, wandering
from hedgerow.bench import anomaly as bench
from hedgerow.core.errors import UsageError
from hedgerow.core.streams import stream
from hedgerow.io import data
from hedgerow.io.data.bearings import BEARING_LABELS, Vibration, at_rate
from hedgerow.serve.apps import app_bundle


def made_up(name: str, label: str, load: int, fault: float, seconds: float = 6.0) -> Vibration:
    machine = Machine.drawn(stream(3, "rig"))
    rng = stream(3, "rig", name)
    windows = math.ceil(seconds * 12_000 / 2048)
    steady = 0 * wandering(machine, windows, rng)
    samples = vibration(machine, steady, rng, fault=fault).reshape(-1)
    return Vibration(name, samples, 12_000.0, load, BEARING_LABELS.index(label))


def rig() -> list[Vibration]:
    return [
        *(made_up(f"well {number}", "normal", 270, 0.0) for number in range(3)),
        made_up("hard", "outer", 270, 1.0),
        made_up("easy", "inner", 100, 5.0),
        made_up("none", "inner", 50, 0.0),
    ]


def test_faults_are_found_and_what_is_none_is_not() -> None:
    told: list[str] = []
    real = bench._real(app_bundle("vibration"), rig(), told.append)
    rows = {row.name: row for row in real.files}
    assert set(rows) == {"hard", "easy", "none"} and len(told) == 3
    assert rows["easy"].auroc == 1 and rows["easy"].score > 1
    assert rows["easy"].alarm_seconds is not None and 0 < rows["easy"].alarm_seconds < 2
    # A recording of a machine that is well is told from another by chance alone.
    assert rows["none"].alarm_seconds is None and rows["none"].score < 1
    assert 0.1 < rows["none"].auroc < 0.95
    assert real.false_alarms == 0 and real.healthy_seconds == pytest.approx(18, abs=1)
    assert min(real.hard) == rows["hard"].auroc
    assert rows["none"].auroc < min(real.easy) < rows["easy"].auroc


def test_machines_that_are_well_for_a_while() -> None:
    wolf = bench._wolf(app_bundle("vibration"), machines=2, hours=0.02)
    assert wolf.days == pytest.approx(2 * 0.02 / 24, rel=0.02)
    assert wolf.alarms == 0 and wolf.found == 1


def plain_auroc(well: NDArray[np.float32], fault: NDArray[np.float32]) -> float:
    pairs = [(f > w) + 0.5 * (f == w) for f in fault.tolist() for w in well.tolist()]
    return float(sum(pairs)) / len(pairs)


def test_area_under_the_curve_counts_pairs() -> None:
    rng = stream(1, "auroc")
    well = rng.integers(0, 6, 40).astype(np.float32)
    fault = rng.integers(2, 9, 30).astype(np.float32)
    assert bench.auroc(well, fault) == pytest.approx(plain_auroc(well, fault))
    assert bench.auroc(well, well) == pytest.approx(0.5)


@pytest.mark.parametrize(("count", "wanted"), [(0, 3.0), (1, 4.744), (5, 10.513), (20, 29.062)])
def test_upper_bounds_of_a_poisson_mean_are_those_of_the_tables(count: int, wanted: float) -> None:
    assert bench._upper(count) == pytest.approx(wanted, rel=0.01)


def test_a_recording_at_a_lower_rate_keeps_what_lies_below_and_nothing_above() -> None:
    rate_hz = 48_828.0
    seconds = np.arange(int(rate_hz)) / rate_hz
    low, high = np.sin(2 * np.pi * 1000 * seconds), np.sin(2 * np.pi * 9000 * seconds)
    both = Vibration("x", (low + high).astype(np.float32), rate_hz, 0, 0)
    got = at_rate(both, 12_000.0)
    assert got.rate_hz == 12_000 and len(got.samples) == pytest.approx(12_000, abs=40)
    spectrum = np.abs(np.fft.rfft(got.samples[500:10_500] * np.hanning(10_000)))
    hertz = np.fft.rfftfreq(10_000, 1 / 12_000)
    assert hertz[spectrum.argmax()] == pytest.approx(1000, abs=2)
    assert (
        spectrum[np.abs(hertz - 3000).argmin()] < 1e-3 * spectrum.max()
    )  # where 9 kHz would fold to


def test_without_the_recordings_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="data fetch bearings"):
        bench.bench_anomaly(1, 0.01)


def test_the_real_bearings_where_they_were_fetched() -> None:
    if not data.is_fetched("bearings"):
        pytest.skip("CC BY-NC-SA: only where somebody ran `hedgerow data fetch bearings`")
    recordings = [at_rate(one, 12_000.0) for one in data.load_bearings()]
    wanted = {
        "baseline_1",
        "baseline_2",
        "baseline_3",
        "OuterRaceFault_1",
        "InnerRaceFault_vload_1",
    }
    chosen = [one for one in recordings if one.name in wanted]
    real = bench._real(app_bundle("vibration"), chosen, lambda line: None)
    assert min(real.easy) >= 0.95 and min(real.hard) >= 0.95
    assert real.false_alarms == 0
    assert all(row.alarm_seconds is not None and row.alarm_seconds <= 2 for row in real.files)
