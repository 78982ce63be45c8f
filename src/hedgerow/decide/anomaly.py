"""How far from its own normal each machine is: no labels, thousands of streams at once.

    anomaly = Anomaly(bundle.manifest)
    x = anomaly.prepare(rows, features, usable)     # rows i64 [B]; what the autoencoder is given
    scores = anomaly(rows, x, predictor(x))         # 1 is the threshold; NaN while it learns
    anomaly.drift(rows)                             # 1 is drift

Two views are scored. The distance from the stream's own spectral baseline (`Normal`) sees any
band that is not as usual. The autoencoder's error sees bands that do not move together as they do
in machines that are well, however much load and speed change. Each has its own threshold for half
of the false alarms (`Thresholds`), and the score is the larger share of a threshold: by the union
bound the rate holds whether or not the two agree.

A stream first learns its baseline, then its thresholds, and then is judged. Through its first day
(`settle_windows`) the baseline goes on learning from windows that score below 1, each as much as
any other, and whenever it has seen four times as many the thresholds are taken anew. After that it
stands still: a machine that wears out over weeks must not become its own normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from hedgerow.core.errors import UsageError
from hedgerow.decide.drift import DriftSettings, DriftWatch
from hedgerow.decide.threshold import Thresholds, alarm_rate, chosen_factor
from hedgerow.model.bundle import Manifest
from hedgerow.model.normal import Normal, Rows, distance, grown

Array = NDArray[np.float32]
Flags = NDArray[np.bool_]

_RENEW_FACTOR: Final = 4
_HOLD: Final = 3


class AnomalySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream's normal is learned.

    `baseline_windows` for its usual spectrum, then `calibration_windows` for its thresholds.
    `false_alarms_per_day` is what each stream may give on average; `settle_windows` how long the
    baseline goes on learning.
    """

    baseline_windows: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] = 1024
    calibration_windows: Annotated[int, msgspec.Meta(ge=128, le=100_000)] = 4096
    false_alarms_per_day: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 0.1
    settle_windows: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 500_000
    drift: DriftSettings = DriftSettings()


