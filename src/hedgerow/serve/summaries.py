"""What many decisions on one stream come to: counts, and quantiles of its scores."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from hedgerow.decide.notice import Notice
from hedgerow.wire.events import LABELS_MAX, Quantiles, Summary

OTHER: Final = "other"
ACCURACY: Final = 0.05
SCORE_LEAST: Final = 1e-6
SCORE_MOST: Final = 1e6
_GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA: Final = math.log(_GAMMA)
_TEXT_MAX: Final = 200
_LABEL_MAX: Final = 64


class Sums(msgspec.Struct, array_like=True):
    """One stream since `since`. Bounded: 33 labels, and 277 bins of scores.

    Scores fall into bins that grow by a constant factor, so that a quantile is right within 5% of
    itself however they are spread. Source: Masson, Rim, Lee, "DDSketch", VLDB 2019.
    """

    since: float
    windows: int = 0
    alerts: int = 0
    changes: int = 0
    told: int = 0
    """Exceptions that went out one by one."""
    withheld: int = 0
    confidence: float = 0.0
    labels: dict[str, int] = {}
    bins: dict[int, int] = {}
    highest: float = -math.inf
    model: str = ""

    def count(self, notice: Notice) -> None:
        """One more decision."""
        self.windows += 1
        self.alerts += notice.alert
        self.changes += notice.changed
        self.confidence += notice.confidence
        self.model = notice.model
        label = notice.label[:_LABEL_MAX]
        if label not in self.labels and len(self.labels) >= LABELS_MAX - 1:
            label = OTHER
        self.labels[label] = self.labels.get(label, 0) + 1
        score = notice.score
        if score == score:  # NaN where nothing scores
            self.highest = max(self.highest, score)
            bounded = min(max(score, SCORE_LEAST), SCORE_MOST)
            number = math.ceil(math.log(bounded) / _LOG_GAMMA)
            self.bins[number] = self.bins.get(number, 0) + 1

    def summary(self, stream: str, until: float) -> Summary:
        """As it is told to the fleet."""
        return Summary(
            stream=stream[:_TEXT_MAX],
            since_seconds=self.since,
            until_seconds=until,
            windows=self.windows,
            labels=dict(self.labels),
            alerts=self.alerts,
            changes=self.changes,
            withheld=self.withheld,
            confidence=self.confidence / self.windows if self.windows else None,
            scores=self._quantiles(),
            model=self.model[:_TEXT_MAX],
        )

    def _quantiles(self) -> Quantiles | None:
        if not self.bins:
            return None
        half, most, nearly_all = (self._quantile(share) for share in (0.5, 0.9, 0.99))
        return Quantiles(half, most, nearly_all, self.highest)

    def _quantile(self, share: float) -> float:
        rank = share * (sum(self.bins.values()) - 1)
        seen = 0
        for number in sorted(self.bins):
            seen += self.bins[number]
            if seen > rank:
                break
        return min(2 * _GAMMA**number / (_GAMMA + 1), self.highest)
