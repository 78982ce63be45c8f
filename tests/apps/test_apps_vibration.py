"""The vibration bundle: what it is, that it is what its author script compiles, what it knows."""

import math

import numpy as np

from hedgerow.apps.vibration import author_model
from hedgerow.apps.vibration.synthetic import BANDS, SCALE_G, WINDOW, Machine, vibration, wandering
from hedgerow.author.check import check
from hedgerow.author.spec import Spec
from hedgerow.core.schema import OutputSchema
from hedgerow.core.streams import stream
from hedgerow.decide.anomaly import Anomaly, AnomalySettings
from hedgerow.model.predictor import Predictor
from hedgerow.sense.features import features
from hedgerow.serve.apps import app_bundle


def spec_without_training() -> Spec:
    return Spec(
        name="vibration",
        version="1",
        module=author_model.VibrationModel(),
        input=author_model.SCHEMA,
        output=OutputSchema(task="reconstruction", size=BANDS),
        plan=author_model.PLAN,
    )


def test_the_bundle_is_what_its_script_says() -> None:
    manifest = app_bundle("vibration").manifest
    assert manifest.input == author_model.SCHEMA
    assert manifest.plan == author_model.PLAN
    assert manifest.layout == spec_without_training().layout() and manifest.layout.size == 5912
    assert manifest.decide == {"hold": 3, "margin": 0.1}
    assert manifest.calibration == "samples"


def test_the_bundle_computes_what_the_module_computes() -> None:
    bundle = app_bundle("vibration")
    assert check(bundle, spec_without_training(), stream(0, "check")).agrees


def test_it_knows_how_bands_move_together_on_machines_it_never_saw() -> None:
    x = author_model.synthetic_inputs(seed=77, machines=10)
    predictor = Predictor(app_bundle("vibration"))
    error = math.sqrt(float(np.mean((predictor(x) - x) ** 2)))
    assert error < 0.85 * math.sqrt(float(np.mean(x**2)))
    # Shuffled over windows, bands have the same values but do not move together any more.
    rng = stream(0, "shuffled")
    apart = np.stack([column[rng.permutation(len(x))] for column in x.T], axis=1)
    assert error < 0.9 * math.sqrt(float(np.mean((predictor(apart) - apart) ** 2)))


def test_int8_answers_as_float32_does() -> None:
    bundle = app_bundle("vibration")
    x = author_model.synthetic_inputs(seed=78, machines=3)
    exact, small = Predictor(bundle)(x), Predictor(bundle, precision="int8")(x)
    assert np.sqrt(np.mean((exact - small) ** 2)) < 0.1 * exact.std()


def test_a_fault_of_a_machine_that_nobody_described_is_found() -> None:
    bundle, rng = app_bundle("vibration"), stream(5, "pump")
    machine = Machine.drawn(rng)
    load = wandering(machine, 460, rng)
    anomaly = Anomaly(
        bundle.manifest, AnomalySettings(baseline_windows=128, calibration_windows=256)
    )
    predictor = Predictor(bundle)

    def scores(samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float]:
        given = features(samples[:, None], bundle.manifest.input)
        rows = np.zeros(len(given), np.int64)
        x = anomaly.prepare(rows, given, np.ones(len(given), np.bool_))
        return [float(score) for score in anomaly(rows, x, predictor(x))]

    for first in range(0, 384, 64):
        scores(vibration(machine, load[first : first + 64], rng))
    assert max(scores(vibration(machine, load[384:448], rng))) < 1
    assert min(scores(vibration(machine, load[448:], rng, fault=3.0))) > 1


def test_synthetic_vibration_is_what_it_says() -> None:
    machine = Machine(
        shaft_hz=30.0,
        noise_g=0.1,
        tones=((1.0, 2.0),),
        resonances=((3000.0, 200.0, 4.0),),
        load_swing=0.2,
        load_seconds=5.0,
    )
    rng = stream(0, "synthetic")
    load = wandering(machine, 4000, rng)
    assert abs(load.std() - 0.2) < 0.05
    assert np.corrcoef(load[1:], load[:-1])[0, 1] > 0.9
    still = np.zeros(60)
    x = vibration(machine, still, rng)
    tone = np.sqrt(np.mean(x**2)) ** 2 - 0.1**2 - SCALE_G**2
    assert abs(tone - (2 * 0.1 * 5) ** 2 / 2) < 0.05
    power = (np.abs(np.fft.rfft(x * np.hanning(WINDOW), axis=1)) ** 2).mean(0)
    hertz = np.fft.rfftfreq(WINDOW, 1 / 12_000)
    assert abs(hertz[power.argmax()] - 30) < 6
    away = power[hertz > 500]
    assert abs(hertz[hertz > 500][away.argmax()] - 3000) < 300
    well = vibration(machine, still, stream(1, "x"))
    broken = vibration(machine, still, stream(1, "x"), fault=3.0)

    def peakedness(y: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        rough = np.diff(y.reshape(-1))
        return float((rough**4).mean() / (rough**2).mean() ** 2)

    assert peakedness(broken) > peakedness(well) + 1
