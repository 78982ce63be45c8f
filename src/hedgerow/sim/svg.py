"""Line plots and range plots as inline SVG: no library, no script, colours by CSS class.

A plot is drawn for one width in pixels and never scaled, so that its words keep their size; the
page holds one drawing for a phone and one for a desk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

COLOURS = 8
"""Classes `c0` to `c7`; a ninth line begins again, dashed."""
THIN, RIM = 2.0, 1.6
"""Lines below are wider than those on top, so that one still shows where they coincide."""
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 46.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One configuration: `middle [n]` over `x [n]`, with its band from `low` to `high`."""

    label: str
    place: int
    x: Floats
    middle: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Range:
    """One configuration's devices: where they lie from 0 to 1, and the mean of the worst tenth."""

    label: str
    place: int
    low: float
    median: float
    high: float
    worst: float


@dataclass(frozen=True)
class Axis:
    """From data to ticks: `words` says a value, `log` draws decades."""

    title: str
    words: Callable[[float], str]
    log: bool = False


def class_of(place: int) -> str:
    """The classes of a configuration's colour and dash."""
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def line_plot(
    lines: Sequence[Line], x_axis: Axis, y_axis: Axis, *, width: int, height: int, described: str
) -> str:
    """The lines in one pair of axes; each band is drawn below every line."""
    known = [line for line in lines if len(line.x)]
    frame = _Frame(known, x_axis, y_axis, width, height)
    bands = [_band(frame, line) for line in known if np.any(line.high > line.low)]
    strokes = [
        _stroke(frame, line, THIN + RIM * (len(known) - 1 - k) / max(len(known) - 1, 1))
        for k, line in enumerate(known)
    ]
    return _figure([*frame.drawn(), *bands, *strokes], width, height, described)


def range_plot(ranges: Sequence[Range], *, width: int, described: str) -> str:
    """One row a configuration: a bar from the 10th to the 90th percentile of its devices."""
    row, axis_height = 46, 40
    height = row * len(ranges) + axis_height
    lowest = min((min(r.low, r.worst) for r in ranges), default=0.0)
    lowest = max(lowest - 0.02, 0.0)
    steps = 10 if lowest >= 0.4 and width >= 500 else 5  # from 0 to 1
    start = math.floor(lowest * steps) / steps
    left, right = 8.0, 14.0

    def across(value: float) -> float:
        return left + (value - start) / (1 - start) * (width - left - right)

    parts: list[str] = []
    for tick in np.arange(math.floor(lowest * steps), steps + 1) / steps:
        x = across(float(tick))
        anchor = "end" if tick == 1.0 else "start" if tick == start else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} 4V{height - axis_height + 4}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - axis_height + 22}" '
            f'text-anchor="{anchor}">{tick:.0%}</text>'
        )
    for place, shown in enumerate(ranges):
        parts.append(_range(shown, across, place * row + 18.0))
    return _figure(parts, width, height, described)


def _range(shown: Range, across: Callable[[float], float], y: float) -> str:
    low, median, high = across(shown.low), across(shown.median), across(shown.high)
    worst, bar = across(shown.worst), y + 14
    told = (
        f"{shown.label}: median {shown.median:.1%}, 10th to 90th percentile {shown.low:.1%} to "
        f"{shown.high:.1%}, worst tenth {shown.worst:.1%}"
    )
    return (
        f'<g class="{class_of(shown.place)}"><title>{escape(told)}</title>'
        f'<text class="name" x="8" y="{y:.1f}">{escape(shown.label)}</text>'
        f'<path class="thin" d="M{min(worst, low):.1f} {bar:.1f}H{low:.1f}"/>'
        f'<path class="thick" d="M{low:.1f} {bar:.1f}H{high:.1f}"/>'
        f'<circle class="dot" cx="{median:.1f}" cy="{bar:.1f}" r="5"/>'
        f'<path class="worst" d="M{worst - 4.5:.1f} {bar - 4.5:.1f}l9 9m0 -9l-9 9"/></g>'
    )


