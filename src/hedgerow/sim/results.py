"""What a simulation leaves behind: one row a round, kept as JSON lines or Parquet, and a summary.

All amounts are totals since the run began unless they say otherwise, so that any two rows can be
subtracted and a row alone says what its accuracy has cost.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

DECILE = 0.1


class RoundRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the model, of one run.

    `accuracy` is on the global test data; `device_*` is the spread over devices that hold data out
    (mean, mean of the worst tenth, and quantiles). Missing where it was not measured. `bytes_up`
    and `bytes_down` are whole messages and models. `updates` were counted; `stale` of them started
    from an older version than the one they were added to; `wasted` came and did not count.
    `seconds` is virtual time.
    """

    run: str
    seed: int
    round: int
    seconds: float
    accuracy: float | None = None
    loss: float | None = None
    device_mean: float | None = None
    device_worst_decile: float | None = None
    device_p10: float | None = None
    device_median: float | None = None
    device_p90: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    joules: float = 0.0
    updates: int = 0
    stale: int = 0
    wasted: int = 0
    abandoned: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration over its seeds: means, and what the first target took (None: not reached).

    `*_to_target` are means over the seeds, and only where every seed reached it.
    """

    run: str
    seeds: int
    rounds: int
    accuracy: float | None
    accuracy_min: float | None
    accuracy_max: float | None
    worst_decile: float | None
    seconds: float
    bytes_up: float
    bytes_down: float
    joules: float
    updates: float
    stale: float
    target: float | None = None
    rounds_to_target: float | None = None
    seconds_to_target: float | None = None
    bytes_up_to_target: float | None = None
    bytes_down_to_target: float | None = None
    joules_to_target: float | None = None


def spread(accuracies: NDArray[np.float64]) -> dict[str, float]:
    """The `device_*` fields of a row from each device's accuracy `[N]`; none for no devices."""
    known = np.sort(accuracies[np.isfinite(accuracies)])
    if not len(known):
        return {}
    worst = known[: max(1, math.ceil(DECILE * len(known)))]
    low, median, high = np.quantile(known, [0.1, 0.5, 0.9])
    return {
        "device_mean": float(known.mean()),
        "device_worst_decile": float(worst.mean()),
        "device_p10": float(low),
        "device_median": float(median),
        "device_p90": float(high),
    }


def first_at(rows: Sequence[RoundRow], target: float) -> RoundRow | None:
    """The first row whose accuracy is at least `target`."""
    return next((row for row in rows if row.accuracy is not None and row.accuracy >= target), None)


def summarise(rows: Iterable[RoundRow], target: float | None) -> list[Summary]:
    """One summary a configuration, in the order in which they first appear."""
    runs: dict[str, dict[int, list[RoundRow]]] = {}
    for row in rows:
        runs.setdefault(row.run, {}).setdefault(row.seed, []).append(row)
    return [_summary(run, list(seeds.values()), target) for run, seeds in runs.items()]


def _summary(run: str, seeds: list[list[RoundRow]], target: float | None) -> Summary:
    last = [rows[-1] for rows in seeds]
    final = [value for rows in seeds if (value := last_known(rows, "accuracy")) is not None]
    # Only of the end: a run that was stopped may have measured its devices long before.
    worst = [row.device_worst_decile for row in last if row.device_worst_decile is not None]
    reached = [first_at(rows, target) for rows in seeds] if target is not None else []
    firsts = [row for row in reached if row is not None]
    everyone = bool(firsts) and len(firsts) == len(seeds)

    def to_target(name: str) -> float | None:
        return _mean([getattr(row, name) for row in firsts]) if everyone else None

    def at_end(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in last]))

    return Summary(
        run=run,
        seeds=len(seeds),
        rounds=max(row.round for row in last),
        accuracy=_mean(final),
        accuracy_min=min(final, default=None),
        accuracy_max=max(final, default=None),
        worst_decile=_mean(worst),
        seconds=at_end("seconds"),
        bytes_up=at_end("bytes_up"),
        bytes_down=at_end("bytes_down"),
        joules=at_end("joules"),
        updates=at_end("updates"),
        stale=at_end("stale"),
        target=target,
        rounds_to_target=to_target("round"),
        seconds_to_target=to_target("seconds"),
        bytes_up_to_target=to_target("bytes_up"),
        bytes_down_to_target=to_target("bytes_down"),
        joules_to_target=to_target("joules"),
    )


def last_known(rows: Sequence[RoundRow], name: str) -> float | None:
    """The last value of a field that was measured."""
    return next(
        (value for row in reversed(rows) if (value := getattr(row, name)) is not None), None
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


# Files --------------------------------------------------------------------------------------------


def encode_lines(rows: Iterable[msgspec.Struct]) -> bytes:
    """One JSON object a line."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def read_lines(path: Path) -> list[RoundRow]:
    """The rows of a file of JSON lines.

    Raises:
        UsageError: it cannot be read, or a line is no row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read results {path}: {error.strerror}") from error
    try:
        return msgspec.json.decode(b"[" + b",".join(data.splitlines()) + b"]", type=list[RoundRow])
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} holds no results of this release: {error}") from error


def write_parquet(rows: Sequence[RoundRow], path: Path) -> None:
    """The rows as Parquet, one column a field.

    Raises:
        ModuleNotFoundError: the extra `sim` (pyarrow) is not installed.
    """
    parquet: Any = importlib.import_module("pyarrow.parquet")
    arrow: Any = importlib.import_module("pyarrow")
    kinds = {
        "run": arrow.string(),
        **dict.fromkeys(
            ("seed", "round", "bytes_up", "bytes_down", "updates", "stale", "wasted", "abandoned"),
            arrow.int64(),
        ),
    }
    names = RoundRow.__struct_fields__
    columns = {
        name: arrow.array(
            [getattr(row, name) for row in rows], type=kinds.get(name, arrow.float64())
        )
        for name in names
    }
    parquet.write_table(arrow.table(columns), path)
