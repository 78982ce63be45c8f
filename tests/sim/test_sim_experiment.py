"""From TOML to runs: sweeps, cases, changes, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.bench.experiments import widths_of
from hedgerow.core.errors import UsageError
from hedgerow.sim.availability import Trace
from hedgerow.sim.experiment import Run, put, read, runs
from tests.sim.small_world import watch_bundle

BASE = Path("somewhere")
COSINE = {"name": "fedavg", "schedule": {"kind": "cosine"}}


def labels(tree: dict[str, Any], seeds: int = 1) -> list[str]:
    return [run.label for run in runs(tree, BASE, seeds)]


def only(tree: dict[str, Any]) -> Run:
    (run,) = runs(tree, BASE)
    return run


def test_an_empty_experiment_is_plain_fedavg_in_fifty_rounds() -> None:
    run = only({})
    assert run.label == "fedavg" and run.experiment.algorithm == FedAvg()
    assert run.experiment.rounds.rounds == 50 and run.experiment.rounds.quorum == 1


def test_every_combination_of_a_sweep_is_a_run_and_seeds_are_innermost() -> None:
    tree = {"seed": 5, "sweep": {"algorithm.name": ["fedavg", "scaffold"], "plan.rate": [0.1, 0.2]}}
    found = [(run.label, run.seed) for run in runs(tree, BASE, 2)]
    assert found[:3] == [
        ("fedavg · rate 0.1", 5),
        ("fedavg · rate 0.1", 6),
        ("fedavg · rate 0.2", 5),
    ]
    assert len(found) == 8 and found[-1] == ("scaffold · rate 0.2", 6)
    assert [run.experiment.plan.rate for run in runs(tree, BASE)] == [0.1, 0.2, 0.1, 0.2]  # type: ignore[union-attr]


def test_a_sweep_may_be_written_as_tables_and_hold_tables() -> None:
    assert labels({"sweep": {"rounds": {"cohort": [5, 10]}}}) == ["cohort 5", "cohort 10"]
    codecs = [{}, {"stages": [{"name": "topk", "share": 0.1}, {"name": "ternary"}]}]
    found = runs({"codec": {"feedback": True}, "sweep": {"codec": codecs}}, BASE)
    assert [run.label for run in found] == ["plain codec", "topk + ternary"]
    assert not found[0].experiment.codec.feedback  # a swept table is the whole table


def test_cases_lie_on_top_of_what_all_share() -> None:
    tree = {
        "rounds": {"cohort": 20},
        "cases": [
            {"label": "rounds"},
            {"label": "buffered", "mode": "fleet", "algorithm": {"name": "fedbuff", "buffer": 5}},
        ],
    }
    first, second = runs(tree, BASE)
    assert (first.label, second.label) == ("rounds", "buffered")
    assert second.experiment.rounds.cohort == 20 and second.experiment.mode == "fleet"
    assert second.experiment.algorithm.asynchronous


def test_another_name_begins_its_table_afresh() -> None:
    tree: dict[str, Any] = {"algorithm": {"name": "fedavg", "momentum": 0.9}}
    put(tree, "algorithm.name", "fedavg")
    assert tree["algorithm"]["momentum"] == 0.9
    put(tree, "algorithm.name", "scaffold")
    assert tree["algorithm"] == {"name": "scaffold"}


def test_changes_are_toml_and_lie_on_top_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[rounds]\ncohort = 3\n")
    tree = read(path, ["rounds.cohort=7", "data.source=fashion", "measure.target=0.8"])
    experiment = only(tree).experiment
    assert experiment.rounds.cohort == 7 and experiment.data.source == "fashion"
    assert experiment.measure.target == 0.8


def test_a_trace_lies_beside_the_experiment() -> None:
    run = only({"availability": {"name": "trace", "file": "t.csv"}})
    assert run.experiment.availability == Trace(file="somewhere/t.csv")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"rouns": {}}, "rouns"),
        ({"rounds": {"cohorts": 3}}, r"cohorts.*\$\.rounds"),
        ({"devices": {"seconds_per_sample": -1}}, r"\$\.devices\.seconds_per_sample"),
        ({"rounds": {"rounds": 0}}, "no end"),
        ({"rounds": {"rounds": 1}, "algorithm": COSINE}, r"cosine.*rounds\.rounds to 2"),
        ({"rounds": {"quorum": 9, "cohort": 3}}, "quorum"),
        ({"algorithm": {"name": "fedbuff"}}, 'mode = "fleet"'),
        ({"algorithm": {"name": "fedmagic"}}, "fedmagic"),
        ({"sweep": {"algorithm.name": "fedavg"}}, "algorithm.name"),
        ({"cases": []}, "cases"),
        ({"cases": [{"label": "a"}, {"label": "a"}]}, "'a'"),
        ({"sweep": {"seed": list(range(1001))}}, "1001 runs"),
        ({"data": 3, "sweep": {"data.source": ["watch"]}}, "no table"),
    ],
)
def test_what_does_not_fit_is_named(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        runs(tree, BASE)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("x = ")
    with pytest.raises(UsageError, match="not TOML"):
        read(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("")
    with pytest.raises(UsageError, match="NAME=VALUE"):
        read(tmp_path / "good.toml", ["rounds"])


def test_a_tier_trains_a_width_that_is_there() -> None:
    tree: dict[str, Any] = {
        "algorithm": {"name": "resource_aware", "widths": 2},
        "devices": {"tiers": [{"name": "old", "width": 1}]},
    }
    plain = watch_bundle()
    assert len(plain.parts) == 1
    with pytest.raises(UsageError, match=r"'old' trains width 1.*set its width to 0.*model.bundle"):
        widths_of(only(tree), 4, plain)
    tree["devices"]["tiers"][0]["width"] = 0
    found = widths_of(only(tree), 4, plain)
    assert found is not None and found.tolist() == [0, 0, 0, 0]
