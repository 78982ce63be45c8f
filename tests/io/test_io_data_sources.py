"""What each source's files become: small ones of the same form, made here."""

import gzip
import io
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.io.data import bearings, buildings, glucose, images, pedestrians
from hedgerow.io.data.cache import Meta, write


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path))


def keep(name: str, files: Mapping[str, bytes]) -> None:
    write(data.cache_dir() / name, Meta(name, "made", "0", "none", {}), files)


def idx(array: NDArray[np.uint8]) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes())


def test_every_source_pins_what_it_wants() -> None:
    assert set(data.SOURCES) == {
        *("watch", "fashion", "digits", "buildings", "pedestrians", "bearings", "glucose"),
    }
    for name, source in data.SOURCES.items():
        assert source.name == name and source.about and source.licence
        assert source.members and all(len(digest) == 64 for digest in source.members.values())
        assert len(source.sha256) == 64
    bound = [name for name, source in data.SOURCES.items() if source.terms]
    assert bound == ["bearings", "glucose"]


def test_fashion_comes_in_its_official_halves() -> None:
    picture = np.arange(2 * 784, dtype=np.uint64).astype(np.uint8).reshape(2, 28, 28)
    given = dict(
        zip(
            images.FASHION.members,
            (idx(a) for a in (picture, np.array([3, 9], np.uint8), picture[:1], picture[0, 0, :1])),
            strict=True,
        )
    )
    keep("fashion", images.FASHION.convert(given))
    train, test = data.load_fashion()
    np.testing.assert_array_equal(train.x, picture)
    assert train.y.tolist() == [3, 9] and train.y.dtype == np.int64
    assert test.x.shape == (1, 28, 28) and test.y.tolist() == [0]


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x0d\1", b"\0\0\x08\1\0\0\0\5abc", b"\0\0\x08\2\0\0\0\1"]
)
def test_an_idx_file_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"odd\.gz"):
        images.idx(content, "odd.gz")


def test_digits_are_rows_of_pixels_and_a_label() -> None:
    rows = np.arange(3 * 785).reshape(3, 785) % 256
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    (name,) = images.DIGITS.members
    keep("digits", images.DIGITS.convert({name: gzip.compress(text.encode())}))
    digits = data.load_digits()
    np.testing.assert_array_equal(digits.x.reshape(3, 784), rows[:, :784])
    assert digits.y.tolist() == rows[:, 784].tolist()
    with pytest.raises(UsageError, match="wanted 784 pixels"):
        images.DIGITS.convert({name: gzip.compress(b"1,2\n3,4")})


def table(header: list[str], rows: list[list[Any]]) -> bytes:
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


def building_files(hours: int = buildings.HOURS) -> dict[str, bytes]:
    files = {}
    for name in buildings.SOURCE.members:
        stem = name.rpartition("/")[2].removesuffix(".csv")
        if stem in buildings._SHARED:
            header = list(buildings._SHARED[stem])
            rows: list[list[Any]] = [
                [hour + at for at in range(len(header))] for hour in range(hours)
            ]
        else:
            number = int(stem.removeprefix("Building_"))
            header = ["Month", "Hour", "Day Type", "Indoor", buildings._LOAD, buildings._SOLAR]
            rows = [[1, h % 24 + 1, h // 24 % 7 + 1, "", number, h] for h in range(hours)]
        files[name] = table(header, rows)
    return files


def test_buildings_share_the_weather() -> None:
    keep("buildings", buildings.SOURCE.convert(building_files()))
    houses = data.load_buildings()
    assert [house.name for house in houses] == [str(number) for number in range(1, 18)]
    hours = houses[4].hours
    assert hours.shape == (8760, 9) and hours.dtype == np.float32
    turn = 2 * math.pi * 6 / 24  # the sixth row is hour 6
    expected = [5, 5, 5, 6, 5, 5, math.sin(turn), math.cos(turn), 0]
    np.testing.assert_allclose(hours[5], expected, atol=1e-6)
    weekend = hours[:168, 8].reshape(7, 24)
    np.testing.assert_array_equal(weekend.mean(axis=1), [0, 0, 0, 0, 0, 1, 1])
    with pytest.raises(UsageError, match="5 hours of"):
        buildings.SOURCE.convert(building_files(5))


def test_pedestrians_are_sorted_and_gaps_are_kept() -> None:
    header = ["date", "hour", "year", "Quay", "Queen"]
    rows = [["1970-01-02", "1:00-1:59", 1970, 4, ""], ["1970-01-01", "23:00-23:59", 1970, "", 7]]
    (name,) = pedestrians.SOURCE.members
    keep("pedestrians", pedestrians.SOURCE.convert({name: table(header, rows)}))
    hours, streets = data.load_pedestrians()
    assert hours.tolist() == [23, 25]
    assert [street.name for street in streets] == ["Quay", "Queen"]
    np.testing.assert_array_equal(streets[0].counts, [np.nan, 4])
    np.testing.assert_array_equal(streets[1].counts, [7, np.nan])
    with pytest.raises(UsageError, match="wanted date, hour, year"):
        pedestrians.SOURCE.convert({name: table(["a"], [[1]])})


def test_glucose_is_by_person_and_in_order() -> None:
    header = ["", '"id"', '"time"', '"gl"', '"diagnosis"']
    rows = [
        [1, '"b"', "1970-01-01 00:10:00", 93, '"diabetic"'],
        [2, '"a"', "1970-01-01 00:00:05", 80, '"non-diabetic"'],
        [3, '"b"', "1970-01-01 00:05:00", 94, '"diabetic"'],
    ]
    (name,) = glucose.SOURCE.members
    keep("glucose", glucose.SOURCE.convert({name: table(header, rows)}))
    first, second = data.load_glucose()
    assert (first.name, first.diagnosis, first.seconds.tolist()) == ("a", "non-diabetic", [5])
    assert second.seconds.tolist() == [300, 600] and second.level.tolist() == [94, 93]
    with pytest.raises(UsageError, match="wanted id, time"):
        glucose.SOURCE.convert({name: table(["a"], [[1]])})


def test_bearings_are_by_load_and_fault() -> None:
    files = {}
    for file in bearings._FILES:
        buffer = io.StringIO()
        np.savetxt(buffer, np.full(3 * file.rate_hz * (1 + (file.rate_hz > 60_000)), 0.5), "%.1f")
        files[file.member] = buffer.getvalue().encode()
    keep("bearings", bearings.SOURCE.convert(files))
    recordings = data.load_bearings()
    assert np.bincount([one.label for one in recordings]).tolist() == [3, 10, 7]
    normal = [one for one in recordings if one.label == 0]
    assert {(one.load, one.rate_hz, len(one.samples)) for one in normal} == {(270, 97656.0, 585936)}
    assert sorted({one.load for one in recordings}) == [0, 25, 50, 100, 150, 200, 250, 270, 300]
    files[bearings._FILES[0].member] = b"1.0\n2.0\n"
    with pytest.raises(UsageError, match="has 2 samples; wanted 3 s"):
        bearings.SOURCE.convert(files)
