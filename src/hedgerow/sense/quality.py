"""Whether the sensor behind a window can be believed: gaps, stuck, saturated, not finite."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema


class Quality(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is odd about one window; channels are named as in the schema."""

    after_gap: bool = False
    """The first window after samples were lost."""
    not_finite: tuple[str, ...] = ()
    """Channels with NaN or infinity."""
    stuck: tuple[str, ...] = ()
    """Channels that did not change for the whole window."""
    saturated: tuple[str, ...] = ()
    """Channels that lay at the end of their range too often."""

    @property
    def usable(self) -> bool:
        """Whether to decide on and learn from the window. A gap before it does not harm it."""
        return not (self.not_finite or self.stuck or self.saturated)

    @property
    def words(self) -> str:
        """What is odd, such as "stuck on gyroscope x, after a gap"; "good" when nothing is."""
        parts = [
            f"{what} on {', '.join(channel.replace('_', ' ') for channel in channels)}"
            for what, channels in (
                ("not finite", self.not_finite),
                ("stuck", self.stuck),
                ("saturated", self.saturated),
            )
            if channels
        ]
        if self.after_gap:
            parts.append("after a gap")
        return ", ".join(parts) or "good"


_SORTED_MAX = 1024
"""Numbers in a window up to which sorting them tells soonest that nothing is odd."""
_LEAST, _MOST = -math.inf, math.inf
GOOD = Quality()
GOOD_AFTER_GAP = Quality(after_gap=True)


class QualityLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as odd.

    `ranges` holds what each channel can measure, (least, most) in its unit, infinite where there is
    no end; empty: unknown, then the least and largest value of a window stand for it. A channel is
    saturated when at least `saturated_share` of a window lies at one end; 1 never asks. `may_rest`
    says that a constant channel is no fault, as with a meter or a thermostat.
    """

    ranges: tuple[tuple[float, float], ...] = ()
    saturated_share: float = 0.25
    may_rest: bool = False


class QualityCheck:
    """Judges windows `[C, T]` of one schema, one at a time."""

    def __init__(self, schema: InputSchema, limits: QualityLimits) -> None:
        """Raises UsageError when the limits do not fit the schema's channels."""
        count = len(schema.channels)
        if limits.ranges and len(limits.ranges) != count:
            raise UsageError(
                f"quality limits have {len(limits.ranges)} ranges for {count} channels; give one "
                "for each channel, or none"
            )
        if not 0 < limits.saturated_share <= 1 or any(low >= high for low, high in limits.ranges):
            raise UsageError(
                f"quality limits have ranges {limits.ranges} and saturated_share "
                f"{limits.saturated_share}; wanted (least, most) and a share above 0, at most 1"
            )
        self._channels = schema.channels
        self._ranges = limits.ranges
        # A window of one sample cannot show a change.
        self._may_rest = limits.may_rest or schema.window == 1
        self._ask_saturated = limits.saturated_share < 1
        # One or two samples at an end are a peak, not a plateau.
        self._plateau = max(3, math.ceil(limits.saturated_share * schema.window))
        self._ends = np.empty((2, count, 1), np.float32)
        self._least, self._most = self._ends[0, :, 0], self._ends[1, :, 0]
        self._at_ends = np.empty((2, count, schema.window), np.bool_)
        self._sorted: NDArray[np.float32] | None = None
        window, plateau = schema.window, self._plateau
        if count * window <= _SORTED_MAX and 2 * plateau <= window and not self._ranges:
            self._sorted = np.empty((count, window), np.float32)
            # Four columns of it as [C, 2, 2]: the least and the one a plateau's length inside of
            # it, then the same from the other end.
            steps = 4 * window, 4 * (window - plateau), 4 * (plateau - 1)
            self._corners = np.ndarray((count, 2, 2), np.float32, self._sorted, 0, steps)

    def __call__(self, samples: NDArray[np.float32], after_gap: bool) -> Quality:
        """The quality of one window, samples `[C, T]`."""
        ordered = self._sorted
        if ordered is None:
            fine = self._fine_by_comparing(samples)
        else:
            # For a short window, sorting it tells soonest that nothing is odd. A channel lies at an
            # end for a plateau's length when it still has that value so far inside.
            ordered[...] = samples
            ordered.sort(1)  # NaN to the end
            fine = True
            for (low, inside_low), (inside_high, high) in self._corners.tolist():
                if not (_LEAST < low < inside_low and inside_high < high < _MOST):
                    fine = False
        if fine:
            return GOOD_AFTER_GAP if after_gap else GOOD
        return self._judge(samples, after_gap)

    def many(self, samples: NDArray[np.float32], *, after_gap: bool) -> list[Quality]:
        """The quality of windows in a row, samples `[n, C, T]`; a gap lies before the first."""
        least, most = np.minimum.reduce(samples, 2), np.maximum.reduce(samples, 2)  # NaN spreads
        fine = bool(np.all((least > _LEAST) & (least < most) & (most < _MOST)))
        if fine and self._ranges:
            low, high = np.array(self._ranges, np.float32).T
            fine = not (self._ask_saturated and bool(np.any((least <= low) | (most >= high))))
        elif fine and self._ask_saturated:
            at_ends = np.count_nonzero(samples == least[:, :, None])
            at_ends += np.count_nonzero(samples == most[:, :, None])
            # Every window touches its ends once; too few beyond that are too few for any one.
            fine = at_ends - 2 * least.size < self._plateau - 1
        if fine:
            first = GOOD_AFTER_GAP if after_gap else GOOD
            return [first, *([GOOD] * (len(samples) - 1))]
        return [self(part, after_gap=after_gap and at == 0) for at, part in enumerate(samples)]

    def _fine_by_comparing(self, samples: NDArray[np.float32]) -> bool:
        """Whether nothing is odd; False may be wrong."""
        np.minimum.reduce(samples, 1, out=self._least)  # NaN spreads
        np.maximum.reduce(samples, 1, out=self._most)
        least, most = self._least.tolist(), self._most.tolist()
        for low, high in zip(least, most, strict=True):
            if not -math.inf < low < high < math.inf:
                return False
        return not (self._ask_saturated and self._may_be_saturated(samples, least, most))

    def _may_be_saturated(
        self, samples: NDArray[np.float32], least: list[float], most: list[float]
    ) -> bool:
        """Whether a closer look is worth its time."""
        if self._ranges:
            return any(
                low <= bottom or high >= top
                for low, high, (bottom, top) in zip(least, most, self._ranges, strict=True)
            )
        at_ends = np.equal(samples, self._ends, self._at_ends)
        if np.count_nonzero(at_ends) < self._plateau:
            return False  # too few over all channels are too few for any one
        return bool(np.add.reduce(at_ends, 2, dtype=np.int32).max() >= self._plateau)

    def _judge(self, samples: NDArray[np.float32], after_gap: bool) -> Quality:
        """Names the channels at fault."""
        least = np.minimum.reduce(samples, 1)
        most = np.maximum.reduce(samples, 1)
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(samples), axis=1)
        rests = np.logical_and(finite, least == most)
        saturated = np.zeros(len(samples), np.bool_)
        if self._ask_saturated:
            low, high = least[:, None], most[:, None]
            if self._ranges:
                low, high = np.array(self._ranges, np.float32).T[:, :, None]
            often = np.maximum((samples <= low).sum(axis=1), (samples >= high).sum(axis=1))
            # At a known end a constant channel is both; without one it is only stuck.
            saturated = finite & (often >= self._plateau)
            if not self._ranges:
                saturated &= ~rests
        return Quality(
            after_gap=after_gap,
            not_finite=self._names(~finite),
            stuck=() if self._may_rest else self._names(rests),
            saturated=self._names(saturated),
        )

    def _names(self, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(name for name, hit in zip(self._channels, chosen.tolist(), strict=True) if hit)
