"""From readings to decisions, for many streams at once: cut, features, model, decide.

The steps are apart so that features and model may be made elsewhere:

    cuts = engine.cut(readings)
    given = engine.prepared(cuts, features([cut.window.samples for cut in cuts]))
    notices = engine.judge(cuts, given, model(given))      # given is f32 [B, *shape]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.decide.anomaly import Anomaly
from hedgerow.decide.drift import DriftWatch
from hedgerow.decide.evidence import probabilities, reconstruction_error
from hedgerow.decide.notice import Notice
from hedgerow.decide.rules import Band, Rule, decide
from hedgerow.io.sensors.base import Block, Gone, Reading
from hedgerow.model.bundle import Manifest
from hedgerow.serve.edge.streams import Cut, Streams, rows_of

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
LEARNING = "learning"


class Engine:
    """One model's pipeline over all streams.

    `alert_labels` call for a person; without any, everything a `Band` does not call inside does.
    With a `scorer`, which knows what is normal for each stream, a reconstruction is judged by its
    score, and the model gets features in units of the stream's own spread. `drift` watches how
    sure a classification is. `names` are streams known from before, in the order of their rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        model: str = "",
        streams_max: int = 4096,
        scorer: Anomaly | None = None,
        drift: DriftWatch | None = None,
        names: Sequence[str] = (),
        alert_labels: Sequence[str] = (),
    ) -> None:
        self.schema = manifest.input
        self.streams = Streams(manifest.input, streams_max, names)
        self.model = model or f"{manifest.name} {manifest.version}"
        self.scorer, self.drift = scorer, drift
        self.unfit = 0
        """Blocks that did not fit the model's channels."""
        self._task = manifest.output.task
        self._scored = scorer is not None and self._task == "reconstruction"
        self._rule = _rule(manifest, scored=scorer is not None)
        self._alerts = frozenset(alert_labels)

    def cut(self, readings: Iterable[Reading]) -> list[Cut]:
        """All windows that these readings complete, in their order."""
        cuts: list[Cut] = []
        for reading in readings:
            if isinstance(reading, Block):
                try:
                    cuts += self.streams.cut(reading)
                except UsageError as error:
                    self.unfit += 1
                    if self.unfit & (self.unfit - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
                        log.warning("stream %r: %s (%d so far)", reading.stream, error, self.unfit)
            elif isinstance(reading, Gone):
                self.streams.end(reading.stream, reading.reason)
        return cuts

    def prepared(self, cuts: Sequence[Cut], features: Array) -> Array:
        """Model inputs `[B, *shape]`: features in units of each stream's own spread, if known."""
        if self.scorer is None:
            return features
        return self.scorer.prepare(rows_of(cuts), features, _usable(cuts))

    def judge(self, cuts: Sequence[Cut], given: Array, answers: Array) -> list[Notice]:
        """What is decided of each window, given `[B, *shape]` and the model's answers `[B, size]`.

        In the windows' order. Those of a backlog are judged but never alert.
        """
        scores: Sequence[float] = ()
        drifts: Sequence[float] = ()
        if self.scorer is not None:
            rows = rows_of(cuts)
            scores = self.scorer(rows, given, answers).tolist()
            drifts = self.scorer.drift(rows).tolist()
        notices = [
            self._one(
                cut,
                given[index],
                answers[index],
                scores[index] if scores else math.nan,
                drifts[index] if drifts else math.nan,
            )
            for index, cut in enumerate(cuts)
        ]
        if self.drift is not None:
            doubts = np.array([1 - notice.confidence for notice in notices], np.float32)
            self.drift.grow(1 << len(self.streams).bit_length())
            found = self.drift.update(rows_of(cuts), doubts).tolist()
            notices = [
                msgspec.structs.replace(notice, drift=statistic)
                for notice, statistic in zip(notices, found, strict=True)
            ]
            for cut, notice in zip(cuts, notices, strict=True):
                cut.stream.notice = notice
        return notices

    def _one(self, cut: Cut, given: Array, answer: Array, score: float, drift: float) -> Notice:
        stream, window = cut.stream, cut.window
        if self.scorer is not None and self._scored and math.isnan(score):
            learned = stream.row < len(self.scorer.ready) and self.scorer.ready[stream.row]
            before = stream.notice is not None and stream.notice.label == LEARNING
            if not learned or before:  # the window that ended the learning has no score either
                return self._learning(cut)
        evidence = self._evidence(given, answer, score)
        stream.state, decision = decide(
            self._rule, stream.state, evidence, window.start_seconds, window.quality
        )
        stream.windows += 1
        stream.decided += decision.decided
        notice = Notice(
            stream=stream.name,
            time_seconds=window.start_seconds,
            label=decision.label,
            confidence=decision.confidence,
            reason=decision.reason,
            changed=decision.changed,
            decided=decision.decided,
            alert=decision.decided and not cut.historical and self._alerting(decision.label),
            score=score,
            drift=drift,
            model=self.model,
        )
        stream.notice = notice
        return notice

    def _learning(self, cut: Cut) -> Notice:
        cut.stream.windows += 1
        cut.stream.notice = Notice(
            stream=cut.stream.name,
            time_seconds=cut.window.start_seconds,
            label=LEARNING,
            confidence=0.0,
            reason="what is normal here is still being learned",
            changed=False,
            decided=False,
            model=self.model,
        )
        return cut.stream.notice

    def _evidence(self, given: Array, answer: Array, score: float) -> Sequence[float]:
        if self._task == "classification":
            return probabilities(answer)
        if self._task == "regression":
            return [float(answer[0])]
        return [score if self._scored else reconstruction_error(given, answer)]

    def _alerting(self, label: str) -> bool:
        if self._alerts:
            return label in self._alerts
        if isinstance(self._rule, Rule):
            return False
        return label in (self._rule.below, self._rule.above)


def _usable(cuts: Sequence[Cut]) -> NDArray[np.bool_]:
    """Windows of a backlog neither teach what is normal nor alert."""
    usable = (cut.window.quality.usable and not cut.historical for cut in cuts)
    return np.fromiter(usable, np.bool_, len(cuts))


def _rule(manifest: Manifest, *, scored: bool) -> Rule | Band:
    if manifest.output.task == "classification":
        return Rule.from_manifest(manifest)
    band = Band.from_manifest(manifest)
    if scored and manifest.output.task == "reconstruction" and math.isinf(band.high):
        band = Band(
            high=1.0,
            margin=band.margin,
            hold=band.hold,
            smoothing=band.smoothing,
            forget_seconds=band.forget_seconds,
            above=band.above,
        )
    return band
