"""What a broker that anybody may publish to can send: names and times that nobody can use."""

import json
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from hedgerow.io import plugins
from hedgerow.io.actuators.webhook import body_of
from hedgerow.io.mqtt.connection import Connection, Message
from hedgerow.io.sensors import mqtt, sparkplug
from hedgerow.io.sensors.base import STREAM_BYTES_MAX, Reading
from hedgerow.io.sparkplug.payload import DataType, Metric, Payload, encode
from hedgerow.io.sparkplug.topics import Topic
from hedgerow.io.surroundings import Surroundings
from tests.io.notices import notice

NOW = 1_700_000_000.0
AROUND = Surroundings(device="gate", state=Path("/nowhere"), channels=("x",), rate_hz=1.0)


def heard(on: str, payload: bytes, **settings: Any) -> tuple[list[Reading], dict[str, int]]:
    sensor = plugins.sensor({"kind": "mqtt", "topic": "t/{stream}", **settings})
    assert isinstance(sensor, mqtt.Mqtt)
    intake = mqtt.Intake(sensor, AROUND)
    return intake.take([Message(on, payload, False, NOW)]), dict(intake.dropped)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("x" * STREAM_BYTES_MAX, True),
        ("x" * (STREAM_BYTES_MAX + 1), False),
        ("ä" * (STREAM_BYTES_MAX // 2 + 1), False),
        ("x" * 65_000, False),
    ],
)
def test_a_name_too_long_for_a_topic_of_ours_is_no_stream(name: str, fits: bool) -> None:
    readings, dropped = heard(f"t/{name}", b'{"x":1}')
    assert (len(readings), dropped) == ((1, {}) if fits else (0, {"streams": 1}))


def test_a_name_in_a_pack_is_bounded_too() -> None:
    pack = json.dumps([{"n": "a" * 600 + ":x", "v": 1}]).encode()
    assert heard("t", pack, topic="t", format="senml") == ([], {"streams": 1})


def test_a_label_of_a_name_too_long_is_left_out() -> None:
    given = json.dumps({"label": "worn", "start": NOW, "end": NOW + 1}).encode()
    told = heard("l/" + "x" * 300, given, labels_topic="l/{stream}")
    assert told == ([], {"label": 1})


@pytest.mark.parametrize("stamp", [1e300, -1.0, 3e11])
def test_a_header_with_an_unbelievable_time_is_left_out(stamp: float) -> None:
    raw = {"header_bytes": 8, "time": "float64_s"}
    payload = struct.pack("<df", stamp, 1.0)
    assert heard("t/a", payload, format="raw", raw=raw) == ([], {"time": 1})


@pytest.mark.parametrize(
    ("device", "when", "reason"), [("x" * 300, NOW, "streams"), ("press", 1e16, "time")]
)
def test_sparkplug_devices_with_such_names_and_times_are_left_out(
    device: str, when: float, reason: str
) -> None:
    sensor = plugins.sensor({"kind": "sparkplug"})
    assert isinstance(sensor, sparkplug.Sparkplug)
    intake = sparkplug.Intake(sensor, AROUND)
    stamp = round(1000 * when)
    metric = Metric("x", 1.0, DataType.DOUBLE, stamp)
    born = Message(Topic("g", "NBIRTH", "n").text(), encode(Payload(stamp, 0)), False, NOW)
    data = encode(Payload(stamp, 1, (metric,)))
    message = Message(Topic("g", "DBIRTH", "n", device).text(), data, False, NOW)
    assert intake.take([born, message], cast("Connection", None)) == []
    assert intake.host.dropped == {reason: 1}


@pytest.mark.parametrize("when", [1e300, -1e12, float("nan")])
def test_a_notice_of_no_moment_is_posted_all_the_same(when: float) -> None:
    told = json.loads(body_of("gate", [notice(time_seconds=when)]))
    assert told["timestamp"] == "1970-01-01T00:00:00.000Z"
