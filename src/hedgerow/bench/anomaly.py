"""Anomalies without labels: on real bearings, and false alarms of synthetic machines.

Real: recordings of one test rig (`hedgerow data fetch bearings --accept-licence`), all reduced to
12 kHz. Each healthy recording is held out in turn, whole. Of the other two the first 60% of time
teach the baseline and the autoencoder, the rest sets the thresholds; no fault is ever learned from.
Every window of the faulty recordings and of the held-out one is then scored, and streams are
spliced: the held-out recording, and from some moment on a faulty one. The splits are by file, since
neighbouring windows of one file are alike.

Synthetic: machines of `hedgerow.apps.vibration.synthetic` that are well for hours, none of them one
that the shipped autoencoder was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hedgerow.apps.vibration.synthetic import Machine, vibration, wandering
from hedgerow.core.streams import key_of, stream
from hedgerow.decide.anomaly import Anomaly, AnomalySettings
from hedgerow.decide.rules import Band, RuleState, decide
from hedgerow.io.data.bearings import BEARING_LABELS, Vibration, at_rate, load_bearings
from hedgerow.io.sensors.base import Block
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.passes import Pass
from hedgerow.model.predictor import Predictor
from hedgerow.model.samples import Samples
from hedgerow.sense.features import Featuriser, features
from hedgerow.sense.quality import GOOD
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge.engine import Engine

Array = NDArray[np.float32]
Told = Callable[[str], None]

HARD_LOAD: Final = 270
TEACH_SHARE: Final = 0.6
TEACH_HOP: Final = 256
"""Windows to learn from overlap, as there are 6 s of each recording; those to judge do not."""
ONSET_SECONDS: Final = 4.9
"""Where the fault begins in a spliced stream: within a window, not between two."""
STREAMS: Final = 2000
FAULT: Final = 3.0
"""Height of a synthetic fault's impulses, in deviations of the machine's broad noise."""
_BLOCK: Final = 256
_POISSON_95_OF_0: Final = 3.0
_DAY_SECONDS: Final = 86_400.0


class FileRow(msgspec.Struct, frozen=True):
    """One faulty recording, over the held-out healthy ones: worst area under the ROC curve, median
    score of its windows, and the longest time from onset to alarm (None: one was missed).
    """

    name: str
    label: str
    load: int
    auroc: float
    score: float
    alarm_seconds: float | None


class AnomalyResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench anomaly --json` prints.

    `auroc` is over all windows but the hard files', the mean of the folds, and `auroc_worst` the
    worst fold; `hard_…` are the outer-race files at load 270, which share load and sample rate with
    the healthy ones. `alarm_seconds` is the longest of a spliced stream. `false_alarms_per_day` is
    of synthetic machines, `…_upper` its upper 95% bound (Poisson); `real_false_alarms` those in
    `real_healthy_seconds`, too few to say more.
    """

    auroc: float
    auroc_worst: float
    hard_auroc: float
    hard_auroc_worst: float
    alarm_seconds: float | None
    hard_alarm_seconds: float | None
    missed: int
    spliced: int
    windows: int
    real_false_alarms: int
    real_healthy_seconds: float
    stated_false_alarms_per_day: float
    false_alarms: int
    false_alarms_per_day: float
    false_alarms_per_day_upper: float
    machine_days: float
    synthetic_faults_found: float
    windows_beyond: float
    us_per_window: float
    cpu_percent_of_2000: float
    files: list[FileRow]


class _Real(NamedTuple):
    """Of each fold (rows) and faulty file (columns)."""

    easy: list[float]
    hard: list[float]
    files: list[FileRow]
    windows: int
    false_alarms: int
    healthy_seconds: float


class _Wolf(NamedTuple):
    alarms: int
    days: float
    beyond: float
    found: float


