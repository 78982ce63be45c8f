"""What a model runs with on this machine, and how that came about, in words."""

import msgspec

from hedgerow.model.precision import Precision

TEST_ROWS = 16
"""Inputs that providers are compared on."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried. `difference` is the largest from the processor's answers over the
    largest answer; `microseconds` is the best of a few calls with a batch of `TEST_ROWS`.
    """

    what: str
    taken: bool
    reason: str
    difference: float | None = None
    microseconds: float | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a model runs with, and how that came about."""

    precision: Precision
    provider: str
    tried: tuple[Tried, ...] = ()

    @property
    def reasons(self) -> str:
        """All that was tried, in one line."""
        return "; ".join(
            f"{each.what}{'' if each.taken else ' not taken'}: {each.reason}" for each in self.tried
        )