class _Frame:
    """Axes, their ticks, and where a value lies in pixels."""

    def __init__(
        self, lines: Sequence[Line], x_axis: Axis, y_axis: Axis, width: int, height: int
    ) -> None:
        self.x_axis, self.y_axis, self.width, self.height = x_axis, y_axis, width, height
        xs = np.concatenate([line.x for line in lines]) if lines else np.array([0.0, 1.0])
        lows = np.concatenate([line.low for line in lines]) if lines else np.zeros(1)
        highs = np.concatenate([line.high for line in lines]) if lines else np.ones(1)
        if x_axis.log:
            xs = xs[xs > 0] if np.any(xs > 0) else np.ones(1)
            self.x_from, self.x_to = math.log10(xs.min()), math.log10(xs.max())
        else:
            self.x_from, self.x_to = min(float(xs.min()), 0.0), float(xs.max())
        if self.x_to - self.x_from < 1e-9:
            self.x_to = self.x_from + 1.0
        self.y_ticks = ticks(float(lows.min()), float(highs.max()), 6)
        self.y_from, self.y_to = self.y_ticks[0], self.y_ticks[-1]

    def x(self, values: Floats) -> Floats:
        """Pixels from the left."""
        scaled = np.log10(np.maximum(values, 1e-300)) if self.x_axis.log else values
        share = (scaled - self.x_from) / (self.x_to - self.x_from)
        return np.asarray(LEFT + np.clip(share, 0, 1) * (self.width - LEFT - RIGHT))

    def y(self, values: Floats) -> Floats:
        """Pixels from the top."""
        share = (values - self.y_from) / (self.y_to - self.y_from)
        return np.asarray(self.height - BOTTOM - share * (self.height - TOP - BOTTOM))

    def drawn(self) -> list[str]:
        """Grid, ticks and titles."""
        right, floor = self.width - RIGHT, self.height - BOTTOM
        parts = []
        for value, y in zip(self.y_ticks, self.y(np.array(self.y_ticks)), strict=True):
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            word = escape(self.y_axis.words(value))
            parts.append(
                f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{word}</text>'
            )
        for value, x in self._x_ticks():
            word = escape(self.x_axis.words(value))
            anchor = "end" if x > right - 14 else "middle"
            parts.append(f'<path class="mark" d="M{x:.1f} {floor}v5"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{floor + 19}" '
                f'text-anchor="{anchor}">{word}</text>'
            )
        parts.append(f'<path class="axis" d="M{LEFT} {floor}H{right}"/>')
        middle = (LEFT + right) / 2
        title = escape(self.x_axis.title)
        parts.append(
            f'<text class="title" x="{middle:.1f}" y="{self.height - 6}" '
            f'text-anchor="middle">{title}</text>'
        )
        return parts

    def _x_ticks(self) -> list[tuple[float, float]]:
        wanted = max(2, int((self.width - LEFT - RIGHT) / 78))
        if self.x_axis.log:
            values = log_ticks(self.x_from, self.x_to, wanted)
        else:
            values = [v for v in ticks(self.x_from, self.x_to, wanted) if v <= self.x_to * 1.0001]
        return list(zip(values, self.x(np.array(values)).tolist(), strict=True))


def ticks(start: float, end: float, wanted: int) -> list[float]:
    """Round numbers in steps of 1, 2 or 5, from at most `start` to at least `end`."""
    step = nice_step((end - start) / max(wanted - 1, 1))
    first, last = math.floor(start / step + 1e-9), math.ceil(end / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def nice_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is at least `least`."""
    if not least > 0:
        return 0.1
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= least * (1 - 1e-9))


def log_ticks(start: float, end: float, wanted: int) -> list[float]:
    """Powers of ten between 10^start and 10^end, with 2 and 5 between them where there is room."""
    factors: tuple[float, ...]
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        values = [
            factor * 10.0**power
            for power in range(math.floor(start), math.ceil(end) + 1)
            for factor in factors
        ]
        values = [v for v in values if start - 1e-9 <= math.log10(v) <= end + 1e-9]
        if len(values) <= wanted:
            break
    every = max(1, math.ceil(len(values) / wanted))
    return values[::every]


def _stroke(frame: _Frame, line: Line, width: float) -> str:
    points = _points(frame.x(line.x), frame.y(line.middle))
    last_x, last_y = points.split(" ")[-1].split(",")
    title = f"<title>{escape(line.label)}</title>"
    return (
        f'<g class="{class_of(line.place)}">{title}<polyline class="line" '
        f'points="{points}" stroke-width="{width:.2f}"/>'
        f'<circle class="end" cx="{last_x}" cy="{last_y}" r="3.5"/></g>'
    )


def _band(frame: _Frame, line: Line) -> str:
    x = frame.x(line.x)
    there, back = _points(x, frame.y(line.high)), _points(x[::-1], frame.y(line.low)[::-1])
    return f'<polygon class="band {class_of(line.place)}" points="{there} {back}"/>'


def _points(x: Floats, y: Floats) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _figure(parts: Sequence[str], width: int, height: int, described: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(described, quote=True)}">{"".join(parts)}</svg>'
    )
