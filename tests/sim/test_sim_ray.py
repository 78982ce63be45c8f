"""Learning on a local Ray cluster of two workers: the same bits as alone."""

from pathlib import Path

import pytest

from hedgerow.bench.experiments import Asked, run_all
from hedgerow.core.errors import UsageError
from hedgerow.io import data
from hedgerow.sim.experiment import runs
from hedgerow.sim.ray import Cluster
from hedgerow.sim.results import RoundRow
from hedgerow.sim.shares import Alone

TREE = {
    "rounds": {"rounds": 2, "cohort": 6},
    "plan": {"epochs": 0.5},
    "measure": {"devices_every": 0},
    "cases": [
        {"label": "plain"},
        {
            "label": "kept",
            "algorithm": {"name": "scaffold"},
            "codec": {"stages": [{"name": "topk", "share": 0.1}], "feedback": True},
        },
    ],
}


@pytest.mark.filterwarnings("ignore")  # Ray's own, about itself
def test_two_workers_give_the_same_bits_as_none() -> None:
    data.fetch("watch")
    alone = _rows(Asked(workers=1))
    spread = _rows(Asked(workers=1, ray="local", ray_workers=2))
    assert alone == spread  # accuracy, loss and bytes of every round, bit for bit
    assert len(alone) == 6


def _rows(asked: Asked) -> list[RoundRow]:
    return run_all(runs(TREE, Path()), Path(), asked=asked).rows


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_an_error_with_a_remedy() -> None:
    def never() -> Alone:
        raise AssertionError("no worker is ever started")

    with pytest.raises(UsageError, match="ray start --head"):
        Cluster("127.0.0.1:1", never)
