"""Rows, summaries, files; by hand."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]

from hedgerow.core.errors import UsageError
from hedgerow.sim.results import (
    RoundRow,
    encode_lines,
    first_at,
    read_lines,
    spread,
    summarise,
    write_parquet,
)
from hedgerow.sim.words import bytes_in_words, joules_in_words, seconds_in_words


def row(run: str, seed: int, round: int, accuracy: float | None, **more: float) -> RoundRow:
    made = RoundRow(
        run=run,
        seed=seed,
        round=round,
        seconds=10.0 * round,
        accuracy=accuracy,
        bytes_up=100 * round,
        bytes_down=1000 * round,
        updates=round,
    )
    return msgspec.structs.replace(made, **more)


ROWS = [
    row("a", 0, 0, 0.1),
    row("a", 0, 1, 0.6, device_worst_decile=0.1),
    row("a", 0, 2, 0.7, device_worst_decile=0.2),
    row("a", 1, 1, None),
    row("a", 1, 2, 0.5),
    row("a", 1, 3, 0.9, device_worst_decile=0.4),
    row("b", 0, 0, 0.1, device_worst_decile=0.1),
    row("b", 0, 1, 0.3),
]


def test_the_spread_of_devices() -> None:
    found = spread(np.array([np.nan, *np.linspace(0, 1, 21)]))
    assert found["device_mean"] == pytest.approx(0.5)
    assert found["device_worst_decile"] == pytest.approx(0.05)  # the worst three of 21
    assert found["device_p10"] == pytest.approx(0.1) and found["device_p90"] == pytest.approx(0.9)
    assert spread(np.array([np.nan])) == {}
    assert spread(np.array([0.25]))["device_worst_decile"] == 0.25


def test_a_summary_is_the_mean_of_the_seeds() -> None:
    first, second = summarise(ROWS, 0.6)
    assert (first.run, first.seeds, first.rounds) == ("a", 2, 3)
    assert first.accuracy == pytest.approx(0.8)
    assert (first.accuracy_min, first.accuracy_max) == (0.7, 0.9)
    assert first.worst_decile == pytest.approx(0.3)
    assert first.rounds_to_target == 2 and first.seconds_to_target == 20
    assert first.bytes_up_to_target == 200 and first.bytes_up == 250
    assert second.rounds_to_target is None  # it never got there
    assert second.worst_decile is None  # not measured at its end


def test_a_target_counts_only_where_every_seed_reached_it() -> None:
    assert summarise(ROWS, 0.8)[0].seconds_to_target is None
    assert summarise(ROWS, None)[0].seconds_to_target is None
    reached = first_at(ROWS[:3], 0.6)
    assert reached is not None and reached.round == 1


def test_rows_as_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(encode_lines(ROWS))
    assert read_lines(path) == ROWS
    path.write_text("{}\n")
    with pytest.raises(UsageError, match="no results"):
        read_lines(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_lines(tmp_path / "none")


def test_rows_as_parquet_come_back_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(ROWS, path)
    table = parquet.read_table(path)
    assert table.column_names == list(RoundRow.__struct_fields__)
    again = [RoundRow(**entry) for entry in table.to_pylist()]
    assert again == ROWS
    assert str(table.schema.field("accuracy").type) == "double"
    assert str(table.schema.field("bytes_up").type) == "int64"


def test_amounts_in_words() -> None:
    assert [bytes_in_words(n) for n in (0, 999, 1000, 1_234_567, 2e9)] == [
        *("0 B", "999 B", "1 kB", "1.23 MB", "2 GB"),
    ]
    assert [seconds_in_words(n) for n in (1.5, 119, 120, 7200, 3 * 86_400)] == [
        *("1.5 s", "119 s", "2 min", "2 h", "3 d"),
    ]
    assert joules_in_words(45_600) == "45.6 kJ"
