"""Devices that lose power in a simulated fleet."""

import pytest

from hedgerow.protocol.device_state import Event
from hedgerow.sim.device import Device
from hedgerow.sim.devices import DeviceSettings
from hedgerow.sim.fleet import Fleet
from tests.sim.small_world import experiment, moving, run_out, watch_bundle


def test_a_device_without_power_hears_and_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[bool] = []
    take = Device._take

    def watched(self: Device, fleet: Fleet, event: Event) -> None:
        running.append(self.running)
        take(self, fleet, event)

    monkeypatch.setattr(Device, "_take", watched)
    chosen = experiment(
        mode="fleet",
        rounds={"cohort": 6, "quorum": 3, "deadline_seconds": 60, "retry_seconds": 1},
        devices=DeviceSettings(crash_hours=0.002, restart_seconds=5),
    )
    fleet = run_out(moving(watch_bundle(), chosen, 20)[0])
    assert isinstance(fleet, Fleet)
    assert fleet.outcomes["crash"] > 0
    assert all(running)
    assert not fleet.batches.waiting or all(node.running for node in fleet.nodes.values())