def bench_anomaly(
    machines: int = 40, hours: float = 0.6, told: Told = lambda line: None
) -> AnomalyResult:
    """Everything that `AnomalyResult` says.

    Raises:
        UsageError: the bearing recordings have not been fetched.
    """
    bundle = app_bundle("vibration")
    rate_hz = bundle.manifest.input.rate_hz
    recordings = [at_rate(recording, rate_hz) for recording in load_bearings()]
    real = _real(bundle, recordings, told)
    told(f"{machines} synthetic machines, {hours:g} h each …")
    wolf = _wolf(bundle, machines, hours)
    micros = _micros_per_window(bundle)
    windows_per_s = STREAMS * rate_hz / bundle.manifest.input.hop
    times = [row.alarm_seconds for row in real.files if not _is_hard(row)]
    hard = [row.alarm_seconds for row in real.files if _is_hard(row)]
    return AnomalyResult(
        auroc=round(float(np.mean(real.easy)), 4),
        auroc_worst=round(min(real.easy), 4),
        hard_auroc=round(float(np.mean(real.hard)), 4),
        hard_auroc_worst=round(min(real.hard), 4),
        alarm_seconds=_longest(times),
        hard_alarm_seconds=_longest(hard),
        missed=sum(seconds is None for seconds in [*times, *hard]),
        spliced=len(real.files),
        windows=real.windows,
        real_false_alarms=real.false_alarms,
        real_healthy_seconds=round(real.healthy_seconds, 1),
        stated_false_alarms_per_day=AnomalySettings().false_alarms_per_day,
        false_alarms=wolf.alarms,
        false_alarms_per_day=round(wolf.alarms / wolf.days, 3),
        false_alarms_per_day_upper=round(_upper(wolf.alarms) / wolf.days, 2),
        machine_days=round(wolf.days, 2),
        synthetic_faults_found=round(wolf.found, 3),
        windows_beyond=wolf.beyond,
        us_per_window=round(micros, 2),
        cpu_percent_of_2000=round(micros * windows_per_s / 1e4, 1),
        files=real.files,
    )


def table(result: AnomalyResult) -> str:
    """The result in lines for people."""
    lines = [f"{'recording':>24}  {'load':>4}  {'auroc':>6}  {'score':>5}  alarm after"]
    for row in result.files:
        alarm = "missed" if row.alarm_seconds is None else f"{row.alarm_seconds:.2f} s"
        lines.append(
            f"{row.name:>24}  {row.load:>4}  {row.auroc:>6.4f}  {row.score:>5.2f}  {alarm}"
        )
    lines += [
        f"area under ROC {result.auroc:.4f}, load {HARD_LOAD} outer race {result.hard_auroc:.4f}; "
        f"{result.real_false_alarms} false alarms in {result.real_healthy_seconds:g} s of healthy "
        "recordings held out",
        f"synthetic machines: {result.false_alarms} false alarms in {result.machine_days:g} days, "
        f"at most {result.false_alarms_per_day_upper:g} a day with 95% confidence; "
        f"{result.synthetic_faults_found:.0%} of faults found",
        f"{result.us_per_window:g} µs a window, {result.cpu_percent_of_2000:g}% of a core for "
        f"{STREAMS:,} machines",
    ]
    return "\n".join(lines)


# Real recordings ----------------------------------------------------------------------------------


def _real(bundle: Bundle, recordings: Sequence[Vibration], told: Told) -> _Real:
    schema = bundle.manifest.input
    healthy = [one for one in recordings if BEARING_LABELS[one.label] == "normal"]
    faulty = [one for one in recordings if BEARING_LABELS[one.label] != "normal"]
    given = {one.name: _windows(bundle, one.samples, schema.hop) for one in recordings}
    rows: dict[str, list[tuple[float, float, float | None]]] = {one.name: [] for one in faulty}
    easy, hard, alarms, seconds = [], [], 0, 0.0
    for held in healthy:
        told(f"held out {held.name} …")
        kept, predictor = _taught(bundle, [one for one in healthy if one is not held])

        def scores(name: str, kept: bytes = kept, predictor: Predictor = predictor) -> Array:
            return _scores(bundle, kept, predictor, given[name])

        well = scores(held.name)
        every: dict[bool, list[Array]] = {False: [], True: []}
        for one in faulty:
            found = scores(one.name)
            every[_hard(one)].append(found)
            when = _alarm_seconds(bundle, kept, predictor, held, one)
            rows[one.name].append((auroc(well, found), float(np.median(found)), when))
        easy.append(auroc(well, np.concatenate(every[False])))
        hard.append(auroc(well, np.concatenate(every[True])))
        alarms += len(_alarms(bundle, kept, predictor, held.samples))
        seconds += len(held.samples) / schema.rate_hz
    files = [
        FileRow(
            name=one.name,
            label=BEARING_LABELS[one.label],
            load=one.load,
            auroc=round(min(row[0] for row in rows[one.name]), 4),
            score=round(float(np.median([row[1] for row in rows[one.name]])), 2),
            alarm_seconds=_longest([row[2] for row in rows[one.name]]),
        )
        for one in faulty
    ]
    return _Real(easy, hard, files, sum(map(len, given.values())), alarms, seconds)


