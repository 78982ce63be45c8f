"""`hedgerow sim`: results, errors in one line, and taking up what was interrupted."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet  # type: ignore[import-untyped]

from hedgerow.bench.asynchronous import bench_asynchronous
from hedgerow.cli import main
from hedgerow.io import data
from hedgerow.sim.experiment import read, runs
from hedgerow.sim.results import read_lines
from tests.bench.processes import Command

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = """
title = "Small"
[rounds]
cohort = 4
rounds = 3
[plan]
epochs = 0.25
[measure]
target = 0.2
devices_every = 3
[sweep]
"algorithm.name" = ["fedavg", "fedprox"]
"""


@pytest.fixture(scope="module", autouse=True)
def _watch_data() -> None:
    data.fetch("watch")


def written(folder: Path, text: str = SMALL) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def sim(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sim", *map(str, arguments)], catch_exceptions=False)


def test_an_experiment_leaves_rows_a_summary_and_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = sim(written(tmp_path), "--out", out, "--seeds", 2, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    assert [row["run"] for row in printed["results"]] == ["fedavg", "fedprox"]
    assert printed["whole"] and printed["results"][0]["seeds"] == 2
    rows = read_lines(out / "results.jsonl")
    assert len(rows) == 2 * 2 * 4
    assert json.loads((out / "summary.json").read_text()) == printed["results"]
    page = (out / "report.html").read_text()
    assert "Small" in page and "fedprox" in page and "cohort = 4" in page
    # A second time there is nothing left to do, and the same results.
    before = (out / "results.jsonl").read_bytes()
    again = sim(written(tmp_path), "--out", out, "--seeds", 2, "--threads", 1)
    assert again.exit_code == 0 and "round" not in again.stderr
    assert "fedprox" in again.stdout and "report: " in again.stdout
    assert (out / "results.jsonl").read_bytes() == before


def test_runs_side_by_side_are_the_same_runs(tmp_path: Path) -> None:
    path = written(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    assert sim(path, "--out", one, "--threads", 1).exit_code == 0
    done = sim(path, "--out", two, "--jobs", 2)
    assert done.exit_code == 0, done.output
    assert read_lines(one / "results.jsonl") == read_lines(two / "results.jsonl")
    assert "round 3/3" in done.stderr


def test_rows_can_be_parquet_and_a_fleet_of_machines_needs_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL.partition("[sweep]")[0])
    out = tmp_path / "out"
    changes = [
        "mode=fleet",
        "rounds.devices_min=10",
        "algorithm={name = 'fedbuff', buffer = 2}",
        "output.format=parquet",
    ]
    settings = [part for change in changes for part in ("--set", change)]
    done = sim(path, "--out", out, *settings, "--threads", 1)
    assert done.exit_code == 0, done.output
    table = parquet.read_table(out / "results.parquet")
    assert table.column("round").to_pylist() == [0, 1, 2, 3]
    assert table.column("updates").to_pylist() == [0, 2, 4, 6]


def test_what_was_interrupted_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    text = SMALL.replace("rounds = 3", "rounds = 24").partition("[sweep]")[0]
    path = written(tmp_path, text)
    home = tmp_path / "process"
    home.mkdir()
    out = tmp_path / "out"
    with Command(home, "sim", str(path), "--out", str(out), "--threads", "1") as command:
        command.wait_for("round 2/24", 60)
        command.interrupt()
        done = command.done(60)
    assert done.code == 130, done.err
    assert f"{out} keeps it. Go on with the same command again" in done.err
    assert len(read_lines(out / "results.jsonl")) < 25
    rest = sim(path, "--out", out, "--threads", 1)
    assert rest.exit_code == 0, rest.output
    assert "round 0/24" not in rest.stderr
    straight = sim(path, "--out", tmp_path / "straight", "--threads", 1)
    assert straight.exit_code == 0
    assert read_lines(out / "results.jsonl") == read_lines(tmp_path / "straight/results.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rounds]\ncohortt = 3", "cohortt"),
        ("[model]\nbundle = 'whale'", "no model 'whale' comes with Hedgerow"),
        ("[data]\nsource = 'whale'", "whale"),
        ("mode = 'fleet'\n[availability]\nname = 'trace'\nfile = 'none.csv'", "none.csv"),
    ],
)
def test_an_error_is_one_line_with_a_remedy(tmp_path: Path, text: str, said: str) -> None:
    done = sim(written(tmp_path, text), "--out", tmp_path / "out")
    assert done.exit_code == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and lines[0].startswith("hedgerow: ")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: str(path.stem))
def test_every_example_is_an_experiment(path: Path) -> None:
    assert len(runs(read(path), path.parent)) >= 1


def test_the_asynchronous_comparison_says_what_each_case_took() -> None:
    changes = ["measure.target=0.3", "data.clients=40", "rounds.devices_min=20", "plan.epochs=0.5"]
    result = bench_asynchronous(1, changes=changes)
    names = [case.name for case in result.cases]
    assert names[0] == "rounds" and len(names) == 7
    assert result.ratio == pytest.approx(result.sync_seconds / result.async_seconds)
    assert {case.at_work for case in result.cases} == {20, 27, 40}
    assert all(case.seconds > 0 for case in result.cases)
