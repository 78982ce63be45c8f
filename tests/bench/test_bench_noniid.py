"""What `bench noniid` runs and what it makes of it, with runs that are made up."""

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms import defaults
from hedgerow.algorithms.base import Schedule
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.bench.experiments import bundle_of
from hedgerow.bench.models.pictures import digits, fashion
from hedgerow.bench.noniid import (
    GRID,
    OURS,
    PLAIN,
    TRIALS,
    Ask,
    Do,
    bench_noniid,
    measured,
    names,
    run_of,
    stranger_run,
    table,
)
from hedgerow.bench.noniid import Row as Result
from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.sim.experiment import Run
from hedgerow.sim.results import RoundRow


def row(run: Run, number: int, accuracy: float, devices: float | None = None) -> RoundRow:
    return RoundRow(
        run=run.label,
        seed=run.seed,
        round=number,
        seconds=1.0,
        accuracy=accuracy,
        device_mean=devices,
        device_worst_decile=None if devices is None else devices - 0.25,
        bytes_up=1000 * number,
    )


def made_up(final: Callable[[Run], float]) -> tuple[Do, list[Run]]:
    """Every run is at 0.5 after one round and at `final` after twenty."""
    done: list[Run] = []

    def do(run: Run) -> list[RoundRow]:
        done.append(run)
        end = final(run)
        return [row(run, 0, 0.1, 0.1), row(run, 1, 0.5), row(run, 20, end, end + 0.05)]

    return do, done


# What is run --------------------------------------------------------------------------------------


def test_every_algorithm_does_the_same_work_on_the_same_devices() -> None:
    ask = Ask()
    assert len(names()) == len(set(names())) > 10
    assert {OURS, PLAIN, "scaffold", "ditto", "fedbuff"} <= set(names())
    for dataset in TRIALS:
        for name in names():
            run = run_of(ask, dataset, name, 2, 0.1)
            plan = run.experiment.plan
            assert plan is not None
            assert (plan.epochs, plan.batch, plan.rate) == (TRIALS[dataset].epochs, 32, 0.1)
            assert run.seed == 2
            assert run.experiment.rounds.rounds == 20
            assert run.experiment.data == run_of(ask, dataset, PLAIN, 0, 0.4).experiment.data
            assert run.experiment.rounds.cohort == 10


def test_plain_fedavg_is_plain() -> None:
    experiment = run_of(Ask(epochs=0.5), "fashion", PLAIN, 0, 0.2).experiment
    assert experiment.algorithm == FedAvg(rate=1.0, momentum=0.0, schedule=Schedule())
    assert experiment.plan == LocalPlan(epochs=0.5, batch=32, rate=0.2)


def test_the_default_keeps_rate_and_work_of_a_plan() -> None:
    plan = LocalPlan(epochs=3.0, batch=7, rate=0.03, augment=("jitter",))
    better = defaults.steadied(plan)
    assert (better.momentum, better.gradient_norm_max, better.calibrate) == (0.9, 1.0, 1.0)
    assert (
        msgspec.structs.replace(better, momentum=0.0, gradient_norm_max=0.0, calibrate=0.0) == plan
    )


def test_a_stranger_is_left_out_and_tested_on() -> None:
    experiment = stranger_run(7, 5).experiment
    assert experiment.data.leave_out == ("7",)
    assert experiment.rounds.cohort == 9
    assert experiment.plan is None  # the bundle's own


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="wanted some of: watch, fashion, digits"):
        Ask(datasets=("mnist",))
    with pytest.raises(UsageError, match="'fedsgd'"):
        Ask(algorithms=("fedsgd",))


# What it comes to ---------------------------------------------------------------------------------


def test_means_over_seeds_by_hand() -> None:
    runs = [run_of(Ask(), "digits", PLAIN, seed, 0.1) for seed in range(2)]
    target = TRIALS["digits"].target
    rows = [
        row(runs[0], 0, 0.1, 0.1),
        row(runs[0], 3, target),
        row(runs[0], 4, 0.8, 0.9),
        row(runs[1], 0, 0.1, 0.1),
        row(runs[1], 4, 0.9, 0.7),
    ]
    result = measured(Result(dataset="digits", algorithm=PLAIN), rows)
    assert result.accuracy == 0.85
    assert (result.low, result.high) == (0.8, 0.9)
    assert result.device_accuracy == 0.8
    assert result.worst_decile == 0.55
    assert result.rounds == 3.5
    assert result.bytes_up == 3500
    assert result.seeds == 2
    never = measured(Result(dataset="digits", algorithm=PLAIN), [*rows[:3], row(runs[1], 4, 0.2)])
    assert never.rounds is None
    assert never.bytes_up is None


def test_the_margin_is_to_plain_fedavg_at_its_best_rate() -> None:
    def final(run: Run) -> float:
        plan = run.experiment.plan
        if plan is None:
            return 0.9
        plain = run.label.split(" · ")[1] == PLAIN
        return 0.6 + plan.rate if plain and plan.rate < 0.4 else 0.3 if plain else 0.95

    do, done = made_up(final)
    ask = Ask(datasets=("watch", "digits"), algorithms=(OURS, "fedprox"), seeds=2)
    result = bench_noniid(ask, do)
    # 0.95 less the 0.8 of rate 0.2; watch by devices, where both have 0.05 more
    assert result.default_margin_points == {"watch": 15.0, "digits": 15.0}
    assert result.grid["digits"] == {"0.05": 0.65, "0.1": 0.7, "0.2": 0.8, "0.4": 0.3}
    assert [r.algorithm for r in result.results] == [OURS, PLAIN, "fedprox"] * 2
    assert {r.rate for r in result.results if r.algorithm != OURS} == {0.2}
    assert result.leave_one_wearer_out == 0.9
    assert len(result.strangers) == 10
    assert len(done) == 2 * 2 * (len(GRID) + 2) + 10
    shown = table(result)
    assert "default above plain fedavg, points: watch +15.0, digits +15.0" in shown
    assert "a wearer nobody trained on: 0.900" in shown


def test_a_run_that_fails_ends_no_other() -> None:
    def final(run: Run) -> float:
        if "fedprox" in run.label:
            raise HedgerowError("it went wrong")
        return 0.9

    do, _ = made_up(final)
    ask = Ask(datasets=("digits",), algorithms=("fedprox", "fedyogi"), seeds=1, strangers=False)
    result = bench_noniid(ask, do)
    told = {r.algorithm: r for r in result.results}
    assert told["fedprox"].failed == "it went wrong"
    assert told["fedprox"].accuracy is None
    assert told["fedyogi"].accuracy == 0.9
    assert result.default_margin_points == {}
    assert result.leave_one_wearer_out is None
    assert "–" in table(result)


# The models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "size"), [(fashion, 46_730), (digits, 5_994)])
def test_the_bundles_are_what_their_scripts_make(make: Callable[[], object], size: int) -> None:
    from hedgerow import author

    spec = make()
    assert isinstance(spec, author.Spec)
    bundle = bundle_of(spec.name, Path())
    assert bundle.manifest.layout.size == size
    assert bundle.manifest.output.bias == "head.bias"  # so that it can be calibrated
    assert len(bundle.parts) == 3
    rng = np.random.default_rng(0)
    agreement = author.check(bundle, spec, rng, clients=2, batch=5)
    assert agreement.agrees
    wanted = spec.layout().flatten(
        {name: tensor.detach().numpy() for name, tensor in spec.module.named_parameters()}
    )
    assert math.isclose(float(np.abs(bundle.weights - wanted).max()), 0.0)
