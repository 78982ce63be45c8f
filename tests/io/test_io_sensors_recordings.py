"""Files played again: CSV, Parquet and NumPy, at any speed."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Label, Reading
from tests.io.sensing import Clock, around, blocks, first, gaps, joined, sensor

START = 1_600_000_000.0


def samples(count: int, channels: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(count).normal(size=(count, channels)).astype(np.float32)


def write_csv(path: Path, data: NDArray[np.float32], header: str = "x,y") -> Path:
    lines = [",".join(f"{value:.9g}" for value in row) for row in data.tolist()]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n", "utf-8")
    return path


def played(
    clock: Clock | None = None, model_hz: float = 50.0, channels: str = "xy", **settings: object
) -> list[Reading]:
    settings = {"speed": math.inf, **settings}
    surroundings = around(list(channels), model_hz, clock=clock or Clock())
    return asyncio.run(first(sensor("recordings", **settings), surroundings))


def test_each_file_is_a_stream_and_they_play_side_by_side(tmp_path: Path) -> None:
    data = {name: samples(count) for name, count in (("press", 100), ("pump", 230))}
    for name, each in data.items():
        write_csv(tmp_path / f"{name}.csv", each)
    readings = played(files=[str(tmp_path / "*.csv")])
    for name, each in data.items():
        ours = blocks(readings, name)
        np.testing.assert_array_equal(joined(ours), each)
        assert ours[0].time_seconds == Clock().now()
        assert max(map(abs, gaps(ours, 50))) < 1e-3
    streams = [reading.stream for reading in readings[:6]]
    assert streams.count("press") == 3  # in turns, by when they are due


def test_real_time_ten_times_as_fast_and_without_waiting(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "press.csv", samples(500))
    for speed, seconds in ((1.0, 10.0), (10.0, 1.0), (math.inf, 0.0)):
        clock = Clock()
        readings = played(clock, files=[str(path)], speed=speed)
        assert clock.passed == pytest.approx(seconds)
        assert blocks(readings)[-1].time_seconds == pytest.approx(Clock().now() + 9.84)


def test_all_kinds_of_files_hold_the_same(tmp_path: Path) -> None:
    data = samples(5000)
    write_csv(tmp_path / "a.csv", data)
    write_csv(tmp_path / "b.tsv", data, header="")
    tsv = (tmp_path / "b.tsv").read_text().replace(",", "\t")
    (tmp_path / "b.tsv").write_text(tsv)
    np.save(tmp_path / "c.npy", data)
    np.savez(tmp_path / "d.npz", y=data[:, 1], x=data[:, 0])
    pq.write_table(
        pa.table({"y": data[:, 1], "n": ["-"] * 5000, "x": data[:, 0]}), tmp_path / "e.parquet"
    )
    readings = played(files=[str(tmp_path / "*")])
    for stream in "abcde":
        np.testing.assert_array_equal(joined(blocks(readings, stream)), data)


def test_columns_by_name_and_number_labels_and_missing_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "time;left;right;doing\n"
        "2020-09-13T12:26:40Z;1;2;rest\n"
        "2020-09-13T12:26:41Z;;4;rest\n"
        "2020-09-13T12:26:42Z;5;6;\n"
        "2020-09-13T12:26:43Z;7;8;walk\n"
    )
    readings = played(
        files=[str(tmp_path / "a.csv")],
        columns={"y": "left", "x": 2},
        time="time",
        label="doing",
        recorded_times=True,
        block_seconds=10,
    )
    # One sample a second at a model of 50 Hz: each stands alone.
    assert [reading.time_seconds for reading in blocks(readings)] == [START + s for s in range(4)]
    values = joined(blocks(readings))
    assert (
        values[0].tolist() == [2, 1] and math.isnan(values[1, 1]) and values[3].tolist() == [8, 7]
    )
    labels = [reading for reading in readings if isinstance(reading, Label)]
    assert [(label.label, label.start_seconds) for label in labels] == [
        ("rest", START),
        ("rest", START + 1),
        ("walk", START + 3),
    ]


def test_labels_come_before_their_block_and_as_runs(tmp_path: Path) -> None:
    rows = [f"{at},{'good' if at < 7 else 'worn'}" for at in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["x,state", *rows]))
    readings = played(
        channels="x", model_hz=1, files=[str(tmp_path / "a.csv")], label="state", block_seconds=10
    )
    now = Clock().now()
    assert readings[:2] == [
        Label("a", now, now + 7, "good"),
        Label("a", now + 7, now + 10, "worn"),
    ]
    assert isinstance(readings[2], Block) and len(readings) == 3


def test_missing_rows_are_gaps_and_times_may_be_of_any_unit(tmp_path: Path) -> None:
    seconds = np.r_[0:100, 150:200] / 50 + START
    for unit in (1, 1000, 10**6, 10**9):
        rows = [
            f"{round(second * unit) if unit > 1 else second},1,2" for second in seconds.tolist()
        ]
        (tmp_path / "a.csv").write_text("\n".join(["t,x,y", *rows]))
        readings = played(files=[str(tmp_path / "a.csv")], time="t", recorded_times=True)
        ours = blocks(readings)
        jumps = [round(gap) for gap in gaps(ours, 50) if abs(gap) > 0.5]
        assert jumps == [50] and sum(len(block.samples) for block in ours) == 150
        assert ours[0].time_seconds == pytest.approx(START, abs=1e-5)


def test_parquet_times_are_unix_seconds(tmp_path: Path) -> None:
    times = pa.array([round(START * 1000) + 20 * at for at in range(10)], pa.timestamp("ms"))
    pq.write_table(
        pa.table({"t": times, "x": np.arange(10), "y": np.zeros(10)}), tmp_path / "a.parquet"
    )
    readings = played(files=[str(tmp_path / "a.parquet")], time="t", recorded_times=True)
    assert blocks(readings)[0].time_seconds == START
    assert joined(blocks(readings))[:, 0].tolist() == list(range(10))


def test_one_stream_of_many_files_over_and_over(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", samples(50))

    async def run() -> list[Reading]:
        given = sensor(
            "recordings",
            files=[str(tmp_path / "*.npy")],
            stream="press",
            speed=math.inf,
            loop=True,
            block_seconds=0.5,
        )
        return await first(given, around("xy", 50, clock=Clock()), 9)

    ours = blocks(asyncio.run(run()))
    assert {block.stream for block in ours} == {"press"}
    assert [round(gap) for gap in gaps(ours, 50) if abs(gap) > 0.5] == [50] * 4  # a pause of 1 s
    np.testing.assert_array_equal(joined(ours[:4]), joined(ours[4:8]))


def test_another_rate_is_converted_without_a_gap(tmp_path: Path) -> None:
    at = np.arange(20_000) / 100
    np.save(tmp_path / "a.npy", np.sin(2 * np.pi * 3 * at).astype(np.float32))
    ours = blocks(played(channels="x", files=[str(tmp_path / "a.npy")], rate_hz=100))
    made = joined(ours)[:, 0]
    assert max(map(abs, gaps(ours, 50))) < 1e-3
    assert len(made) == pytest.approx(10_000, abs=50)
    expected = np.sin(2 * np.pi * 3 * np.arange(len(made)) / 50)
    assert np.abs(made - expected)[50:-50].max() < 1e-3


@pytest.mark.parametrize(
    ("name", "text", "settings", "said"),
    [
        ("a.csv", "x,z\n1,2\n", {}, r"no column 'y'; it has x, z"),
        ("a.csv", "1,2,3\n", {"columns": {"x": 0, "y": 7}}, "no column 7; it has 3 without names"),
        ("a.csv", "x,y\n1,2\n3,high\n", {}, "'high'.*wanted numbers"),
        ("a.csv", "x,y\n1,2\n3\n", {}, "row without column 1"),
        ("a.csv", "", {}, "is empty"),
        ("a.csv", "t,x,y\n5,1,1\n4,1,1\n", {"time": "t"}, "run backwards"),
        ("a.npy", "no array", {}, "no plain NumPy array"),
        ("a.parquet", "none", {}, "no Parquet file"),
        ("a.mat", "none", {}, r"a\.mat is no recording"),
    ],
)
def test_a_file_that_cannot_be_played_says_why(
    tmp_path: Path, name: str, text: str, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        played(files=[str(tmp_path / name)], **settings)


def test_no_file_and_objects_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file fits"):
        played(files=[str(tmp_path / "*.csv")])
    np.save(tmp_path / "a.npy", np.array([{"x": 1}]), allow_pickle=True)
    with pytest.raises(UsageError, match="no plain NumPy array"):
        played(files=[str(tmp_path / "a.npy")])


def test_recorded_times_want_a_column_and_no_loop() -> None:
    for settings in ({}, {"time": "t", "loop": True}):
        with pytest.raises(UsageError, match="recorded_times wants"):
            sensor("recordings", files=["a.csv"], recorded_times=True, **settings)
