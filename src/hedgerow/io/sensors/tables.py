"""Recordings as files, read a piece at a time: CSV, Parquet and NumPy."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs

ROWS_AT_ONCE: Final = 2048
SUFFIXES: Final = (".csv", ".npy", ".npz", ".parquet", ".tsv", ".txt")

_NO_ARRAY: Final = (
    *(ValueError, TypeError, SyntaxError, LookupError, EOFError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""What NumPy raises over a file that is cut off, made up or of another kind."""

Column: TypeAlias = int | str


class Piece(NamedTuple):
    """Consecutive rows: `samples` f32 `[n, channels]`, Unix `seconds` `[n]` and labels if any."""

    samples: NDArray[np.float32]
    seconds: NDArray[np.float64] | None
    labels: Sequence[str] | None


class Wanted(NamedTuple):
    """Which columns: those of the channels, of the time and of the label; by name or from 0.

    `or_in_order`: where columns have no names, the channels are the first ones.
    """

    channels: Sequence[Column]
    time: Column | None = None
    label: Column | None = None
    or_in_order: bool = False

    @property
    def all(self) -> list[Column]:
        """Every column, the channels first."""
        return [*self.channels, *(one for one in (self.time, self.label) if one is not None)]

    def places(self, path: Path, names: Sequence[str], count: int) -> list[int]:
        """Where they are, in a table of `count` columns with `names`, or none of them.

        Raises:
            UsageError: there is no such column.
        """
        columns: list[Column] = self.all
        if self.or_in_order and not names:
            columns[: len(self.channels)] = range(len(self.channels))
        return [_place(path, column, names, count) for column in columns]


def read_pieces(path: Path, wanted: Wanted) -> Iterator[Piece]:
    """The rows of one file, piece by piece, so that a file may be larger than the memory.

    Raises:
        UsageError: it cannot be read, has no such column, or holds what is no number.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path, wanted)
        elif suffix in {".npy", ".npz"}:
            yield from _numpy(path, wanted)
        elif suffix in {".csv", ".tsv", ".txt"}:
            yield from _text(path, wanted)
        else:
            raise UsageError(f"{path} is no recording; wanted one of {', '.join(SUFFIXES)}")
    except OSError as error:
        raise UsageError(f"cannot read the recording {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recording {path} is not UTF-8; convert it first") from error


def _text(path: Path, wanted: Wanted) -> Iterator[Piece]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        head = file.read(4096)
        file.seek(0)
        delimiter = max("\t;, ", key=head.partition("\n")[0].count)
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        first = next(rows, None)
        if first is None:
            raise UsageError(f"the recording {path} is empty")
        header = not any(field.strip() and _is_number(field) for field in first)
        names = [field.strip() for field in first] if header else []
        columns = wanted.places(path, names, len(first))
        if not header:
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        line = 1 + header
        while part := list(islice(rows, ROWS_AT_ONCE)):
            fields = [row for row in part if row]
            if fields:
                yield _made(path, line, [_column(path, fields, at) for at in columns], wanted)
            line += len(part)


def _column(path: Path, rows: Sequence[Sequence[str]], at: int) -> Sequence[str]:
    try:
        return [row[at] for row in rows]
    except IndexError:
        short = next(row for row in rows if len(row) <= at)
        raise UsageError(f"{path} has a row without column {at}: {short}; mend that row") from None


def _parquet(path: Path, wanted: Wanted) -> Iterator[Piece]:
    with needs("parquet"):
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            chosen = [names[place] for place in wanted.places(path, names, len(names))]
            line = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=chosen):
                columns = [batch.column(name) for name in chosen]
                yield _made(path, line, [_plain(column) for column in columns], wanted)
                line += batch.num_rows
    except pa.ArrowInvalid as error:
        raise UsageError(f"{path} is no Parquet file that can be read: {error}") from error


def _plain(column: Any) -> Any:
    """Numbers as an array, times in Unix seconds, all else as a list."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ns")).cast("int64").to_numpy(False) / 1e9
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def _numpy(path: Path, wanted: Wanted) -> Iterator[Piece]:
    """One array `[n]` or `[n, columns]`; or of an archive one array a column, by name."""
    columns = _array(path, wanted) if path.suffix.lower() == ".npy" else _archive(path, wanted)
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise UsageError(f"{path} holds arrays of unlike shapes; wanted one [n] for each column")
    for first in range(0, len(columns[0]), ROWS_AT_ONCE):
        parts = [column[first : first + ROWS_AT_ONCE] for column in columns]
        yield _made(path, first, parts, wanted)


def _array(path: Path, wanted: Wanted) -> list[NDArray[Any]]:
    """The columns of one array, left on the disk until they are read."""
    with _plain_arrays(path):
        table: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise UsageError(f"{path} has shape {table.shape}; wanted [samples, channels]")
    return [table[:, place] for place in wanted.places(path, [], table.shape[1])]


def _archive(path: Path, wanted: Wanted) -> list[NDArray[Any]]:
    # Opened here, for NumPy leaves it open where it is no archive.
    with path.open("rb") as file, _plain_arrays(path):
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("no archive of arrays")
        with loaded:
            names = list(loaded.files)
            return [loaded[names[place]] for place in wanted.places(path, names, len(names))]


@contextmanager
def _plain_arrays(path: Path) -> Iterator[None]:
    """Nothing is unpickled: an array of objects is an error, like everything that is no array."""
    try:
        yield
    except _NO_ARRAY as error:
        raise UsageError(f"{path} is no plain NumPy array: {error}") from error


def _place(path: Path, column: Column, names: Sequence[str], count: int) -> int:
    if isinstance(column, str) and column in names:
        return names.index(column)
    if isinstance(column, int) and 0 <= column < count:
        return column
    raise UsageError(
        f"{path} has no column {column!r}; it has "
        + (", ".join(names) if names else f"{count} without names, 0 to {count - 1}")
        + "; set columns, time and label to them"
    )


def _made(path: Path, line: int, columns: Sequence[Any], wanted: Wanted) -> Piece:
    count = len(wanted.channels)
    try:
        samples = np.stack([_numbers(column) for column in columns[:count]], axis=1)
        rest = list(columns[count:])
        seconds = None if wanted.time is None else _seconds(rest.pop(0))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} after row {line}: {error}; wanted numbers") from error
    if seconds is not None and not np.isfinite(seconds).all():
        raise UsageError(f"{path} after row {line}: a time is missing; wanted one in every row")
    labels = None
    if wanted.label is not None:
        labels = ["" if label is None else str(label).strip() for label in rest.pop(0)]
    return Piece(samples, seconds, labels)


def _numbers(column: Any) -> NDArray[np.float32]:
    """Numbers; an empty field is a reading that is not there."""
    if isinstance(column, np.ndarray):
        return np.asarray(column, np.float32)
    return np.array(
        [math.nan if value is None or value == "" else float(value) for value in column], np.float32
    )


def _seconds(column: Any) -> NDArray[np.float64]:
    """Unix seconds from numbers (of s, ms, µs or ns, by their size) or from ISO 8601."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        return _scaled(np.asarray(column, np.float64))
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        return column.astype("datetime64[ns]").astype(np.int64) / 1e9
    if all(isinstance(value, str) and _is_number(value) for value in column):
        return _scaled(np.array([float(value) for value in column]))
    return np.array([_iso(value) for value in column])


def _scaled(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    # Unix time in seconds passes 10^11 in the year 5138.
    size = abs(numbers[0]) if len(numbers) else 0.0
    for limit, scale in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
        if size >= limit:
            return numbers * scale
    return numbers


def _iso(value: Any) -> float:
    when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
