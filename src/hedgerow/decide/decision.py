"""A decision and its reason."""

from typing import Literal

import msgspec

Cause = Literal[
    "taken", "kept", "doubted", "weak", "given_up", "unsure", "refused", "forgotten", "set_back"
]

_WORDS: dict[Cause, str] = {
    "taken": "{0} at {1} for {2}; was {3}",
    "kept": "{0} at {1}",
    "doubted": "{0} so far; {1} at {2} for {3} of {4} windows",
    "weak": "{0} so far; fell to {1} for {2} of {3} windows",
    "given_up": "{0} given up at {1} after {2}",
    "unsure": "nothing clear; {0} is nearest at {1}",
    "refused": "{0}: not decided",
    "forgotten": "no usable window for {1} s: {0} is forgotten",
    "set_back": "the clock went back {1} s: {0} is forgotten",
}


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What holds after a window, and why.

    `confidence` is the number decided on: the (smoothed) probability of `label`, of the likeliest
    label when none holds, or for a `Band` the (smoothed) value itself. `since_seconds` is the start
    of the window with which `label` came to hold. `changed`: another label held before this window.
    `decided` is False when the window could not be used and the label is only carried on. `cause`
    is a stable word to count by; `detail` completes the sentence that `reason` makes of it.
    """

    label: str
    confidence: float
    since_seconds: float
    changed: bool
    decided: bool
    cause: Cause
    detail: tuple[str | float, ...]

    @property
    def reason(self) -> str:
        """The reason in words, made when asked for: "squat at 0.93 for 3 windows; was lunge"."""
        return _WORDS[self.cause].format(
            *(_number(part) if isinstance(part, float) else part for part in self.detail)
        )


def _number(value: float) -> str:
    """Two decimals where they say enough."""
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:.5g}" if abs(value) >= 100 else f"{value:.2g}"


def count_windows(count: int) -> str:
    """A number of windows in words."""
    return "1 window" if count == 1 else f"{count} windows"
