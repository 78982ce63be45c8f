"""The user's own files, and what is said where they are wrong."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.sim.folder import FolderSettings, load_folder, read_folder


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text, "utf-8")
    return path


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


ANNA = rows("x,y,label", *(f"{i},{i * 10},{'walk' if i < 6 else 'run'}" for i in range(10)))
BEN = rows("label,y,x", *(f"run,{i * 100},{i}" for i in range(10)))


def test_one_client_a_file_and_later_rows_are_held_out(tmp_path: Path) -> None:
    data = load_folder(folder(tmp_path, anna=ANNA, ben=BEN), FolderSettings())
    assert data.names == ("anna", "ben") and data.classes == 2
    assert data.counts.tolist() == [7, 7]
    anna, ben = data.samples(0), data.samples(1)
    assert anna.x.tolist() == [[i, i * 10] for i in range(7)] and anna.y is not None
    assert anna.y.tolist() == [1] * 6 + [0]  # run, walk: sorted
    assert ben.x.tolist() == [[i, i * 100] for i in range(7)]  # by name, not by place
    held = data.held_out(0)
    assert held is not None and held.x[:, 0].tolist() == [7, 8, 9]
    assert data.test is not None and len(data.test.x) == 6


def test_windows_are_of_one_label_and_of_one_part(tmp_path: Path) -> None:
    settings = FolderSettings(columns=("x",), labels=("walk", "run"), window=2, hop=1)
    data = load_folder(folder(tmp_path, anna=ANNA), settings)
    # rows 0 to 6 are learned from; the window of rows 5 and 6 has two labels
    assert data.samples(0).x.tolist() == [[[i, i + 1]] for i in range(5)]
    assert data.samples(0).y.tolist() == [0] * 5  # type: ignore[union-attr]
    held = data.held_out(0)
    assert held is not None and held.x.tolist() == [[[7, 8]], [[8, 9]]]


def test_values_and_models_without_an_answer(tmp_path: Path) -> None:
    text = rows("a,b,power", *(f"{i},{-i},{i / 2}" for i in range(10)))
    home = folder(tmp_path, meter=text)
    settings = FolderSettings(label="power", target="value", window=3, share=0.5)
    data = load_folder(home, settings)
    assert data.classes == 0
    assert data.samples(0).x.tolist() == [[[0, 1, 2], [0, -1, -2]]]
    assert data.samples(0).y.tolist() == [[1.0]]  # type: ignore[union-attr]
    plain = load_folder(home, FolderSettings(label=""))
    assert plain.samples(0).y is None and plain.samples(0).x.shape == (7, 3)


def test_numbers_are_labels_as_they_are(tmp_path: Path) -> None:
    text = rows("a,label", *(f"{i},{i % 4}" for i in range(8)))
    data = load_folder(folder(tmp_path, one=text), FolderSettings())
    assert data.classes == 4
    assert data.samples(0).y.tolist() == [0, 1, 2, 3, 0, 1]  # type: ignore[union-attr]


def test_a_device_standardises_by_what_it_learns_from(tmp_path: Path) -> None:
    text = rows("a,b,label", *(f"{v},5,0" for v in (1, 3, 1, 3, 100)))
    settings = FolderSettings(standardise="device", share=0.8)
    data = load_folder(folder(tmp_path, one=text), settings)
    assert data.samples(0).x.tolist() == [[-1, 0], [1, 0], [-1, 0], [1, 0]]
    held = data.held_out(0)
    assert held is not None and held.x.tolist() == [[98, 0]]


def test_gaps_are_refused_or_skipped(tmp_path: Path) -> None:
    text = rows("a,label", "1,0", "2,0", " ,0", "4,0", "5,0", "6,0", "7,0", "8,0")
    home = folder(tmp_path, one=text)
    with pytest.raises(UsageError, match=r"one\.csv, line 4, column 'a': no value"):
        load_folder(home, FolderSettings())
    settings = FolderSettings(missing="skip", window=2, hop=1, share=0.75)
    assert load_folder(home, settings).samples(0).x.tolist() == [[[1, 2]], [[4, 5]], [[5, 6]]]
    each = load_folder(home, FolderSettings(missing="skip", standardise="device"))
    assert len(each.samples(0).x) == 5


def test_labels_that_are_missing_are_skipped_too(tmp_path: Path) -> None:
    text = rows("a,label", *(f"{i},{'' if i == 2 else i + 8}" for i in range(7)))
    home = folder(tmp_path, one=text)
    with pytest.raises(UsageError, match=r"line 4, column 'label': ''; wanted a whole number"):
        load_folder(home, FolderSettings())
    # 8 comes before 10: the numbers stay what they are, and are not sorted as texts
    each = load_folder(home, FolderSettings(missing="skip", share=0.9)).samples(0)
    assert each.y is not None and each.x[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert each.y.tolist() == [8, 9, 11, 12, 13]
    values = FolderSettings(missing="skip", target="value", window=2, hop=1, share=0.9)
    held = load_folder(home, values).samples(0)
    assert held.x.tolist() == [[[0, 1]], [[3, 4]], [[4, 5]]]
    assert held.y is not None and held.y.tolist() == [[9], [12], [13]]


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (rows("a,label", "1,0", "2,0", "x,0"), {}, "line 4, column 'a': 'x' is no finite number"),
        (rows("a,label", "1,0", "inf,0"), {}, "line 3, column 'a': 'inf' is no finite"),
        (rows("a,label", "1,0", "1e39,0"), {}, "line 3, column 'a': '1e39' is no finite"),
        (rows("a,label", "1,0", "", "3,0,9"), {}, "line 4: 3 cells; wanted 2"),
        (rows('"a","label"', '1,"x', 'y"', "2,z", "?,z"), {}, "line 5, column 'a'"),
        (rows("a,b", "1,0"), {}, "no column 'label'; it has a, b"),
        (rows("a,label", "1,0"), {"columns": ("c",)}, "no column 'c'"),
        ("", {}, "it has nothing"),
        (
            rows("a,label", "1,x"),
            {"labels": ("y", "z")},
            "line 2, column 'label': 'x'; wanted y, z",
        ),
        (rows("a,label", "1,x"), {"target": "value"}, "'x'; wanted a finite number"),
        (rows("a,label", "1,"), {}, "''; wanted a whole number"),
        (rows("a,label", "1,99999999999"), {}, "wanted a whole number from 0 to 65535"),
        (rows("a,label", "1,0"), {"window": 5}, "1 rows leave nothing to learn from"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, text: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        load_folder(folder(tmp_path, one=text), FolderSettings(**settings))


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        load_folder(tmp_path / "nowhere", FolderSettings())
    with pytest.raises(UsageError, match=r"holds no \.csv or \.parquet"):
        load_folder(tmp_path, FolderSettings())
    folder(tmp_path, one=ANNA)
    (tmp_path / "one.CSV").write_text(ANNA, "utf-8")
    with pytest.raises(UsageError, match="two files for device 'one'"):
        load_folder(tmp_path, FolderSettings())


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_bytes(b"a,label\n\xff\xfe,0\n")
    with pytest.raises(UsageError, match="cannot be read"):
        load_folder(tmp_path, FolderSettings(columns=("a",)))


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    texts, tables = tmp_path / "texts", tmp_path / "tables"
    texts.mkdir()
    tables.mkdir()
    folder(texts, anna=ANNA)
    cells = [line.split(",") for line in ANNA.splitlines()[1:]]
    columns = {
        "label": [row[2] for row in cells],
        "y": [int(row[1]) for row in cells],
        "x": [float(row[0]) for row in cells],
    }
    parquet.write_table(arrow.table(columns), tables / "anna.parquet")
    settings = FolderSettings(columns=("x", "y"), window=2)
    one, other = (read_folder(path, settings) for path in (texts, tables))
    np.testing.assert_array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.own.x, other.own.x)
    assert one.labels == other.labels == ("run", "walk")

    parquet.write_table(arrow.table({**columns, "x": [*range(9), None]}), tables / "anna.parquet")
    with pytest.raises(UsageError, match=r"anna\.parquet, row 10, column 'x': no value"):
        load_folder(tables, FolderSettings())
    parquet.write_table(arrow.table({**columns, "x": ["a"] * 10}), tables / "anna.parquet")
    with pytest.raises(UsageError, match=r"column 'x'.*wanted numbers"):
        load_folder(tables, FolderSettings())
    (tables / "anna.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match="cannot be read"):
        load_folder(tables, FolderSettings(columns=("x",)))


def test_numbers_of_tables_with_gaps_are_labels_as_they_are(tmp_path: Path) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    columns = {"a": [1.0, 2, 3, 4, 5, 6], "label": [2.0, 10, float("nan"), 1, None, 1]}
    parquet.write_table(arrow.table(columns), tmp_path / "one.parquet")
    data = load_folder(tmp_path, FolderSettings(missing="skip"))
    assert data.classes == 11
    assert data.samples(0).y.tolist() == [2, 10, 1]  # type: ignore[union-attr]
    parquet.write_table(arrow.table({**columns, "a": [1e39] * 6}), tmp_path / "one.parquet")
    with pytest.raises(UsageError, match=r"row 1, column 'a': 1e\+39 is no finite"):
        load_folder(tmp_path, FolderSettings(missing="skip"))


def test_without_pyarrow_parquet_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.parquet").write_bytes(b"")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match=r"pip install 'hedgerow\[sim\]'"):
        load_folder(tmp_path, FolderSettings())
