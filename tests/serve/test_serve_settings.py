"""Settings that cannot work are named before anything starts."""

from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.serve.settings import (
    CoordinatorSettings,
    DeviceSettings,
    check_connections,
    load_settings,
)
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
        ("streams_max", "0"),
    ],
)
def test_a_device_setting_out_of_bounds_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"\$\.{name}"):
        load_settings(DeviceSettings, None, {}, {name: value})


SENSORS = """
name = "hall 3"
[[sensors]]
kind = "replay"
wearer = "1"
[[sensors]]
kind = "replay"
wearer = "2"
speed = 2
[console]
port = "much"
"""


def test_the_line_of_a_setting_amiss_is_named(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(SENSORS)
    with pytest.raises(UsageError, match=r"device\.toml, line 11: .*console.port"):
        load_settings(DeviceSettings, path, {}, {})
    path.write_text(SENSORS.replace("port", "prot"))
    with pytest.raises(UsageError, match=r"line 11: .*`prot`"):
        load_settings(DeviceSettings, path, {}, {})
    path.write_text("nam = 'x'\n")
    with pytest.raises(UsageError, match=r"line 1: .*`nam`"):
        load_settings(DeviceSettings, path, {}, {})


def test_the_line_of_a_sensors_setting_amiss_is_named(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"

    def said(old: str, new: str) -> str:
        path.write_text(SENSORS.replace('"much"', "1").replace(old, new))
        settings = load_settings(DeviceSettings, path, {}, {})
        with pytest.raises(UsageError) as caught:
            check_connections(settings, path)
        return str(caught.value)

    assert "device.toml, line 9: sensor 'replay': " in said("speed = 2", "speed = 'fast'")
    assert "line 8: " in said('wearer = "2"', 'waerer = "2"')
    assert "line 6: sensor has kind 'reply'" in said(
        'kind = "replay"\nwearer = "2"', 'kind = "reply"'
    )
    bell = '[[actuators]]\nkind = "command"\nargv = ["a"]\ntimeout_seconds = -1\n[console]'
    assert "line 13: actuator 'command': " in said("[console]", bell)


def test_places_in_lists_are_set_by_number(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(SENSORS.replace('"much"', "1"))
    flags = {"sensors.1.speed": "5", "sensors.2.kind": "system"}
    loaded = load_settings(DeviceSettings, path, {"HEDGEROW_SENSORS__0__WEARER": "7"}, flags)
    assert [dict(table) for table in loaded.sensors] == [
        {"kind": "replay", "wearer": "7"},
        {"kind": "replay", "wearer": "2", "speed": "5"},
        {"kind": "system"},
    ]
    with pytest.raises(UsageError, match="'4' is no place in a list of 2"):
        load_settings(DeviceSettings, path, {}, {"sensors.4.speed": "5"})
    with pytest.raises(UsageError, match="no table"):
        load_settings(DeviceSettings, path, {}, {"name.first": "5"})


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
    assert "wearer is 'abc'" in done.err
