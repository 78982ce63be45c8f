"""The table that `hedgerow sim` ends with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hedgerow.sim.results import Summary
from hedgerow.sim.words import bytes_in_words, joules_in_words, seconds_in_words


def summary_table(summaries: Sequence[Summary]) -> Table:
    """One row a configuration; what the target took, where there is one."""
    target = next((s.target for s in summaries if s.target is not None), None)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    heads = ["accuracy", "worst tenth", "time", "up", "down", "energy"]
    if target is not None:
        heads += [f"time to {target:.0%}", f"up to {target:.0%}"]
    for head in heads:
        table.add_column(head, justify="right")
    for summary in summaries:
        cells = [
            _percent(summary.accuracy),
            _percent(summary.worst_decile),
            seconds_in_words(summary.seconds),
            bytes_in_words(summary.bytes_up),
            bytes_in_words(summary.bytes_down),
            joules_in_words(summary.joules),
        ]
        if target is not None:
            seconds, sent = summary.seconds_to_target, summary.bytes_up_to_target
            cells.append("–" if seconds is None else seconds_in_words(seconds))
            cells.append("–" if sent is None else bytes_in_words(sent))
        table.add_row(summary.run, *cells)
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