def _hard(recording: Vibration) -> bool:
    return BEARING_LABELS[recording.label] == "outer" and recording.load == HARD_LOAD


def _is_hard(row: FileRow) -> bool:
    return row.label == "outer" and row.load == HARD_LOAD


def _windows(bundle: Bundle, samples: Array, hop: int) -> Array:
    """Features `[n, *shape]` of windows every `hop` samples."""
    schema = bundle.manifest.input
    cut = np.ascontiguousarray(sliding_window_view(samples, schema.window)[::hop])
    return features(cut[:, None], schema)


def _taught(bundle: Bundle, healthy: Sequence[Vibration]) -> tuple[bytes, Predictor]:
    """A normal and an autoencoder of what these recordings did."""
    first, rest = [], []
    for one in healthy:
        cut = int(TEACH_SHARE * len(one.samples))
        first.append(_windows(bundle, one.samples[:cut], TEACH_HOP))
        rest.append(_windows(bundle, one.samples[cut:], TEACH_HOP))
    baseline, calibration = np.concatenate(first), np.concatenate(rest)
    settings = AnomalySettings(
        baseline_windows=len(baseline), calibration_windows=len(calibration), settle_windows=0
    )
    anomaly = Anomaly(bundle.manifest, settings)
    rows, good = np.zeros(len(baseline), np.int64), np.ones(len(baseline), np.bool_)
    anomaly.prepare(rows, baseline, good)
    x = anomaly.prepare(rows, baseline, good)  # known now: in its deviations
    trained = Learner(bundle).run(
        Pass(bundle.weights[None], bundle.manifest.plan),
        [Samples(x, None)],
        np.array([key_of(0, "bench anomaly")], np.uint64),
    )
    predictor = Predictor(bundle, weights=trained.weights[0])
    rows, good = np.zeros(len(calibration), np.int64), np.ones(len(calibration), np.bool_)
    x = anomaly.prepare(rows, calibration, good)
    anomaly(rows, x, predictor(x))
    return anomaly.to_bytes(["rig"]), predictor


def _judge(bundle: Bundle, kept: bytes) -> Anomaly:
    settled = AnomalySettings(settle_windows=0, baseline_windows=16)
    return Anomaly.from_bytes(kept, bundle.manifest, settled)[0]


def _scores(bundle: Bundle, kept: bytes, predictor: Predictor, given: Array) -> Array:
    anomaly, rows = _judge(bundle, kept), np.zeros(len(given), np.int64)
    x = anomaly.prepare(rows, given, np.ones(len(given), np.bool_))
    return anomaly(rows, x, predictor(x))


def _alarms(bundle: Bundle, kept: bytes, predictor: Predictor, samples: Array) -> list[float]:
    """When a stream of these samples alarms: at the end of the window that decides it, seconds."""
    schema = bundle.manifest.input
    engine = Engine(bundle.manifest, scorer=_judge(bundle, kept))
    alarms, before = [], False
    for first in range(0, len(samples), schema.hop):
        block = Block("rig", first / schema.rate_hz, samples[first : first + schema.hop, None])
        cuts = engine.cut([block])
        if not cuts:
            continue
        windows = np.stack([cut.window.samples for cut in cuts])
        given = engine.prepared(cuts, features(windows, schema))
        for notice in engine.judge(cuts, given, predictor(given)):
            if notice.alert and not before:
                alarms.append(notice.time_seconds + schema.window / schema.rate_hz)
            before = notice.alert
    return alarms


def _alarm_seconds(
    bundle: Bundle, kept: bytes, predictor: Predictor, well: Vibration, fault: Vibration
) -> float | None:
    """Seconds from the onset to the alarm in a spliced stream; None if it is missed."""
    onset = int(ONSET_SECONDS * well.rate_hz)
    samples = np.concatenate([well.samples[:onset], fault.samples])
    after = onset / well.rate_hz
    alarms = [at - after for at in _alarms(bundle, kept, predictor, samples) if at > after]
    return round(alarms[0], 2) if alarms else None