class Anomaly:
    """All streams of one reconstruction bundle, by row number; grows with the rows it meets."""

    def __init__(self, manifest: Manifest, settings: AnomalySettings | None = None) -> None:
        """Raises UsageError where the bundle is no autoencoder."""
        if manifest.output.task != "reconstruction":
            raise UsageError(
                f"bundle {manifest.name!r} is for {manifest.output.task}; to learn what is normal "
                "takes one whose task is reconstruction, such as 'vibration'"
            )
        self.settings = given = AnomalySettings() if settings is None else settings
        schema = manifest.input
        rate = alarm_rate(
            given.false_alarms_per_day,
            schema.hop / schema.rate_hz,
            int(manifest.decide.get("hold", _HOLD)),
        )
        self._size = int(np.prod(schema.shape))
        self._normal = Normal(0, self._size)
        self._far = Thresholds(0, given.calibration_windows, rate / 2)
        self._odd = Thresholds(0, given.calibration_windows, rate / 2)
        self._watch = DriftWatch(0, given.drift, uniform=True)
        self._drifted = np.zeros(0, np.bool_)
        self._renewed = np.zeros(0, np.int64)  # windows seen when thresholds were last asked for
        self._factor = np.ones(0, np.float32)

    def __len__(self) -> int:
        return len(self._factor)

    @property
    def rate(self) -> float:
        """The share of normal windows that may score 1 or more."""
        return 2 * self._far.rate

    @property
    def nbytes(self) -> int:
        """Memory of the baseline and the thresholds."""
        return self._normal.nbytes + self._far.nbytes + self._odd.nbytes

    @property
    def ready(self) -> Flags:
        """Which streams are judged, `[S]`."""
        known: Flags = np.isfinite(self._far.limit[: len(self)])
        return known

    @property
    def drifted(self) -> Rows:
        """Rows of streams that have drifted since they were last settled."""
        return np.flatnonzero(self._drifted)

    def progress(self, row: int) -> float:
        """How much of its normal a stream has learned, 0 to 1; 1 is ready."""
        if row >= len(self) or self.ready[row]:
            return float(row < len(self))
        given = self.settings
        need = given.baseline_windows + given.calibration_windows
        base = min(int(self._normal.seen[row]), given.baseline_windows)
        return (base + self._far.progress(row) * given.calibration_windows) / need

    # Each batch -----------------------------------------------------------------------------------

    def prepare(self, rows: Rows, features: Array, usable: Flags) -> Array:
        """Features f32 `[B, *shape]` in deviations from each stream's usual, of the same shape.

        Learns the baseline of streams that do not have one yet. Windows that it learns from, are
        not `usable` or not finite become 0: they get no score.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        flat = features.reshape(len(rows), self._size)
        good = usable & np.isfinite(flat).all(axis=1)
        x = self._normal.standardise(rows, flat if good.all() else np.where(good[:, None], flat, 0))
        x[~good] = 0
        learning = good & (self._normal.seen[rows] < self.settings.baseline_windows)
        if learning.any():
            self._normal.learn(rows[learning], flat[learning])
            x[learning] = 0
        return x.reshape(features.shape)

    def __call__(self, rows: Rows, x: Array, answers: Array) -> Array:
        """Scores f32 `[B]` of windows `prepare` gave and the autoencoder's answers `[B, size]`.

        1 is the threshold. NaN: the stream is still learning, or the window could not be used.
        """
        flat = x.reshape(len(rows), self._size)
        far = distance(flat)
        odd = distance(flat - answers.reshape(flat.shape))
        live = (far > 0) & (self._normal.seen[rows] >= self.settings.baseline_windows)
        score = self._scored(rows, far, odd)
        score[~live] = np.nan
        # A renewal must not take in what is alarming; at first nothing is known to be.
        fine = live & ~(score >= 1)
        if fine.any():
            self._calibrate(rows[fine], far[fine], odd[fine])
            self._settle_in(rows, flat, fine & np.isfinite(score))
        judged = np.isfinite(score)
        if judged.any():
            here = rows[judged]
            # What is beyond its threshold is an anomaly; it counts as far out, once.
            statistic = self._watch.update(here, self._far.rank(here, far[judged]))
            self._drifted[here[statistic >= 1]] = True
        return score

    def drift(self, rows: Rows) -> Array:
        """The drift detectors' largest statistic over its limit, f32 `[B]`; NaN while learning."""
        now = np.maximum(self._watch.statistic[rows], self._drifted[rows])
        told: Array = np.where(self.ready[rows], now, np.nan).astype(np.float32)
        return told

    def _scored(self, rows: Rows, far: Array, odd: Array) -> Array:
        # fmax: while the error has no threshold, the distance alone counts.
        shares = np.fmax(far / self._far.limit[rows], odd / self._odd.limit[rows])
        score: Array = np.where(np.isnan(self._far.limit[rows]), np.nan, shares)
        score /= self._factor[rows]
        return score

    def _calibrate(self, rows: Rows, far: Array, odd: Array) -> None:
        fresh = self._far.collect(rows, far)
        self._odd.collect(rows, odd)
        if len(fresh):
            self.settle(fresh)
            self._renewed[fresh] = self._normal.seen[fresh]

    def _settle_in(self, rows: Rows, flat: Array, fine: Flags) -> None:
        seen = self._normal.seen
        young = fine & (seen[rows] < self.settings.settle_windows)
        if not young.any():
            return
        here = rows[young]
        self._normal.follow(here, flat[young])
        due = np.unique(here[seen[here] >= _RENEW_FACTOR * self._renewed[here]])
        if len(due):
            self._renewed[due] = seen[due]
            self._far.renew(due)
            self._odd.renew(due)

    def _grow(self, streams: int) -> None:
        if streams <= len(self):
            return
        self._factor = grown(self._factor, streams, 1)
        self._drifted = grown(self._drifted, len(self), False)
        self._renewed = grown(self._renewed, len(self))
        for part in (self._normal, self._far, self._odd, self._watch):
            part.grow(len(self))

    # What the owner and the fleet say -------------------------------------------------------------

    def relearn(self, rows: Rows) -> None:
        """What these streams do from now on is their normal."""
        self._grow(int(rows.max(initial=-1)) + 1)
        self._normal.forget(rows)
        self._far.forget(rows)
        self._odd.forget(rows)
        self._factor[rows] = 1
        self._renewed[rows] = 0
        self.settle(rows)

    def settle(self, rows: Rows) -> None:
        """Drift of these streams was seen to: compare with what they do from now on."""
        self._watch.reset(rows)
        self._drifted[rows] = False

    def recalibrate(self) -> None:
        """Another autoencoder answers: its error has to be known before it counts again."""
        self._odd.forget(np.arange(len(self)))

    def tune(self, row: int, normal: Sequence[float], fault: Sequence[float]) -> float:
        """Move a stream's threshold by labels: scores of windows the owner called normal or not.

        Returns the factor over the threshold from the data; see `chosen_factor`.
        """
        self._grow(row + 1)
        before = float(self._factor[row])
        factor = chosen_factor([s * before for s in normal], [s * before for s in fault])
        self._factor[row] = factor
        return factor

    # What is kept ---------------------------------------------------------------------------------

    def to_bytes(self, names: Sequence[str]) -> bytes:
        """Baselines and thresholds of the streams called `names`, in the order of their rows."""
        self._grow(len(names))
        streams = len(names)
        arrays: dict[str, NDArray[np.generic]] = {
            "names": np.frombuffer(msgspec.json.encode(list(names)), np.uint8),
            "factor": self._factor[:streams].copy(),
            "renewed": self._renewed[:streams].copy(),
        }
        kinds = (
            ("normal", self._normal.arrays),
            ("far", self._far.arrays),
            ("odd", self._odd.arrays),
        )
        for kind, of in kinds:
            arrays |= {f"{kind}.{name}": array for name, array in of(streams).items()}
        return safetensors.numpy.save(arrays)

    @classmethod
    def from_bytes(
        cls, data: bytes, manifest: Manifest, settings: AnomalySettings | None = None
    ) -> tuple[Anomaly, list[str]]:
        """What `to_bytes` kept, and the names of the rows.

        Raises:
            UsageError: it is damaged, or of a bundle with other features; begin anew then.
        """
        anomaly = cls(manifest, settings)
        try:
            arrays = safetensors.numpy.load(data)
            names = msgspec.json.decode(arrays["names"].tobytes(), type=list[str])
            anomaly._take(arrays, len(names))
        except (SafetensorError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"what was kept of the streams' normal cannot be used ({error}); learn it anew"
            ) from error
        return anomaly, names

    def _take(self, arrays: dict[str, NDArray[np.generic]], streams: int) -> None:
        def part(kind: str) -> dict[str, NDArray[np.generic]]:
            start = f"{kind}."
            return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}

        normal = Normal.of_arrays(part("normal"))
        factor = np.asarray(arrays["factor"], np.float32)
        renewed = np.asarray(arrays["renewed"], np.int64)
        if normal.size != self._size or not len(normal) == len(factor) == len(renewed) == streams:
            raise ValueError(f"it is of {len(normal)} streams with {normal.size} features")
        if not (factor > 0).all():
            raise ValueError("a threshold has a factor that is not above 0")
        self._normal = normal
        self._far.take(part("far"))
        self._odd.take(part("odd"))
        self._grow(streams)
        self._factor[:streams], self._renewed[:streams] = factor, renewed
