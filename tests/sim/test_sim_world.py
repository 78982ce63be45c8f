"""Fleets in virtual time: the machines, rounds without machines, and taking a run up again."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.fedcm import FedCM
from hedgerow.algorithms.selection import (
    Budget,
    Uniform,
)
from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.model.bundle import Bundle
from hedgerow.protocol.learning import Shape
from hedgerow.seal.codec import Codec
from hedgerow.seal.eden import Eden
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK
from hedgerow.sim import checkpoint
from hedgerow.sim.availability import Churn, Diurnal, Trace
from hedgerow.sim.batches import Batches
from hedgerow.sim.course import CHECKPOINT, ROWS, Course, finished_rows, rows_so_far
from hedgerow.sim.devices import DeviceSettings, Tier
from hedgerow.sim.energy import EnergySettings
from hedgerow.sim.experiment import Experiment, Measure, Output, Run
from hedgerow.sim.network import NetworkSettings, Partition
from hedgerow.sim.residuals import Residuals
from hedgerow.sim.results import RoundRow
from hedgerow.wire.messages import Offer
from hedgerow.wire.weights import model_ref
from tests.sim.small_world import (
    CLIENTS,
    PLAN,
    NearnessGauge,
    PullingEngine,
    experiment,
    moving,
    run_out,
    small_data,
    watch_bundle,
)

STC = Codec(stages=(TopK(share=0.05), Ternary()), feedback=True)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return watch_bundle()


# The machines -------------------------------------------------------------------------------------


def test_a_fleet_learns_what_plain_fedavg_says_it_learns(bundle: Bundle) -> None:
    fleet, engine = moving(bundle, experiment(mode="fleet"))
    run_out(fleet)
    shared = bundle.manifest.layout.shared_size
    mean_goal = np.mean([engine.goal(k)[:shared] for k in range(CLIENTS)], axis=0)
    gap = (1 - PLAN.rate) ** 6
    wanted = mean_goal + gap * (bundle.weights[:shared] - mean_goal)
    assert fleet.weights == pytest.approx(wanted, abs=1e-5)
    assert fleet.totals.updates == 6 * CLIENTS and fleet.totals.wasted == 0


def test_machines_and_rounds_without_them_give_the_same_bits(bundle: Bundle) -> None:
    weights = [
        run_out(moving(bundle, experiment(mode=mode, codec=STC))[0]).weights
        for mode in ("fleet", "rounds")
    ]
    assert weights[0].tobytes() == weights[1].tobytes()


def test_those_who_train_from_one_model_are_trained_in_one_batch(bundle: Bundle) -> None:
    settings = DeviceSettings(spread=1.0)
    fleet, engine = moving(bundle, experiment(mode="fleet", devices=settings))
    run_out(fleet)
    assert engine.calls == [list(range(CLIENTS))] * 6


def test_whoever_is_stopped_before_anybody_is_due_is_never_computed(bundle: Bundle) -> None:
    batches, engine = Batches(Residuals(4)), PullingEngine(bundle, small_data(4))
    shape = Shape(FedAvg(), bundle.manifest.layout)
    model = bundle.weights[: bundle.manifest.layout.shared_size]
    offer = Offer(
        round=1,
        model=model_ref(1, model),
        plan=PLAN,
        algorithm=FedAvg(),
        codecs=(Codec(),),
        deadline_seconds=60,
    )
    keys = [batches.begin(client, offer, model) for client in range(4)]
    batches.stop(2, keys[2])
    first = batches.finish(1, keys[1], engine, shape)
    assert first is not None and engine.calls == [[0, 1, 3]]
    batches.stop(3, keys[3])
    assert batches.finish(0, keys[0], engine, shape) is not None
    assert engine.calls == [[0, 1, 3]] and not batches.waiting


def test_the_same_seed_gives_the_same_history_and_another_seed_another(bundle: Bundle) -> None:
    chosen = experiment(
        mode="fleet",
        rounds={"cohort": 5, "quorum": 2, "deadline_seconds": 40},
        network=NetworkSettings(loss=0.1, duplication=0.1, spread=0.5),
        availability=Churn(on_seconds=200, off_seconds=50),
        devices=DeviceSettings(spread=0.7, crash_hours=0.1, restart_seconds=5),
    )
    ends = [run_out(moving(bundle, chosen, 30, seed)[0]) for seed in (1, 1, 2)]
    first, second, other = ((e.now, e.events, e.weights.tobytes()) for e in ends)
    assert first == second != other


def test_faults_cost_time_and_no_update_counts_twice(bundle: Bundle) -> None:
    cut = (Partition(from_seconds=5, to_seconds=60, share=0.5),)
    chosen = experiment(
        mode="fleet",
        rounds={"cohort": 6, "quorum": 3, "deadline_seconds": 60, "retry_seconds": 1},
        network=NetworkSettings(loss=0.2, duplication=0.3, partitions=cut),
        devices=DeviceSettings(crash_hours=0.05, restart_seconds=10),
    )
    fleet = run_out(moving(bundle, chosen, 20)[0])
    assert fleet.outcomes["crash"] > 0 and fleet.outcomes["duplicate"] > 0
    assert fleet.done == 6
    assert 6 * 3 <= fleet.totals.updates <= 6 * 6
    assert fleet.totals.updates == fleet.state.outcomes["counted"]


def test_a_buffer_does_not_wait_for_the_slow(bundle: Bundle) -> None:
    slow = DeviceSettings(start_seconds=5, tiers=(Tier(weight=3), Tier(slower=10_000)))
    rules = {"cohort": 10, "quorum": 2, "deadline_seconds": 400}
    sync = run_out(moving(bundle, experiment(mode="fleet", rounds=rules, devices=slow), 20)[0])
    buffered = experiment(mode="fleet", rounds=rules, devices=slow, algorithm=FedBuff(buffer=10))
    fast = run_out(moving(bundle, buffered, 20)[0])
    assert fast.now < sync.now / 3
    assert fast.totals.stale > 0 and sync.totals.stale == 0


def test_a_low_battery_declines(bundle: Bundle) -> None:
    empty = EnergySettings(
        capacity_joules=100,
        start_share=0.1,
        reserve_share=0.99,
        charge_from_hour=0.05,
        charge_to_hour=1,
        charge_watts=1000,
    )
    chosen = experiment(mode="fleet", rounds={"quorum": 2, "rounds": 1}, energy=empty)
    fleet = run_out(moving(bundle, chosen)[0])
    assert fleet.now >= 0.05 * 3600  # nobody could before it was charged


def test_a_selection_hears_what_devices_say_of_themselves(bundle: Bundle) -> None:
    paying = NetworkSettings(metered_share=0.5)
    chosen = experiment(
        mode="fleet",
        rounds={"quorum": 1, "rounds": 2},
        network=paying,
        selection=Uniform(budget=Budget(metered=False)),
    )
    fleet, engine = moving(bundle, chosen)
    run_out(fleet)
    metered = set(np.flatnonzero(fleet.devices.links.metered).tolist())
    assert metered and not metered & {k for call in engine.calls for k in call}


def test_patches_are_the_same_with_and_without_machines(bundle: Bundle) -> None:
    coded = Codec(stages=(Eden(bits=4),))
    worlds = [
        run_out(moving(bundle, experiment(mode=mode, codec=coded, down=STC))[0])
        for mode in ("fleet", "rounds")
    ]
    assert worlds[0].weights.tobytes() == worlds[1].weights.tobytes()
    assert [blob.bytes for blob in worlds[0].state.way.blobs] == worlds[1].patches


def test_patches_cost_less_than_models(bundle: Bundle) -> None:
    whole, patched = (
        run_out(moving(bundle, experiment(mode="fleet", down=down))[0]) for down in (None, STC)
    )
    assert patched.totals.bytes_down < whole.totals.bytes_down / 3
    # The first model is there already: five patches came in place of five models.
    assert patched.totals.bytes_up == pytest.approx(whole.totals.bytes_up, rel=0.01)


def test_a_fleet_that_is_never_there_is_an_error_that_says_so(
    bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "nobody.csv"
    path.write_text("device,from_seconds,to_seconds\n0,0,1\n")
    never = Trace(file=str(path))
    with pytest.raises(HedgerowError, match="availability"):
        run_out(moving(bundle, experiment(mode="fleet", availability=never))[0])
    with pytest.raises(HedgerowError, match="availability"):
        run_out(moving(bundle, experiment(availability=never))[0])


# Rounds without machines --------------------------------------------------------------------------


def test_a_round_ends_with_the_last_of_the_cohort_or_at_the_deadline(bundle: Bundle) -> None:
    # 8 samples at 0.5 s and 1 s to start: 5 s of work, and 100 times that for the slow.
    devices = DeviceSettings(
        seconds_per_sample=0.5, start_seconds=1, tiers=(Tier(), Tier(slower=100))
    )
    fast_links = NetworkSettings(
        up_bytes_per_second=1e12, down_bytes_per_second=1e12, latency_seconds=0
    )
    rules = {"quorum": 1, "rounds": 1, "deadline_seconds": 60}
    chosen = experiment(rounds=rules, devices=devices, network=fast_links)
    world = run_out(moving(bundle, chosen)[0])
    quick = int((world.devices.tier == 0).sum())
    assert world.now == pytest.approx(60) and world.totals.updates == quick
    patient = experiment(
        rounds={**rules, "deadline_seconds": 1e4}, devices=devices, network=fast_links
    )
    world = run_out(moving(bundle, patient)[0])
    assert world.now == pytest.approx(401) and world.totals.updates == CLIENTS


def test_over_selection_pays_for_its_speed_with_wasted_work(bundle: Bundle) -> None:
    devices = DeviceSettings(spread=1.5)
    spent = {}
    for share in (0.0, 0.5):
        rules = {"cohort": 6, "quorum": 6, "over_selection": share}
        world = run_out(moving(bundle, experiment(rounds=rules, devices=devices))[0])
        spent[share] = (world.now, world.joules, world.totals.updates)
    assert spent[0.5][0] < spent[0.0][0] and spent[0.5][1] > spent[0.0][1]
    assert spent[0.5][2] == spent[0.0][2] == 36


def test_a_device_fetches_what_it_lacks_of_the_model(bundle: Bundle) -> None:
    whole = 4 * bundle.manifest.layout.shared_size

    def lacking(world: Any) -> list[int]:
        return list(world._model_bytes(np.arange(2)))

    world, _ = moving(bundle, experiment(down=STC, patches_kept=3))
    assert lacking(world) == [0, 0]  # version 0 came with the bundle
    world.patches = [100, 20, 3]
    world.versions[1] = 2
    assert lacking(world) == [123, 3]
    world.versions[0] = 1
    world.patches.append(whole)
    assert lacking(world) == [whole, whole]  # patches that weigh more than the model
    world.patches[3], world.versions[1] = 1, 0
    assert lacking(world) == [24, whole]  # four versions behind, three patches are kept
    # FedCM's devices need more than came with the bundle; without a codec nobody has patches.
    world, _ = moving(bundle, experiment(algorithm=FedCM(), down=STC))
    assert lacking(world) == [2 * whole, 2 * whole]
    world, _ = moving(bundle, experiment())
    world.patches = [whole, whole]
    assert lacking(world) == [whole, whole]


@pytest.mark.parametrize("down", [None, STC], ids=["models", "patches"])
@pytest.mark.parametrize("seconds", [0.005, 5.0], ids=["quick", "slow"])
def test_both_modes_send_the_same_bill(bundle: Bundle, down: Codec | None, seconds: float) -> None:
    """Everybody is there and nothing fails; a quarter of the fleet learns, and all fetch."""
    worlds = []
    for mode in ("fleet", "rounds"):
        chosen = experiment(
            mode=mode,
            codec=Codec() if down is None else STC,
            down=down,
            rounds={"cohort": 10, "quorum": 10, "devices_min": 40},
            devices=DeviceSettings(seconds_per_sample=seconds),
        )
        worlds.append(run_out(moving(bundle, chosen, 40)[0]))
    fleet, rounds = worlds
    assert rounds.totals.bytes_up == pytest.approx(fleet.totals.bytes_up, rel=0.05)
    assert rounds.totals.bytes_down == pytest.approx(fleet.totals.bytes_down, rel=0.05)
    assert rounds.joules == pytest.approx(fleet.joules, rel=0.05)


def test_what_came_with_the_bundle_does_for_algorithms_that_bring_no_more(bundle: Bundle) -> None:
    bytes_down = {
        (mode, name): run_out(
            moving(bundle, experiment(mode=mode, algorithm=algorithm, rounds={"rounds": 1}))[0]
        ).totals.bytes_down
        for mode in ("fleet", "rounds")
        for name, algorithm in (("fedavg", FedAvg()), ("fedcm", FedCM()))
    }
    whole = 4 * CLIENTS * bundle.manifest.layout.shared_size
    for mode in ("fleet", "rounds"):
        assert bytes_down[mode, "fedavg"] < 0.2 * whole
        assert 2 * whole < bytes_down[mode, "fedcm"] < 2.2 * whole


def test_rounds_wait_for_the_night(bundle: Bundle) -> None:
    night = Diurnal(from_hour=3, to_hour=5, spread_hours=0)
    world = run_out(moving(bundle, experiment(rounds={"rounds": 1}, availability=night))[0])
    assert 3 * 3600 <= world.now <= 3 * 3600 + 120


# The course of a run ------------------------------------------------------------------------------

HARD = {
    "rounds": {"cohort": 5, "quorum": 2, "deadline_seconds": 60},
    "codec": STC,
    "down": STC,
    "network": NetworkSettings(loss=0.05, spread=0.5),
    "availability": Churn(on_seconds=300, off_seconds=60),
    "energy": EnergySettings(capacity_joules=1000),
    "output": Output(checkpoint_rounds=2),
}
KINDS = {
    "rounds": experiment(**HARD),
    "machines": experiment(mode="fleet", **HARD),
    "buffer": experiment(mode="fleet", algorithm=FedBuff(buffer=3), **HARD),
}


def course(
    bundle: Bundle,
    chosen: Experiment,
    home: Path | None,
    stop: Callable[[], bool] = lambda: False,
) -> Course:
    world, engine = moving(bundle, chosen, 20)
    run = Run(label="x", seed=0, experiment=chosen)
    return Course(run, world, NearnessGauge(engine), 20, home, stop=stop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_or_killed_ends_in_the_same_bits(
    bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    straight = course(bundle, KINDS[kind], None)
    assert straight.go()
    seen: list[RoundRow] = []

    def after_three() -> bool:
        return len(broken.rows) > 3

    broken = course(bundle, KINDS[kind], tmp_path, after_three)
    assert not broken.go()
    assert finished_rows(tmp_path) is None and len(rows_so_far(tmp_path)) == 4

    class Killed(Exception):
        pass

    def dies(row: RoundRow) -> None:
        seen.append(row)
        if row.round == 5:
            raise Killed

    killed = course(bundle, KINDS[kind], tmp_path)
    killed.told = dies
    with pytest.raises(Killed):
        killed.go()
    last = course(bundle, KINDS[kind], tmp_path)
    assert last.go()
    assert last.rows == straight.rows == finished_rows(tmp_path)
    assert last.moving.weights.tobytes() == straight.moving.weights.tobytes()
    assert seen[0].round == 4  # it did not begin again
    assert sorted(path.name for path in tmp_path.iterdir()) == [ROWS]


def test_rows_are_measured_when_they_are_due(bundle: Bundle) -> None:
    chosen = experiment(measure=Measure(every=2, devices_every=4))
    done = course(bundle, msgspec.structs.replace(chosen), None)
    assert done.go()
    assert [row.round for row in done.rows] == [0, 2, 4, 6]
    spreads = [row.device_worst_decile for row in done.rows]
    assert [value is not None for value in spreads] == [True, False, True, True]
    up = [row.bytes_up for row in done.rows]
    assert up[0] == 0 and up == sorted(up) and done.rows[-1].updates == 6 * CLIENTS


def test_a_run_ends_when_its_time_is_up(bundle: Bundle) -> None:
    chosen = experiment(mode="fleet", seconds_max=3.0, rounds={"quorum": 1, "rounds": 1000})
    done = course(bundle, chosen, None)
    assert done.go()
    assert done.rows[-1].seconds <= 3.0 <= done.moving.now < 3.5


def test_a_folder_of_another_run_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    broken = course(bundle, experiment(), tmp_path, lambda: True)
    assert not broken.go()
    other = course(bundle, experiment(seconds_max=1e6), tmp_path)
    with pytest.raises(UsageError, match="another experiment"):
        other.go()


# Checkpoints --------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


@pytest.mark.parametrize("what", [Bomb(), np.save, Path("x"), {"a": [Bomb()]}])
def test_a_checkpoint_from_elsewhere_calls_nothing(
    tmp_path: Path, what: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(pickle.dumps({"x": what}))
    with pytest.raises(UsageError, match="delete it"):
        checkpoint.load(path)
    assert capsys.readouterr().out == ""


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    checkpoint.save(path, {"x": np.arange(3)})
    kept = checkpoint.load(path)
    assert kept is not None and kept["x"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match="delete it"):
        checkpoint.load(path)
    assert checkpoint.load(tmp_path / "none") is None
