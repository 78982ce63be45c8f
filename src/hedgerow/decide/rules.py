"""From what a model answers to a decision that holds, and says why.

    rule = Rule(labels=("squat", "bicep curl"), enter=0.7, leave=0.4, hold=3)
    state = RuleState()
    state, decision = decide(rule, state, probabilities, window.start_seconds, window.quality)
    decision.label, decision.reason     # "squat", "squat at 0.93 for 3 windows; was uncertain"

One odd window changes nothing: a label is taken up, or given up, only after `hold` windows in a
row say so (`hold` 1 follows every window), and the threshold to take one up lies above the one to
give it up. A window whose sensor cannot be believed decides nothing; a label that nothing has
confirmed for `forget_seconds` is forgotten. Rules and states are values: `decide` changes neither.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.decide.decision import Cause, Decision, count_windows
from hedgerow.model.bundle import Manifest
from hedgerow.sense.quality import Quality

Numbers = Sequence[float] | NDArray[np.float32]

_FORGET_HOPS = 20
"""Windows without a confirmation after which a label is forgotten, unless the manifest says."""


class RuleState(msgspec.Struct, frozen=True, gc=False):
    """What a rule remembers between windows; the default is the beginning.

    `label` None means that nothing is decided. `challenger` has won the last `won` windows;
    `label` has been too weak for the last `weak`.
    """

    label: str | None = None
    since_seconds: float = math.nan
    confirmed_seconds: float = math.nan
    challenger: str | None = None
    won: int = 0
    weak: int = 0
    smoothed: tuple[float, ...] = ()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What one window says by itself. `winner` None: no label is strong enough to be taken up."""

    winner: str | None
    winner_value: float
    """The winner's number; without one, that of the nearest label."""
    nearest: str
    label_holds: bool
    label_value: float
    """The present label's number."""
    leave: float


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Which of `labels` holds, from their probabilities.

    A label is taken up when it is the likeliest, at `enter` or more, for `hold` windows in a row;
    it is given up when it stays under `leave` for as long, and `uncertain` stands in its place.
    Before that, probabilities are smoothed: `smoothing` is the weight of the past (0: none).
    """

    labels: tuple[str, ...]
    enter: float = 0.6
    leave: float = 0.4
    hold: int = 3
    smoothing: float = 0.0
    forget_seconds: float = math.inf
    uncertain: str = "uncertain"

    def __post_init__(self) -> None:
        if not self.labels or not 0 <= self.leave <= self.enter <= 1:
            raise UsageError(
                f"rule has {len(self.labels)} labels, leave {self.leave} and enter {self.enter}; "
                "wanted at least one label and 0 ≤ leave ≤ enter ≤ 1"
            )
        _check_patience(self.hold, self.smoothing, self.forget_seconds)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "Rule":
        """The rule of a classification bundle: `manifest.decide` over the defaults.

        Raises:
            UsageError: the bundle has no labels, or `decide` has a number no rule knows.
        """
        numbers = _numbers(manifest.decide, cls, manifest.input)
        return msgspec.convert({**numbers, "labels": manifest.output.labels}, cls)

    @property
    def size(self) -> int:
        """How many numbers a prediction has."""
        return len(self.labels)

    def judge(self, values: Sequence[float], label: str | None) -> Verdict:
        """What the probabilities of one window say."""
        best = max(values)
        likeliest = self.labels[values.index(best)]
        own = 0.0 if label is None else values[self.labels.index(label)]
        winner = likeliest if best >= self.enter else None
        return Verdict(winner, best, likeliest, own >= self.leave, own, self.leave)


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a value lies within `low` to `high`: a regression's value, or an anomaly score.

    Beyond an end for `hold` windows in a row the label is `below` or `above`; back inside counts
    only `margin` inside of that end. Before that, values are smoothed as in `Rule`.
    """

    low: float = -math.inf
    high: float = math.inf
    margin: float = 0.0
    hold: int = 3
    smoothing: float = 0.0
    forget_seconds: float = math.inf
    below: str = "low"
    inside: str = "normal"
    above: str = "high"
    uncertain: str = "uncertain"

    def __post_init__(self) -> None:
        if not (self.margin >= 0 and self.low + self.margin < self.high - self.margin):
            raise UsageError(
                f"band has low {self.low}, high {self.high} and margin {self.margin}; wanted a "
                "margin of 0 or more and low + margin < high - margin"
            )
        _check_patience(self.hold, self.smoothing, self.forget_seconds)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "Band":
        """The band of a regression or reconstruction bundle: `manifest.decide` over the defaults.

        Raises:
            UsageError: `decide` has a number no band knows.
        """
        numbers: dict[str, object] = dict(_numbers(manifest.decide, cls, manifest.input))
        if manifest.output.task == "reconstruction":
            numbers["above"] = "anomaly"
        return msgspec.convert(numbers, cls)

    @property
    def size(self) -> int:
        """How many numbers a prediction has."""
        return 1

    def judge(self, values: Sequence[float], label: str | None) -> Verdict:
        """What the value of one window says."""
        value = values[0]
        low = self.low + (self.margin if label == self.below else 0)
        high = self.high - (self.margin if label == self.above else 0)
        zone = self.below if value < low else self.above if value > high else self.inside
        return Verdict(zone, value, zone, zone == label, value, math.nan)


def decide(
    rule: Rule | Band,
    state: RuleState,
    prediction: Numbers,
    time_seconds: float,
    quality: Quality,
) -> tuple[RuleState, Decision]:
    """The state and the decision after one more window.

    Args:
        rule: what to go by.
        state: what the last call returned; `RuleState()` at first.
        prediction: for a `Rule` one probability for each label, for a `Band` the value alone.
        time_seconds: start of the window.
        quality: of the window; one that is not usable changes nothing.

    Raises:
        UsageError: the prediction has another number of elements than the rule wants.
    """
    values: Sequence[float] = (
        prediction.tolist() if isinstance(prediction, np.ndarray) else prediction
    )
    if len(values) != rule.size:
        raise UsageError(f"prediction has {len(values)} numbers; the rule wants {rule.size}")
    former = state.label
    elapsed = time_seconds - state.confirmed_seconds  # NaN at the beginning
    stale = elapsed < 0 or elapsed > rule.forget_seconds
    if stale:
        state = RuleState(since_seconds=time_seconds)
    elif math.isnan(state.since_seconds):
        state = RuleState(since_seconds=time_seconds)
    usable = quality.usable and math.isfinite(sum(values))
    if usable:
        state, decision = _weigh(rule, state, values, time_seconds)
    else:
        fault = f"sensor {quality.words}" if not quality.usable else "prediction not finite"
        decision = _decision(rule, state, 0.0, "refused", (fault,), decided=False)
    if stale and state.label is None:
        cause: Cause = "set_back" if elapsed < 0 else "forgotten"
        detail = (former or rule.uncertain, abs(elapsed))
        confidence = decision.confidence
        decision = _decision(rule, state, confidence, cause, detail, decided=usable)
    if decision.changed != (state.label != former):
        decision = msgspec.structs.replace(decision, changed=state.label != former)
    return state, decision
