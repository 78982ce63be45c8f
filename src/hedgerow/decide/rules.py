"""From what a model answers to a decision that holds, and says why.

    rule = Rule(labels=("squat", "bicep curl"), enter=0.7, leave=0.4, hold=3)
    state = RuleState()
    state, decision = decide(rule, state, probabilities, window.start_seconds, window.quality)
    decision.label, decision.reason     # "squat", "squat at 0.93 for 3 windows; was uncertain"

One odd window changes nothing: a label is taken up, or given up, only after `hold` windows in a
row say so (`hold` 1 follows every window), and the threshold to take one up lies above the one to
give it up. A window whose sensor cannot be believed decides nothing; without a usable window for
`forget_seconds` the label is forgotten. Rules and states are values: `decide` changes neither.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.decide.decision import Cause, Decision, count_windows
from hedgerow.model.bundle import Manifest
from hedgerow.sense.quality import GOOD, Quality

_AnyRule = TypeVar("_AnyRule", "Rule", "Band")
Numbers = Sequence[float] | NDArray[np.float32]

_FORGET_HOPS = 20
"""Hops without a usable window after which a label is forgotten, unless the manifest says."""


class RuleState(msgspec.Struct, frozen=True, gc=False):
    """What a rule remembers between windows; the default is the beginning.

    `label` None: nothing holds. `seen_seconds` is the start of the last usable window.
    `challenger` won the last `won` windows; `label` was too weak in the last `weak`.
    """

    label: str | None = None
    since_seconds: float = math.nan
    seen_seconds: float = math.nan
    confidence: float = 0.0
    challenger: str | None = None
    won: int = 0
    weak: int = 0
    smoothed: tuple[float, ...] = ()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What one window says by itself, without the windows before it."""

    winner: str
    winner_value: float
    strong: bool
    """Whether the winner may be taken up."""
    label_holds: bool
    label_value: float
    """The present label's number."""


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
        if self.uncertain in self.labels:
            raise UsageError(
                f"rule calls {self.uncertain!r} both a label and the absence of one; name the "
                "absence otherwise"
            )
        _check_patience(self.hold, self.smoothing, self.forget_seconds)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "Rule":
        """The rule of a classification bundle: `manifest.decide` over the defaults.

        Raises:
            UsageError: the bundle has no labels, or `decide` has a number no rule knows.
        """
        return _from_manifest(manifest, cls, {"labels": manifest.output.labels})

    @property
    def size(self) -> int:
        """How many numbers a prediction has."""
        return len(self.labels)

    def judge(self, values: Sequence[float], label: str | None) -> Verdict:
        """What the probabilities of one window say."""
        best = max(values)
        winner = self.labels[values.index(best)]
        own = 0.0 if label is None else values[self.labels.index(label)]
        return Verdict(winner, best, best >= self.enter, own >= self.leave, own)


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
        anomaly = manifest.output.task == "reconstruction"
        return _from_manifest(manifest, cls, {"above": "anomaly"} if anomaly else {})

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
        return Verdict(zone, value, True, zone == label, value)


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
    elapsed = time_seconds - state.seen_seconds  # NaN at the beginning
    stale = elapsed < 0 or elapsed > rule.forget_seconds
    if stale or math.isnan(state.since_seconds):
        state = RuleState(since_seconds=time_seconds)
    cause: Cause
    detail: tuple[str | float, ...]
    usable = (quality is GOOD or quality.usable) and math.isfinite(sum(values))
    if usable:
        state, cause, detail = _weigh(rule, state, values, time_seconds)
    else:
        cause = "refused"
        detail = ("prediction is not finite" if quality.usable else f"sensor {quality.words}",)
    label = state.label
    if stale and former is not None and label is None:
        cause = "set_back" if elapsed < 0 else "forgotten"
        detail = (former, abs(elapsed))
    return state, Decision(
        rule.uncertain if label is None else label,
        state.confidence,
        state.since_seconds,
        label != former,
        usable,
        cause,
        detail,
    )


def _weigh(
    rule: Rule | Band, state: RuleState, values: Sequence[float], time_seconds: float
) -> tuple[RuleState, Cause, tuple[str | float, ...]]:
    """One usable window against what held before it."""
    smoothed: tuple[float, ...] = ()
    if rule.smoothing > 0:
        if state.smoothed:
            past, present = rule.smoothing, 1 - rule.smoothing
            mixed = []
            for old, new in zip(state.smoothed, values, strict=True):
                # In Python 3.11 a comprehension is a call of its own, and this is the hot path.
                mixed.append(past * old + present * new)
            values = mixed
        smoothed = tuple(values)
    label = state.label
    verdict = rule.judge(values, label)
    challenger, won = None, 0
    if verdict.strong and verdict.winner != label:
        challenger = verdict.winner
        won = state.won + 1 if challenger == state.challenger else 1
    weak = 0 if label is None or verdict.label_holds else state.weak + 1

    since, held = (
        state.since_seconds,
        verdict.winner_value if label is None else verdict.label_value,
    )
    cause: Cause
    detail: tuple[str | float, ...]
    if challenger is not None and won >= rule.hold:
        was = rule.uncertain if label is None else label
        cause, detail = "taken", (challenger, verdict.winner_value, count_windows(won), was)
        label, since, held = challenger, time_seconds, verdict.winner_value
        challenger, won, weak = None, 0, 0
    elif label is not None and weak >= rule.hold:
        cause, detail = "given_up", (label, held, count_windows(weak))
        label, since, held, weak = None, time_seconds, verdict.winner_value, 0
    elif challenger is not None:
        was = rule.uncertain if label is None else label
        cause, detail = (
            "doubted",
            (was, challenger, verdict.winner_value, won, rule.hold),
        )
    elif label is None:
        cause, detail = "unsure", (verdict.winner, held)
    elif weak > 0:
        cause, detail = "weak", (label, held, weak, rule.hold)
    else:
        cause, detail = "kept", (label, held)
    kept = RuleState(label, since, time_seconds, held, challenger, won, weak, smoothed)
    return kept, cause, detail


def _check_patience(hold: int, smoothing: float, forget_seconds: float) -> None:
    if hold < 1 or not 0 <= smoothing < 1 or not forget_seconds > 0:
        raise UsageError(
            f"rule has hold {hold}, smoothing {smoothing} and forget_seconds {forget_seconds}; "
            "wanted hold ≥ 1, 0 ≤ smoothing < 1 and forget_seconds > 0"
        )


def _from_manifest(manifest: Manifest, kind: type[_AnyRule], words: dict[str, object]) -> _AnyRule:
    """A rule of the manifest's numbers, `forget_seconds` filled in, and of `words`."""
    known = [field.name for field in msgspec.structs.fields(kind) if field.type in (int, float)]
    unknown = sorted(set(manifest.decide) - set(known))
    if unknown:
        raise UsageError(
            f"bundle {manifest.name!r} has decide settings {', '.join(unknown)}; "
            f"a {kind.__name__} knows {', '.join(known)}"
        )
    forget_seconds = _FORGET_HOPS * manifest.input.hop / manifest.input.rate_hz
    numbers = {
        # The manifest holds plain numbers; a count among them may have come as 3.0.
        name: int(number) if float(number).is_integer() else number
        for name, number in manifest.decide.items()
    }
    settings = {"forget_seconds": forget_seconds, **numbers, **words}
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"bundle {manifest.name!r} has decide settings amiss: {error}") from error
