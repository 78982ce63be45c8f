"""Your own data: a folder with one CSV or Parquet file for each device.

    settings = FolderSettings(columns=("x", "y", "z"), label="activity", window=100, hop=50)
    data = load_folder(Path("recordings"), settings)      # recordings/anna.csv, recordings/ben.csv

A file has a header and one row a sample, in order of time; its name without the ending is the
device's. What comes first in a file is learned from, what comes last is held out.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.samples import Samples
from hedgerow.sim.data import ArrayData, joined
from hedgerow.sim.partition import Partition, natural

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
ENDINGS = (".csv", ".parquet")
CLASSES_MAX = 65_536
NUMBER_MAX = float(np.finfo(np.float32).max)


class FolderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to read the files.

    `columns`: what the model takes, in this order (none: every column but `label`). `label`: the
    column to learn ("": none, for models that give their input back). `target`: `class` for labels
    (texts, or whole numbers from 0) or `value` for a number. `labels`: the texts, in the order of
    the model's outputs (none: all there are, sorted). `window`, `hop`: rows a window and from one
    to the next (0: each row by itself); a window whose rows have several labels is left out, and
    its value is the last row's. `standardise`: `device` takes each column's mean and deviation from
    what the device learns from. `missing`: an empty cell is refused, or every window with one is
    skipped. `share`: how much of each file is learned from.
    """

    columns: tuple[Name, ...] = ()
    label: Annotated[str, msgspec.Meta(max_length=256)] = "label"
    target: Literal["class", "value"] = "class"
    labels: tuple[Name, ...] = ()
    window: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    hop: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    standardise: Literal["none", "device"] = "none"
    missing: Literal["refuse", "skip"] = "refuse"
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.7


@dataclass(frozen=True)
class Folder:
    """Everything in a folder: of `train` and `own`, `groups` says which of `names` a sample is of.

    `labels` are the texts of the classes, or () where labels are numbers or there are none.
    """

    train: Samples
    own: Samples
    groups: NDArray[np.int64]
    own_groups: NDArray[np.int64]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    classes: int


def load_folder(path: Path, settings: FolderSettings) -> ArrayData:
    """One client a file; each held out by its own later rows, and `test` all of those together.

    `x` f32 `[n, columns]`, or `[n, columns, window]` where there is a window.

    Raises:
        UsageError: see `read_folder`.
    """
    whole = read_folder(path, settings)
    held = [np.flatnonzero(whole.own_groups == at) for at in range(len(whole.names))]
    return ArrayData(
        whole.train.x,
        whole.train.y,
        natural(whole.groups),
        test=whole.own,
        held_out=(whole.own, Partition.of(held)),
        names=whole.names,
        classes=whole.classes,
    )


def read_folder(path: Path, settings: FolderSettings) -> Folder:
    """Read every file.

    Raises:
        UsageError: no files, a column that is not there, a cell that cannot be read (file, line and
            column are named), a label that was not announced, or a file too short to learn from.
    """
    files = _files(path)
    columns = settings.columns or _every_column(files[0], settings)
    tables = [_read(file, columns, settings) for file in files]
    labels = _labels(tables, settings)
    sets: list[tuple[list[Samples], list[int]]] = [([], []), ([], [])]
    for table in tables:
        y = _targets(table, labels, settings)
        at = round(settings.share * len(table.x))
        x = table.x if settings.standardise == "none" else _standardised(table.x, at)
        for (parts, counts), rows in zip(sets, (slice(at), slice(at, None)), strict=True):
            parts.append(_cut(x[rows], None if y is None else y[rows], settings))
            counts.append(len(parts[-1].x))
        if not sets[0][1][-1]:
            raise UsageError(
                f"{table.file}: {len(table.x)} rows leave nothing to learn from; wanted more rows, "
                'a smaller window, or missing = "skip" on a file with fewer gaps'
            )
    train, own = (joined(parts) for parts, _ in sets)
    groups, own_groups = (np.repeat(np.arange(len(files)), counts) for _, counts in sets)
    classes = 0
    if settings.target == "class" and train.y is not None and own.y is not None:
        classes = len(labels) or 1 + int(max(train.y.max(), own.y.max(initial=0)))
    names = tuple(file.stem for file in files)
    return Folder(train, own, groups, own_groups, names, labels, classes)


