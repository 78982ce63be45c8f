"""The report: one page that needs nothing else, with the plots drawn into it.

Read it as a researcher would: what was reached, at which price in rounds, time and bytes, and how
the devices that fared worst came off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from hedgerow.sim.results import RoundRow, Summary, summarise
from hedgerow.sim.svg import Axis, Line, Range, class_of, line_plot, range_plot
from hedgerow.sim.words import bytes_in_words, joules_in_words, seconds_in_words, time_unit

POINTS_MAX = 240
"""Most points of one line: more would not be seen."""
WIDE, NARROW = (572, 340), (354, 270)


def page(
    title: str, rows: Sequence[RoundRow], *, target: float | None = None, experiment: str = ""
) -> str:
    """The report as HTML. `experiment` is the TOML that was run, shown at the end."""
    summaries = summarise(rows, target)
    template = resources.files("hedgerow.sim").joinpath("report.html").read_text("utf-8")
    parts = {
        "title": escape(title),
        "lead": _lead(summaries),
        "legend": _legend(summaries),
        "plots": "\n".join(_plots(rows, summaries)),
        "table": _table(summaries),
        "experiment": escape(experiment),
    }
    for name, text in parts.items():
        template = template.replace(f"<!--{name}-->", text)
    return template


def curve(
    runs: Sequence[Sequence[RoundRow]], along: Callable[[RoundRow], float], *, log: bool = False
) -> tuple[NDArray[np.float64], ...]:
    """Accuracy over `along` for the seeds of one configuration: x, mean, least and greatest `[n]`.

    Seeds need not share their places: between two of them the line is straight, and it spans what
    all of them reached.
    """
    known = [
        [(along(row), row.accuracy) for row in rows if row.accuracy is not None] for rows in runs
    ]
    curves = [np.array(points, np.float64) for points in known if points]
    if log:
        curves = [points[points[:, 0] > 0] for points in curves]
    curves = [points for points in curves if len(points)]
    if not curves:
        return (np.zeros(0),) * 4
    places = [points[:, 0] for points in curves]
    if all(np.array_equal(places[0], other) for other in places[1:]):
        x = places[0]
    else:
        start, end = max(p[0] for p in places), min(p[-1] for p in places)
        spaced = np.geomspace if log else np.linspace
        x = np.asarray(spaced(start, max(end, start), POINTS_MAX), np.float64)
    every = max(1, -(-len(x) // POINTS_MAX))
    x = np.append(x[:-1:every], x[-1])
    scaled = np.log if log else np.asarray
    at = [np.interp(scaled(x), scaled(points[:, 0]), points[:, 1]) for points in curves]
    stacked = np.stack(at)
    return x, stacked.mean(0), stacked.min(0), stacked.max(0)


def _runs(rows: Sequence[RoundRow]) -> dict[str, list[list[RoundRow]]]:
    runs: dict[str, dict[int, list[RoundRow]]] = {}
    for row in rows:
        runs.setdefault(row.run, {}).setdefault(row.seed, []).append(row)
    return {run: list(seeds.values()) for run, seeds in runs.items()}


def _plots(rows: Sequence[RoundRow], summaries: Sequence[Summary]) -> list[str]:
    percent = Axis("Accuracy", lambda value: f"{value:.0%}")
    size, unit = time_unit(max((summary.seconds for summary in summaries), default=0.0))
    shown = [
        ("By round", Axis("Rounds", lambda v: f"{v:,.0f}"), lambda row: float(row.round)),
        ("By virtual time", Axis(f"Virtual time, {unit}", _number), lambda row: row.seconds / size),
        (
            "By bytes sent up",
            Axis("Bytes up, all devices", bytes_in_words, log=True),
            lambda row: float(row.bytes_up),
        ),
    ]
    grouped = _runs(rows)
    parts = []
    for heading, axis, along in shown:
        lines = [
            Line(run, place, *curve(seeds, along, log=axis.log))
            for place, (run, seeds) in enumerate(grouped.items())
        ]
        described = f"Accuracy, {heading.lower()}: " + _described(summaries)
        drawn = [
            line_plot(lines, axis, percent, width=width, height=height, described=described)
            for width, height in (WIDE, NARROW)
        ]
        parts.append(_section(heading, "Accuracy on test data", drawn))
    ranges = _ranges(grouped)
    if ranges:
        described = "Accuracy of the devices at the end: " + _described(summaries)
        drawn = [
            range_plot(ranges, width=width, described=described) for width, _ in (WIDE, NARROW)
        ]
        about = (
            "At the end, each on data of its own. Bar: 10th to 90th percentile; dot: median; "
            "cross: mean of the worst tenth"
        )
        parts.append(_section("By device", about, drawn))
    return parts


def _ranges(grouped: dict[str, list[list[RoundRow]]]) -> list[Range]:
    """Each configuration's devices at the end of its runs, means over its seeds."""
    names = ("device_p10", "device_median", "device_p90", "device_worst_decile")
    out = []
    for place, (run, seeds) in enumerate(grouped.items()):
        last = [rows[-1] for rows in seeds if rows[-1].device_median is not None]
        if last:
            low, median, high, worst = (
                float(np.mean([getattr(row, name) for row in last])) for name in names
            )
            out.append(Range(run, place, low, median, high, worst))
    return out


