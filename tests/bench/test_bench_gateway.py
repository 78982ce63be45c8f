"""The gateway's benchmark with few machines, in memory and through a real broker."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from hedgerow.bench import gateway
from hedgerow.bench.gateway import GatewayResult, Scene, bench_gateway
from hedgerow.bench.gateway_machines import due_seconds, shares
from hedgerow.cli import main

RATE_HZ = 12_000.0


def sound(result: GatewayResult, machines: int, seconds: int, rate_hz: float = RATE_HZ) -> None:
    """What holds of any run on any machine."""
    assert result.machines == result.ready == machines
    assert result.samples_per_s == machines * rate_hz
    assert result.dropped == 0
    # Every machine's windows of the phase in real time; the first may have begun before it.
    each = seconds * rate_hz / 2048
    assert machines * (each - 1) <= result.windows <= machines * (each + 1)
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.cpu_percent > 0
    assert result.rss_mb > 0


def test_in_memory_it_learns_keeps_up_and_then_goes_as_fast_as_it_can() -> None:
    said: list[str] = []
    result = bench_gateway(6, RATE_HZ, 2, say=said.append)
    sound(result, 6, 2)
    assert result.through == "memory"
    assert result.realtime_factor is not None
    assert result.realtime_factor > 1
    assert len(said) == 3


def test_a_command_prints_it_as_json() -> None:
    done = CliRunner().invoke(
        main, ["bench", "gateway", "--machines", "3", "--rate", "12000", "--seconds", "4", "--json"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["machines"], told["dropped"], told["samples_per_s"]) == (3, 0, 36_000.0)
    assert {"realtime_factor", "cpu_percent", "rss_mb", "p99_ms"} <= told.keys()


def test_through_a_real_broker_every_window_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four times as quick, so that less time of a real broker is as much to learn from.
    monkeypatch.setattr(gateway, "LEARN_SECONDS", 7)
    result = bench_gateway(4, 4 * RATE_HZ, 2, mqtt=True)
    sound(result, 4, 2, 4 * RATE_HZ)
    assert (result.through, result.realtime_factor) == ("mqtt", None)


def test_windows_are_due_with_the_block_that_completes_them() -> None:
    machines = 250
    rows = np.arange(machines)
    ticks = np.concatenate([np.full(len(some), tick) for tick, some in enumerate(shares(machines))])
    assert len(ticks) == machines
    due = due_seconds(machines, rows, np.full(machines, 5.0))
    # A machine whose block of a second begins at tick t sends it when its last sample is there.
    for row in range(machines):
        begins = ticks[row] / 100
        ends = begins + np.arange(10) + 1
        assert due[row] == pytest.approx(ends[ends >= 5.0 - 1e-6].min() - 1 + 0.01)


def test_windows_are_counted_without_a_gap() -> None:
    scene = Scene(3, RATE_HZ, 1)
    assert scene.windows(0) == 0
    assert scene.windows(1) == 3 * 5
    assert scene.windows(10) == 3 * 58