def auroc(well: Array, fault: Array) -> float:
    """The chance that a faulty window scores above a healthy one; equal scores count half."""
    ordered = np.sort(well)
    below = np.searchsorted(ordered, fault, "left") + np.searchsorted(ordered, fault, "right")
    return float(below.mean() / (2 * len(well)))


def _longest(times: Sequence[float | None]) -> float | None:
    known = [seconds for seconds in times if seconds is not None]
    return max(known) if len(known) == len(times) else None


# Synthetic machines -------------------------------------------------------------------------------


def _wolf(bundle: Bundle, machines: int, hours: float) -> _Wolf:
    """False alarms over time at the default settings, and the share of faults found in the end."""
    schema, settings = bundle.manifest.input, AnomalySettings()
    hop_seconds = schema.hop / schema.rate_hz
    learning = settings.baseline_windows + settings.calibration_windows
    judged = max(1, int(hours * 3600 / hop_seconds))
    anomaly, predictor = Anomaly(bundle.manifest), Predictor(bundle)
    band = msgspec.structs.replace(Band.from_manifest(bundle.manifest), high=1.0)
    drawn = [stream(7, "bench hall", number) for number in range(machines)]
    hall = [Machine.drawn(rng) for rng in drawn]
    alarms, beyond, windows, found = 0, 0, 0, 0
    for row, (machine, rng) in enumerate(zip(hall, drawn, strict=True)):
        state = RuleState()
        load = wandering(machine, learning + judged, rng)
        for first in range(0, len(load), _BLOCK):
            samples = vibration(machine, load[first : first + _BLOCK], rng)
            for score in _pushed(anomaly, predictor, row, samples).tolist():
                if np.isnan(score):
                    continue
                windows += 1
                beyond += score >= 1
                state, decision = decide(band, state, [score], windows * hop_seconds, GOOD)
                alarms += decision.changed and decision.label == band.above
        broken = vibration(machine, load[-12:], rng, fault=FAULT)
        found += bool((_pushed(anomaly, predictor, row, broken)[-3:] >= 1).all())
    days = windows * hop_seconds / _DAY_SECONDS
    return _Wolf(alarms, days, beyond / max(1, windows), found / machines)


def _pushed(anomaly: Anomaly, predictor: Predictor, row: int, samples: Array) -> Array:
    schema = predictor.bundle.manifest.input
    rows = np.full(len(samples), row)
    given = features(samples[:, None], schema)
    x = anomaly.prepare(rows, given, np.ones(len(samples), np.bool_))
    return anomaly(rows, x, predictor(x))


def _upper(count: int) -> float:
    """Upper 95% bound of a Poisson mean where `count` were seen (Garwood 1936, approximated)."""
    if count == 0:
        return _POISSON_95_OF_0
    n = count + 1  # Wilson and Hilferty's approximation of the χ² quantile
    return float(n * (1 - 1 / (9 * n) + 1.645 / (3 * n**0.5)) ** 3)


# Cost ---------------------------------------------------------------------------------------------


def _micros_per_window(bundle: Bundle) -> float:
    """CPU µs a window from features to score for 2,000 streams, autoencoder included; features are
    made beforehand, as every model needs them.
    """
    schema = bundle.manifest.input
    quick = AnomalySettings(baseline_windows=16, calibration_windows=128)
    anomaly, predictor = Anomaly(bundle.manifest, quick), Predictor(bundle)
    rng = stream(0, "bench anomaly")
    columns = Featuriser(schema).columns
    level = rng.uniform(1, 8, (STREAMS, columns)).astype(np.float32)
    rows, good = np.arange(STREAMS), np.ones(STREAMS, np.bool_)
    seconds = []
    for turn in range(184):
        given = (level + 0.3 * rng.standard_normal(level.shape, np.float32)).reshape(
            STREAMS, *schema.shape
        )
        began = time.process_time()
        x = anomaly.prepare(rows, given, good)
        anomaly(rows, x, predictor(x))
        anomaly.drift(rows)
        if turn >= 152:  # ready, and warm
            seconds.append(time.process_time() - began)
    return float(np.median(seconds)) / STREAMS * 1e6