def _section(heading: str, about: str, drawn: Sequence[str]) -> str:
    wide, narrow = drawn
    return (
        f"<figure><h2>{escape(heading)}</h2><p>{escape(about)}.</p>"
        f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'
    )


def _lead(summaries: Sequence[Summary]) -> str:
    """The result in one sentence or two."""
    known = [summary for summary in summaries if summary.accuracy is not None]
    if not known:
        return "No round has been measured yet."
    best = max(known, key=lambda summary: summary.accuracy or 0.0)
    name = "" if len(known) == 1 else f" with <b>{escape(best.run)}</b>"
    text = (
        f"<b>{best.accuracy:.1%}</b> after {best.rounds:,} rounds{name}: "
        f"{seconds_in_words(best.seconds)} of virtual time, {bytes_in_words(best.bytes_up)} up and "
        f"{bytes_in_words(best.bytes_down)} down."
    )
    timed = [summary for summary in known if summary.seconds_to_target is not None]
    if len(timed) > 1:
        first = min(timed, key=lambda summary: summary.seconds_to_target or 0.0)
        text += (
            f" First at {first.target:.0%}: <b>{escape(first.run)}</b>, after "
            f"{seconds_in_words(first.seconds_to_target or 0.0)}."
        )
    return text


def _legend(summaries: Sequence[Summary]) -> str:
    keys = [
        f'<li class="{class_of(place)}"><svg width="26" height="12" aria-hidden="true">'
        f'<path class="line" d="M1 6H25"/></svg>{escape(summary.run)}</li>'
        for place, summary in enumerate(summaries)
    ]
    seeds = max((summary.seeds for summary in summaries), default=1)
    note = f"<p>Line: mean of {seeds} seeds; band: from least to greatest.</p>" if seeds > 1 else ""
    return f"<ul>{''.join(keys)}</ul>{note}"


def _table(summaries: Sequence[Summary]) -> str:
    target = next((s.target for s in summaries if s.target is not None), None)
    heads = ["Configuration", "Accuracy", "Worst tenth", "Time", "Up", "Down", "Energy", "Updates"]
    if target is not None:
        heads += [f"Rounds to {target:.0%}", f"Time to {target:.0%}", f"Up to {target:.0%}"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(_row(place, summary, target) for place, summary in enumerate(summaries))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(place: int, summary: Summary, target: float | None) -> str:
    cells = [
        _percent(summary.accuracy),
        _percent(summary.worst_decile),
        seconds_in_words(summary.seconds),
        bytes_in_words(summary.bytes_up),
        bytes_in_words(summary.bytes_down),
        joules_in_words(summary.joules),
        f"{summary.updates:,.0f}",
    ]
    if target is not None:
        rounds, seconds = summary.rounds_to_target, summary.seconds_to_target
        sent = summary.bytes_up_to_target
        cells += [
            "–" if rounds is None else f"{rounds:,.0f}",
            "–" if seconds is None else seconds_in_words(seconds),
            "–" if sent is None else bytes_in_words(sent),
        ]
    name = f'<th scope="row" class="{class_of(place)}"><i></i>{escape(summary.run)}</th>'
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _described(summaries: Sequence[Summary]) -> str:
    return "; ".join(
        f"{s.run} ends at {s.accuracy:.1%}" for s in summaries if s.accuracy is not None
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:g}"
