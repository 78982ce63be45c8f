"""When a model may take the place of another: the rules, the evidence, and the verdict on it.

Three errors are bounded, whatever the number of windows and however often one looks
(`hedgerow.decide.sequential`): taking over though worse by more than the margin, being refused
though no worse, being rolled back though no worse. What is assumed stands there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec

from hedgerow.decide.sequential import Wager, mean_above, mean_below

Error: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=0.5)]


class TrialRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a model may take the place of the one in use, and when it loses it again.

    Where windows have labels (or the model is its own judge, as an autoencoder is), it takes over
    once it is shown to be worse by less than `margin`, a share of the loss. Without labels it takes
    over once it is shown to answer otherwise in less than `change_max` of all windows: it cannot be
    worse by more than that. A model worse than that takes over with a chance of at most `error`; a
    model that is no worse is refused, or rolled back, with a chance of at most `error` each.

    `block_windows` neighbouring windows count as one value. `slower_max` is how many times as long
    as the one in use it may take. It runs in shadow for at most `shadow_seconds`, and is watched
    for `watch_seconds` and `watch_windows` windows. An agent that starts `starts_max` times in a
    trial without one comparison in between blames the model.
    """

    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.03
    change_max: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    error: Error = 0.05
    block_windows: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 4
    slower_max: Annotated[float, msgspec.Meta(gt=1, le=1000)] = 3.0
    shadow_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e8)] = 7 * 86_400.0
    watch_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e8)] = 3_600.0
    watch_windows: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 500
    starts_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that the windows of one phase have shown: four wagers, and sums for people to read."""

    no_worse: Wager
    """Against "its loss is larger by `margin` or more"."""
    worse: Wager
    """Against "its loss is no larger"."""
    alike: Wager
    """Against "it answers otherwise in `change_max` of the windows or more"."""
    unlike: Wager
    """Against "it answers otherwise in at most `change_max`"."""
    windows: int = 0
    judged: int = 0
    loss_sum: float = 0.0
    change_sum: float = 0.0

    @classmethod
    def none(cls, rules: TrialRules) -> Evidence:
        """Before the first window."""
        return cls(
            no_worse=mean_below(rules.margin, 1.0),
            worse=mean_above(0.0, -1.0),
            alike=mean_below(rules.change_max, 1.0),
            unlike=mean_above(rules.change_max, 0.0),
        )

    def after(
        self, losses: Sequence[float], changes: Sequence[float], rules: TrialRules
    ) -> Evidence:
        """With what one comparison showed, as `Compared` has it."""
        return Evidence(
            no_worse=self.no_worse.after(rules.margin - loss for loss in losses),
            worse=self.worse.after(losses),
            alike=self.alike.after(rules.change_max - change for change in changes),
            unlike=self.unlike.after(change - rules.change_max for change in changes),
            windows=self.windows + len(changes) * rules.block_windows,
            judged=self.judged + len(losses) * rules.block_windows,
            loss_sum=self.loss_sum + sum(losses) * rules.block_windows,
            change_sum=self.change_sum + sum(changes) * rules.block_windows,
        )

    @property
    def loss(self) -> float:
        """How much larger its mean loss was, from −1 to 1; 0 where nothing was judged."""
        return self.loss_sum / self.judged if self.judged else 0.0

    @property
    def changed(self) -> float:
        """Share of windows that it answered otherwise."""
        return self.change_sum / self.windows if self.windows else 0.0


def verdict(
    evidence: Evidence, rules: TrialRules, *, last: bool = False
) -> tuple[Literal["", "over", "worse", "unlike", "undecided"], str]:
    """What evidence in shadow says, and why: take over, or what speaks against it, or nothing yet.

    As soon as the truth of some windows is known, it decides. If it has not by the `last` moment, a
    model that answers nearly always the same may take over none the less. Each of the two ways to
    take over has half of the error.
    """
    judged, half = evidence.judged > 0, rules.error / 2
    if evidence.worse.shows(rules.error):
        return "worse", worse_by(evidence)
    if evidence.no_worse.shows(half):
        return "over", (
            f"worse by less than {100 * rules.margin:g} points: by {100 * evidence.loss:.1f} "
            f"on {evidence.judged} windows whose truth is known"
        )
    if judged and not last:
        return "", ""
    changed = f"{100 * evidence.changed:.1f}% of {evidence.windows} windows"
    if evidence.alike.shows(half):
        share = f"less than {100 * rules.change_max:g}%"
        return "over", f"answers otherwise in {share} of windows: in {changed}"
    if not judged and evidence.unlike.shows(rules.error):
        return "unlike", (
            f"answers otherwise in {changed}, and no label shows that it is right; label some "
            "windows and offer it again"
        )
    if last:
        return "undecided", (
            f"{evidence.windows} windows, {evidence.judged} of known truth, showed neither that it "
            "is no worse nor that it is"
        )
    return "", ""


def worse_by(evidence: Evidence) -> str:
    """In words, for people."""
    return (
        f"worse by {100 * evidence.loss:.1f} points on {evidence.judged} windows whose truth is "
        "known"
    )
