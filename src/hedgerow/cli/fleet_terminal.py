"""The fleet in a terminal: a live view, the final table, and one plain line a round.

Names, labels and reasons come from devices, so they go through `printable`: no escape sequence of
theirs reaches the terminal, and none of it is read as rich markup.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import HORIZONTALS
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hedgerow.protocol.view import DeviceView, FleetView, WearerRow

WIDE_COLUMNS = 110
"""From here on there is room for the reason of a decision and for the personalised model."""

LINES_AROUND = 9
"""What the view needs besides its devices: header, totals, table head and a line to spare."""

NAME_COLUMNS = 24
"""The longest name in the final table, so that it fits 80 columns."""

LEAF, HIP, SOFT, OCHRE = "green", "red", "dim", "yellow"
SPARKS = "▁▂▃▄▅▆▇█"
PHASE_STYLES = {
    "training": OCHRE,
    "invited": OCHRE,
    "counted": LEAF,
    "refused": HIP,
    "declined": "magenta",
    "away": SOFT,
}
PHASES = {
    "idle": "waiting for devices",
    "open": "training",
    "aggregating": "aggregating",
    "resting": "resting",
    "replaying": "picking up where it left off",
    "done": "done",
}


def render(view: FleetView) -> RenderableType:
    """The whole fleet, for `rich.live.Live`: fits the console, from 80 columns and 24 rows."""
    return _Fleet(view)


def final_table(view: FleetView) -> Table:
    """Accuracy per wearer, with the mean and the worst below."""
    table = Table(
        title="Accuracy on held-out time",
        title_style="bold",
        box=HORIZONTALS,
        caption="pooled: the forbidden upper bound, for which every recording is handed over",
        caption_style=SOFT,
        border_style=SOFT,
        header_style="bold",
    )
    table.add_column(
        "wearer", no_wrap=True, overflow="ellipsis", vertical="bottom", max_width=NAME_COLUMNS
    )
    for heading, style in (
        ("alone,\non own", None),
        ("alone,\non others", None),
        ("federated", LEAF),
        ("person-\nalised", LEAF),
        ("pooled", SOFT),
    ):
        table.add_column(heading, justify="right", style=style, vertical="bottom")
    for row in view.table:
        table.add_row(Text(printable(row.wearer)), *map(percent, _values(row)))
    if view.table:
        columns = list(zip(*map(_values, view.table), strict=True))
        table.add_section()
        means = [sum(column) / len(column) for column in columns]
        table.add_row("mean", *map(percent, means), style="bold")
        table.add_row("worst", *map(percent, map(min, columns)), style="bold")
    return table


def plain_line(view: FleetView) -> str:
    """The last finished round in one line without colour, for logs and pipes."""
    if not view.rounds:
        return f"{printable(view.fleet)}: no round has finished yet"
    last = view.rounds[-1]
    planned = f" of {view.rounds_planned}" if view.rounds_planned > 0 else ""
    parts = [f"round {last.round}{planned}"]
    if last.outcome != "published":
        parts.append(printable(last.outcome))
    parts += [
        f"{last.counted} counted",
        seconds(last.seconds),
        f"{human_bytes(last.update_bytes)} of updates",
    ]
    if last.accuracy_mean is not None:
        parts.append(
            f"accuracy {percent(last.accuracy_mean)} mean, {percent(last.accuracy_worst)} worst"
        )
    return " · ".join(parts)


def printable(text: str) -> str:
    """`text` with everything that is no visible character (escapes, bidi marks) as U+FFFD."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def human_bytes(count: int) -> str:
    """Bytes in decimal units: 640000 is "640 kB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def percent(share: float | None) -> str:
    """0.951 is "95.1%"; unknown is a dash."""
    return "–" if share is None else f"{100 * share:.1f}%"


def seconds(count: float) -> str:
    """Seconds below two minutes, minutes and seconds from there on."""
    if count < 120:
        return f"{count:.2f} s" if count < 1 else f"{count:.1f} s"
    return f"{int(count) // 60} min {int(count) % 60} s"


def sparkline(values: Sequence[float], columns: int) -> str:
    """The last `columns` values as little bars between the least and the greatest of them."""
    shown = values[-columns:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    top = len(SPARKS) - 1
    return "".join(SPARKS[round(top * (v - low) / span) if span > 0 else top] for v in shown)


@dataclass(frozen=True)
class _Fleet:
    view: FleetView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, columns = self.view, options.max_width
        yield _title(view)
        yield _progress(view, columns)
        yield _accuracy(view, columns)
        yield _totals(view)
        outcomes = _outcomes(view)
        if outcomes:
            yield outcomes
        yield Text("")
        if not view.devices:
            yield Text("No device has joined yet.", style=SOFT)
            return
        rows = max(1, (options.height or console.size.height) - LINES_AROUND)
        shown = view.devices if len(view.devices) <= rows else view.devices[: rows - 1]
        yield _devices(shown, wide=columns >= WIDE_COLUMNS)
        if len(shown) < len(view.devices):
            here = sum(device.online for device in view.devices)
            left = len(view.devices) - len(shown)
            yield Text(f"… and {left} more; {here} of {len(view.devices)} here", style=SOFT)


def _title(view: FleetView) -> Text:
    text = _line("Hedgerow", "bold green")
    text.append(f"  {printable(view.fleet)}  ", SOFT)
    planned = f" of {view.rounds_planned}" if view.rounds_planned > 0 else ""
    over = view.finished or view.phase == "done"
    if over:
        text.append(f"{view.rounds_done}{planned} rounds done", "bold")
    elif view.round > 0:
        text.append(f"Round {view.round}{planned}", "bold")
    else:
        text.append("Not started yet", "bold")
    if not over:
        text.append(f"  {PHASES.get(view.phase, printable(view.phase))}", OCHRE)
    if view.phase == "open":
        counted = sum(device.phase == "counted" for device in view.devices)
        text.append(f", {counted} counted", OCHRE)
    return text


def _progress(view: FleetView, columns: int) -> Text:
    planned = max(view.rounds_planned, view.rounds_done, 1)
    grown = columns * view.rounds_done // planned
    return _line("━" * grown, LEAF).append("─" * (columns - grown), SOFT)


def _accuracy(view: FleetView, columns: int) -> Text:
    means = [r.accuracy_mean for r in view.rounds if r.accuracy_mean is not None]
    if not means:
        return _line("accuracy  ", SOFT).append("not measured yet")
    measured = next(r for r in reversed(view.rounds) if r.accuracy_mean is not None)
    text = _line("accuracy  ", SOFT)
    text.append(sparkline(means, columns - 46), LEAF).append("  ")
    text.append(f"{percent(measured.accuracy_mean)} mean", "bold")
    return text.append("  ").append(f"{percent(measured.accuracy_worst)} worst", HIP)


def _totals(view: FleetView) -> Text:
    text = _line("left ", SOFT).append(human_bytes(view.bytes_up), "bold")
    text.append("   stayed ", SOFT).append(human_bytes(view.bytes_kept), "bold green")
    text.append("   came back ", SOFT).append(human_bytes(view.bytes_down))
    return text.append("   time ", SOFT).append(seconds(view.seconds))


def _outcomes(view: FleetView) -> Text | None:
    """What was not counted, by reason; None when everything was."""
    others = {code: n for code, n in view.outcomes.items() if code != "counted" and n > 0}
    if not others:
        return None
    words = ", ".join(f"{n} {printable(code).replace('_', ' ')}" for code, n in others.items())
    return _line("not counted ", SOFT).append(words, HIP)


def _devices(devices: Sequence[DeviceView], *, wide: bool) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style=SOFT)
    for column in _COLUMNS:
        if wide or not column.wide_only:
            table.add_column(
                column.heading,
                justify="right" if column.number else "left",
                ratio=column.ratio,
                no_wrap=True,
                overflow="ellipsis",
            )
    for device in devices:
        cells = [c.cell(device) for c in _COLUMNS if wide or not c.wide_only]
        table.add_row(*cells, style=None if device.online else SOFT)
    return table


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[DeviceView], Text]
    ratio: int | None = None
    number: bool = False
    wide_only: bool = False


def _decision(device: DeviceView) -> Text:
    return Text(printable(device.label)) if device.label else Text("no decision yet", SOFT)


def _confidence(device: DeviceView) -> Text:
    if not device.label:
        return Text("")
    full = round(6 * max(0.0, min(1.0, device.confidence)))
    bar = Text("▪" * full, LEAF).append("▪" * (6 - full), SOFT)
    return bar.append(f" {100 * device.confidence:3.0f}%", "default")


_COLUMNS = (
    _Column("device", lambda d: Text(printable(d.name) or d.id[:8]), ratio=3),
    _Column("decides", _decision, ratio=3),
    _Column("confidence", _confidence),
    _Column("because", lambda d: Text(printable(d.reason), SOFT), ratio=8, wide_only=True),
    _Column("phase", lambda d: Text(printable(d.phase), PHASE_STYLES.get(d.phase, ""))),
    _Column("acc.", lambda d: Text(percent(d.accuracy)), number=True),
    _Column(
        "personal", lambda d: Text(percent(d.accuracy_personalised)), number=True, wide_only=True
    ),
    _Column("sent", lambda d: Text(human_bytes(d.bytes_up)), number=True),
    _Column("kept", lambda d: Text(human_bytes(d.bytes_kept), LEAF), number=True),
)


def _line(text: str, style: str) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(text, style)


def _values(row: WearerRow) -> tuple[float, ...]:
    return row.alone_own, row.alone_others, row.federated, row.personalised, row.pooled
