"""The last row of a run whose time is up."""

from hedgerow.sim.course import Course
from hedgerow.sim.experiment import Measure, Run
from tests.sim.small_world import NearnessGauge, experiment, moving, watch_bundle


def test_the_last_row_has_the_spread_over_devices_although_time_ended_the_run() -> None:
    chosen = experiment(
        mode="fleet",
        seconds_max=3.0,
        rounds={"quorum": 1, "rounds": 1000},
        measure=Measure(devices_every=1000),
    )
    world, engine = moving(watch_bundle(), chosen, 20)
    told: list[int] = []
    run = Run(label="x", seed=0, experiment=chosen)
    done = Course(run, world, NearnessGauge(engine), 20, told=lambda row: told.append(row.round))
    assert done.go()
    assert world.done > 1
    spreads = [row.device_worst_decile is not None for row in done.rows]
    assert spreads == [True, *[False] * (world.done - 1), True]
    assert told == [row.round for row in done.rows]
