"""Settings that cannot work are named before anything starts."""

from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.serve.settings import CoordinatorSettings, DeviceSettings, load_settings
from tests.bench.processes import Command


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("check_in_seconds", "0"),
        ("report_seconds", "0"),
        ("threads", "0"),
        ("threads", "65"),
        ("personalise_epochs", "0"),
        ("personalise_rate", "0"),
        ("personalise_after_seconds", "-1"),
        ("sensor.kind", "radar"),
        ("sensor.speed", "0"),
    ],
)
def test_a_device_setting_out_of_bounds_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"\$\.{name}"):
        load_settings(DeviceSettings, None, {}, {name: value})


@pytest.mark.parametrize("wearer", ["", "abc", "0", "11", "-1"])
def test_a_replay_wants_one_of_the_wearers(wearer: str) -> None:
    flags = {"sensor.kind": "replay", "sensor.wearer": wearer}
    with pytest.raises(UsageError, match="set it to one of 1 to 10"):
        load_settings(DeviceSettings, None, {}, flags)


@pytest.mark.parametrize("rounds", ["0", "1"])
def test_a_rate_that_falls_over_the_rounds_wants_their_number(rounds: str) -> None:
    flags = {"algorithm.schedule.kind": "cosine", "rounds.rounds": rounds}
    with pytest.raises(UsageError, match="2 or more"):
        load_settings(CoordinatorSettings, None, {}, flags)
    loaded = load_settings(CoordinatorSettings, None, {}, {**flags, "rounds.rounds": "2"})
    assert loaded.algorithm.schedule.kind == "cosine"


def test_a_wearer_that_is_none_is_one_line(tmp_path: Path) -> None:
    with Command(tmp_path, "device", "--wearer", "abc", "--state", str(tmp_path / "s")) as command:
        done = command.done(30)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "sensor.wearer is 'abc'" in done.err
