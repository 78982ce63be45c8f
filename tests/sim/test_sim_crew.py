"""Processes that train: what they are given, what comes back, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.bench.simulation import PoolData, Workload, bundle_of
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.model.bundle import Bundle
from hedgerow.model.samples import Samples
from hedgerow.sim.engine import Engine

PLAN = LocalPlan(epochs=1.0, batch=8, rate=0.05)
CLIENTS = np.arange(12)

INTERRUPTED = """
import signal
import numpy as np
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.bench.simulation import PoolData, Workload, bundle_of
from hedgerow.core.schema import LocalPlan
from hedgerow.model.samples import Samples
from hedgerow.sim.engine import Engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
bundle = bundle_of(Workload())
pool = Samples(np.zeros((64, 64), np.float32), np.zeros(64, np.int64))
model, plan = {"weights": bundle.weights}, LocalPlan(epochs=1.0, batch=8, rate=0.05)
with Engine(bundle, PoolData(pool, 10**7, 64, 10), workers=2, processes=True) as engine:
    engine.sums(FedAvg(), model, plan, np.arange(2000), 0)
    print(*engine.processes, flush=True)
    engine.sums(FedAvg(), model, plan, np.arange(10**7), 1)
"""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundle_of(Workload())


def pool(classes: int = 10) -> Samples:
    rng = np.random.default_rng(1)
    return Samples(rng.standard_normal((256, 64), np.float32), rng.integers(0, classes, 256))


class Deadly(PoolData):
    """Whoever looks at the samples of client 7 in another process than this one is gone."""

    def __init__(self, whole: Samples, here: int) -> None:
        super().__init__(whole, len(CLIENTS), 16, 10)
        self._given = whole, here

    def __reduce__(self) -> tuple[type[PoolData], tuple[object, ...]]:  # type: ignore[override]
        return Deadly, self._given

    def views(self, clients: NDArray[np.int64], round: int = 0):  # type: ignore[no-untyped-def]
        if 7 in clients and os.getpid() != self._given[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().views(clients, round)


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_they_end_with_the_engine(bundle: Bundle) -> None:
    data, model = PoolData(pool(), len(CLIENTS), 16, 10), {"weights": bundle.weights}
    with Engine(bundle, data, workers=2, together=3, processes=True) as engine:
        assert engine.processes == []
        first = engine.sums(FedAvg(), model, PLAN, CLIENTS, 0)
        numbers = engine.processes
        again = engine.sums(FedAvg(), model, PLAN, CLIENTS, 0)
        other = engine.sums(FedAvg(), model, replace(PLAN, rate=0.1), CLIENTS, 0)
        assert engine.processes == numbers and all(map(alive, numbers))
    assert len(numbers) == 2 and not any(map(alive, numbers))
    assert first.sums.digest() == again.sums.digest() != other.sums.digest()


def test_one_worker_needs_no_other_process(bundle: Bundle) -> None:
    data, model = PoolData(pool(), len(CLIENTS), 16, 10), {"weights": bundle.weights}
    with Engine(bundle, data, workers=1, processes=True) as engine:
        assert engine.sums(FedAvg(), model, PLAN, CLIENTS, 0).clients == len(CLIENTS)
        assert engine.processes == []


def test_their_errors_come_back_and_they_go_on(bundle: Bundle) -> None:
    data = PoolData(pool(classes=99), len(CLIENTS), 16, 10)
    with Engine(bundle, data, workers=2, together=3, processes=True) as engine:
        for _ in range(2):
            with pytest.raises(UsageError, match="labels reach from"):
                engine.sums(FedAvg(), {"weights": bundle.weights}, PLAN, CLIENTS, 0)
        with pytest.raises(ValueError, match=r"broadcast .* \(4809,\)"):
            engine.sums(FedAvg(), {"weights": bundle.weights[1:]}, PLAN, CLIENTS, 0)
        assert len(engine.processes) == 2


def test_one_that_is_killed_is_told_of_and_replaced(bundle: Bundle) -> None:
    data, model = Deadly(pool(), os.getpid()), {"weights": bundle.weights}
    with Engine(bundle, data, workers=2, together=3, processes=True) as engine:
        with pytest.raises(UsageError, match="ended with -9"):
            engine.sums(FedAvg(), model, PLAN, CLIENTS, 0)
        got = engine.sums(FedAvg(), model, PLAN, CLIENTS[:7], 0)
    with Engine(bundle, data, workers=2) as engine:
        wanted = engine.sums(FedAvg(), model, PLAN, CLIENTS[:7], 0)
    assert got.sums.digest() == wanted.sums.digest()


def test_what_cannot_be_given_to_them_is_refused(bundle: Bundle) -> None:
    class Here(PoolData):
        def __reduce__(self) -> tuple[type[PoolData], tuple[Samples, int, int, int]]:
            return Here, (pool(), 1, 16, 10)

    model = {"weights": bundle.weights}
    with Engine(bundle, Here(pool(), 1, 16, 10), workers=2, processes=True) as engine:
        with pytest.raises(UsageError, match="take threads"):
            engine.sums(FedAvg(), model, PLAN, CLIENTS[:1], 0)
        assert engine.processes == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_none_is_left_behind(sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as main:
        assert main.stdout is not None
        numbers = [int(word) for word in main.stdout.readline().split()]
        assert len(numbers) == 2 and all(map(alive, numbers))
        os.killpg(main.pid, sent)
        main.wait(60)
    until = time.monotonic() + 60
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, numbers))