@dataclass(frozen=True)
class _Table:
    """One file: `x [n, columns]` with NaN for an empty cell, `told` the label's cells as text, and
    `places`, where each row stands in the file.
    """

    file: Path
    x: NDArray[np.float32]
    told: list[str]
    places: Sequence[str]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UsageError(f"no folder {path}; wanted one with a .csv or .parquet file a device")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise UsageError(f"{path} holds no .csv or .parquet file; wanted one for each device")
    stems = [file.stem for file in files]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise UsageError(f"{path} holds two files for device {twice[0]!r}; wanted one")
    return files


def _every_column(file: Path, settings: FolderSettings) -> tuple[str, ...]:
    header = _header(file)
    return tuple(name for name in header if name != settings.label)


def _header(file: Path) -> list[str]:
    with _readable(file):
        if file.suffix.lower() == ".parquet":
            return [str(name) for name in _parquet().read_schema(file).names]
        with file.open(newline="", encoding="utf-8-sig") as text:
            return next(csv.reader(text), [])


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Whatever a reader says of a broken file, as one kind of error that names the file."""
    try:
        yield
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are ValueErrors
        raise UsageError(
            f"{file} cannot be read ({error}); wanted UTF-8 text or Parquet"
        ) from error


def _read(file: Path, columns: Sequence[str], settings: FolderSettings) -> _Table:
    header = _header(file)
    wanted = [*columns, *([settings.label] if settings.label else [])]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UsageError(
            f"{file}: no column {missing[0]!r}; it has {', '.join(header) or 'nothing'}"
        )
    try:
        if file.suffix.lower() == ".parquet":
            table = _read_parquet(file, columns, settings)
        else:
            table = _read_csv(file, columns, settings)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{file} cannot be read ({error}); wanted UTF-8 text or Parquet"
        ) from error
    gaps = np.argwhere(np.isnan(table.x))
    if len(gaps) and settings.missing == "refuse":
        row, column = gaps[0].tolist()
        raise UsageError(
            f"{file}, {table.places[row]}, column {columns[column]!r}: no value; fill it in, or "
            'set missing = "skip"'
        )
    return table


def _read_csv(file: Path, columns: Sequence[str], settings: FolderSettings) -> _Table:
    rows: list[list[float]] = []
    told: list[str] = []
    lines: list[str] = []
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.reader(text)
        header = next(reader)
        places = [header.index(name) for name in columns]
        label = header.index(settings.label) if settings.label else None
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells; wanted {len(header)}"
                )
            try:
                rows.append([_number(cells[place]) for place in places])
            except ValueError:
                bad = next(place for place in places if not _is_number(cells[place]))
                raise UsageError(
                    f"{file}, line {reader.line_num}, column {header[bad]!r}: {cells[bad]!r} is no "
                    "finite number"
                ) from None
            lines.append(f"line {reader.line_num}")
            if label is not None:
                told.append(cells[label].strip())
    return _Table(file, np.array(rows, np.float32).reshape(-1, len(columns)), told, lines)


def _number(cell: str) -> float:
    """NaN for an empty cell; ValueError for what is no finite number, as float32."""
    text = cell.strip()
    if not text:
        return math.nan
    number = float(text)
    if not abs(number) <= NUMBER_MAX:
        raise ValueError(text)
    return number


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _read_parquet(file: Path, columns: Sequence[str], settings: FolderSettings) -> _Table:
    wanted = [*columns, *([settings.label] if settings.label else [])]
    table = _parquet().read_table(file, columns=wanted)
    arrays = []
    for name in columns:
        try:
            array = np.array(table[name].to_pylist(), np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{file}, column {name!r}: {error}; wanted numbers") from error
        beyond = np.flatnonzero(np.abs(array) > NUMBER_MAX)
        if len(beyond):
            raise UsageError(
                f"{file}, row {beyond[0] + 1}, column {name!r}: {array[beyond[0]]} is no finite "
                "number of float32"
            )
        arrays.append(array)
    told: list[str] = []
    rows = [f"row {row + 1}" for row in range(table.num_rows)]
    if settings.label:
        told = [_label_text(cell) for cell in table[settings.label].to_pylist()]
    return _Table(file, np.stack(arrays, 1).astype(np.float32), told, rows)


def _label_text(cell: object) -> str:
    """A label as a CSV file would have it: tables with gaps hold whole numbers as 1.0 and NaN."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def _parquet() -> Any:
    """Pyarrow's reader, which only Parquet files need."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise UsageError(
            "reading Parquet files needs pyarrow: `pip install 'hedgerow[sim]'`, or give CSV files"
        ) from None


def _labels(tables: Sequence[_Table], settings: FolderSettings) -> tuple[str, ...]:
    """The texts of the classes; () where they are numbers."""
    if settings.labels or not settings.label or settings.target == "value":
        return settings.labels
    there = {text for table in tables for text in table.told} - {""}
    if all(text.isdecimal() for text in there):
        return ()
    return tuple(sorted(there))


def _targets(
    table: _Table, labels: tuple[str, ...], settings: FolderSettings
) -> NDArray[np.generic] | None:
    """`[n]` int64 classes or `[n, 1]` f32 values, or None where nothing is to be told; −1 and NaN
    where a cell is empty that may be.
    """
    if not settings.label:
        return None
    index = {text: at for at, text in enumerate(labels)}
    numbers: list[float] = []
    for row, text in enumerate(table.told):
        if not text and settings.missing == "skip":
            number, good, wanted = -1.0 if settings.target == "class" else math.nan, True, ""
        elif settings.target == "class":
            number = float(index.get(text, -1) if labels else text if text.isdecimal() else -1)
            good = 0 <= number < CLASSES_MAX
            wanted = ", ".join(labels) or f"a whole number from 0 to {CLASSES_MAX - 1}"
        else:
            good, wanted = bool(text) and _is_number(text), "a finite number"
            number = _number(text) if good else math.nan
        if not good:
            raise UsageError(
                f"{table.file}, {table.places[row]}, column {settings.label!r}: "
                f"{text!r}; wanted {wanted}"
            )
        numbers.append(number)
    if settings.target == "class":
        return np.array(numbers, np.int64)
    return np.array(numbers, np.float32)[:, None]


def _standardised(x: NDArray[np.float32], learned: int) -> NDArray[np.float32]:
    """By the mean and deviation of the first `learned` rows; a column that never moves is 0."""
    seen = x[:learned][np.isfinite(x[:learned]).all(axis=1)].astype(np.float64)
    if not len(seen):
        return x
    spread = seen.std(axis=0)
    scaled: NDArray[np.float64] = (x - seen.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled.astype(np.float32)


def _cut(
    x: NDArray[np.float32], y: NDArray[np.generic] | None, settings: FolderSettings
) -> Samples:
    """Rows, or windows `[n, columns, window]`, without those that have a gap or several labels."""
    told = np.ones(len(x), np.bool_)
    if y is not None:
        numbers = y.astype(np.float64)
        told = numbers >= 0 if settings.target == "class" else np.isfinite(numbers[:, 0])
    if settings.window:
        starts = np.arange(0, len(x) - settings.window + 1, settings.hop or settings.window)
        rows = starts[:, None] + np.arange(settings.window)
        x = x[rows].transpose(0, 2, 1).reshape(-1, x.shape[1], settings.window)
        good = np.isfinite(x).all(axis=(1, 2)) & told[rows].all(axis=1)
        if y is not None:
            within = y[rows].reshape(len(rows), settings.window)
            if settings.target == "class":
                good &= (within == within[:, :1]).all(axis=1)
            y = y[rows[:, -1]]
    else:
        good = np.isfinite(x).all(axis=1) & told
    return Samples(np.ascontiguousarray(x[good]), None if y is None else y[good])
