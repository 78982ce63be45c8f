"""The MQTT sensor: payloads, times, labels; then all of it through a real broker."""

import asyncio
import contextlib
import json
import math
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.io import plugins
from hedgerow.io.json_path import Path as JsonPath
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.connection import Connection, Message
from hedgerow.io.senml import Record, encode_cbor, encode_json
from hedgerow.io.sensors.base import Block, Label, Reading, SensorDown
from hedgerow.io.sensors.mqtt import Intake, Mqtt
from hedgerow.io.sensors.timeline import Timeline, blocks_of
from hedgerow.io.surroundings import Surroundings
from tests.io.brokers import mosquitto

NOW = 1_700_000_000.0


def surroundings(*channels: str, rate_hz: float = 10.0) -> Surroundings:
    return Surroundings(
        device="gate", state=Path("/nowhere"), channels=channels or ("x", "y"), rate_hz=rate_hz
    )


def reads(
    payload: Any, *, around: Surroundings | None = None, on: str = "t/p1", **settings: Any
) -> tuple[list[Reading], dict[str, int]]:
    """What the sensor makes of one message that arrives at `NOW`, and what it left out."""
    sensor = plugins.sensor({"kind": "mqtt", "topic": "t/{stream}", **settings})
    assert isinstance(sensor, Mqtt)
    intake = Intake(sensor, around or surroundings())
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return intake.take([Message(on, data, False, NOW)]), dict(intake.dropped)


def only(readings: Sequence[Reading]) -> Block:
    (block,) = readings
    assert isinstance(block, Block)
    return block


@pytest.mark.parametrize(
    ("text", "document", "found"),
    [
        ("$", 5, 5),
        ("$.a.b", {"a": {"b": 1}}, 1),
        ("$.data[0].x", {"data": [{"x": 1.5}]}, 1.5),
        ("$['a b'][-1]", {"a b": [1, 2]}, 2),
        ("$[*][1]", [[1, 2], [3, 4]], [2, 4]),
        ("$.r[*].x", {"r": [{"x": 1}, {"x": 2}]}, [1, 2]),
        ("$.r[*].x.y", {"r": [{"x": {"y": 1}}]}, [1]),
        ("$[*][*].x", [[{"x": 1}], [{"x": 2}, {"x": 3}]], [1, 2, 3]),
    ],
)
def test_paths_find(text: str, document: Any, found: Any) -> None:
    assert JsonPath(text).find(document) == found


@pytest.mark.parametrize("text", ["", "a", "$.", "$..a", "$[", "$[1:2]", "$.a[?(@.b)]", "$.a b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no path"):
        JsonPath(text)


@pytest.mark.parametrize("document", [{}, {"a": 1}, {"a": []}, {"a": [{}]}, [], None])
def test_paths_that_find_nothing_say_so(document: Any) -> None:
    with pytest.raises(LookupError, match=r"\$\.a\[\*\]\.x|nothing"):
        JsonPath("$.a[*].x").find(document) or JsonPath("$.a[0]").find(document)


def test_one_sample_by_the_channels_names() -> None:
    block = only(reads({"x": 1.5, "y": -2, "t": NOW - 3}, time="$.t")[0])
    assert (block.stream, block.time_seconds, block.historical) == ("p1", NOW - 3, False)
    np.testing.assert_array_equal(block.samples, np.array([[1.5, -2]], np.float32))
    assert block.samples.dtype == np.float32


def test_arrays_by_paths_end_when_the_message_came() -> None:
    block = only(
        reads(
            {"data": [{"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "b": None}]},
            channels={"x": "$.data[*].a", "y": "$.data[*].b"},
        )[0]
    )
    assert block.time_seconds == pytest.approx(NOW - 0.2)
    np.testing.assert_array_equal(
        block.samples, np.array([[1, 4], [2, 5], [3, math.nan]], np.float32)
    )


@pytest.mark.parametrize(
    ("given", "unit", "seconds"),
    [
        (NOW, "s", NOW),
        (0, "s", 0.0),
        (1_700_000_000_250, "ms", NOW + 0.25),
        (1_700_000_000_250_000, "us", NOW + 0.25),
        ("2023-11-14T22:13:20Z", "s", NOW),
        ("2023-11-14T23:13:20.5+01:00", "s", NOW + 0.5),
    ],
)
def test_times_in_many_forms(given: Any, unit: str, seconds: float) -> None:
    block = only(reads({"x": 1, "y": 2, "t": given}, time="$.t", time_unit=unit)[0])
    assert block.time_seconds == pytest.approx(seconds, abs=1e-3)


def test_a_time_of_the_last_sample() -> None:
    payload = {"x": [1, 2, 3], "y": [1, 2, 3], "t": NOW}
    block = only(reads(payload, time="$.t", time_of="last")[0])
    assert block.time_seconds == pytest.approx(NOW - 0.2)


def test_samples_with_a_time_each_part_where_one_is_missing() -> None:
    times = [NOW, NOW + 0.1, NOW + 0.5, NOW + 0.2]
    readings, _ = reads({"x": [0, 1, 5, 2], "y": [0, 1, 5, 2], "t": times}, time="$.t")
    assert [(block.time_seconds, block.samples[:, 0].tolist()) for block in readings] == [  # type: ignore[union-attr]
        (NOW, [0, 1, 2]),
        (NOW + 0.5, [5]),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "json"),
        ({"x": 1}, "path"),
        ({"x": "1", "y": 2}, "values"),
        ({"x": True, "y": 2}, "values"),
        ({"x": [1, 2], "y": 2}, "values"),
        ({"x": [[1], [2]], "y": 2}, "values"),
        ({"x": [1, [2]], "y": 2}, "values"),
        ({"x": [], "y": []}, "values"),
        ({"x": 10**400, "y": 2}, "values"),
        ({"x": 1, "y": 2, "t": "yesterday"}, "time"),
        ({"x": 1, "y": 2, "t": True}, "time"),
        ({"x": [1, 2], "y": [1, 2], "t": [NOW]}, "time"),
        ({"x": 1, "y": 2, "t": 2.6e11}, "time"),
        ({"x": 1, "y": 2, "t": -1}, "time"),
        # Of NumPy's own making these would be 2 TB.
        ({"x": ["a" * 1_000_000, *[""] * 500_000], "y": 2}, "values"),
    ],
)
def test_what_cannot_be_used_is_counted_by_reason(payload: Any, reason: str) -> None:
    asks: dict[str, Any] = {"time": "$.t"} if isinstance(payload, dict) and "t" in payload else {}
    assert reads(payload, **asks) == ([], {reason: 1})


def test_raw_blocks_with_and_without_a_header() -> None:
    samples = np.arange(6, dtype="<f4").reshape(3, 2)
    block = only(reads(samples.tobytes(), format="raw")[0])
    np.testing.assert_array_equal(block.samples, samples)
    assert block.time_seconds == pytest.approx(NOW - 0.2)
    header = b"AB" + struct.pack("<Q", int((NOW - 9) * 1e9))
    numbers = np.array([[1, 2, 3], [-4, 5, 6]], "<i2")  # all x, then all y
    raw: dict[str, Any] = {"dtype": "int16", "order": "channels", "scale": 0.5, "header_bytes": 10}
    block = only(
        reads(
            header + numbers.tobytes(),
            format="raw",
            raw={**raw, "time": "uint64_ns", "time_at": 2},
        )[0]
    )
    np.testing.assert_array_equal(
        block.samples, np.array([[0.5, -2], [1, 2.5], [1.5, 3]], np.float32)
    )
    assert block.time_seconds == pytest.approx(NOW - 9)


@pytest.mark.parametrize("payload", [b"", b"1234567", b"1" * 20])
def test_a_raw_block_of_a_wrong_length_is_counted(payload: bytes) -> None:
    assert reads(payload, format="raw") == ([], {"raw": 1})


@pytest.mark.parametrize("encode", [encode_json, encode_cbor])
def test_senml_by_the_ends_of_names(encode: Callable[[list[Record]], bytes]) -> None:
    pack = [
        Record(f"urn:dev:mac:00{device}:{channel}", value + step, NOW + step / 10)
        for device, value in (("a1", 1.0), ("b2", 2.0))
        for step in range(3)
        for channel in ("x", "y", "status")
    ] + [Record("urn:dev:mac:00a1:x", 9.0, NOW + 0.3)]
    readings, _ = reads(encode(pack), on="senml", topic="senml", format="senml")
    assert [(block.stream, block.time_seconds) for block in readings] == [  # type: ignore[union-attr]
        ("urn:dev:mac:00a1", NOW),
        ("urn:dev:mac:00b2", NOW),
    ]
    np.testing.assert_array_equal(
        readings[1].samples,  # type: ignore[union-attr]
        np.array([[2, 2], [3, 3], [4, 4]], np.float32),
    )
    # A topic that names the stream goes before.
    assert only(reads(encode(pack[:3]), format="senml")[0]).stream == "p1"
    assert reads(encode([Record("other", 1.0)]), format="senml") == ([], {"senml": 1})


def test_labels_come_by_a_topic_of_their_own() -> None:
    settings: dict[str, Any] = {"topic": "t/{stream}/data", "labels_topic": "t/{stream}/label"}
    good = {"label": "outer race", "start": NOW, "end": NOW + 60}
    readings, _ = reads(good, on="t/p1/label", **settings)
    assert readings == [Label("p1", NOW, NOW + 60, "outer race")]
    for bad in ({"label": "x"}, {**good, "end": NOW}, {**good, "label": ""}, [1]):
        assert reads(bad, on="t/p1/label", **settings) == ([], {"label": 1})


def test_an_old_retained_message_is_left_out_unless_wanted() -> None:
    data = b'{"x": 1, "y": 2}'
    for retained, wanted in ((False, 0), (True, 1)):
        intake = Intake(Mqtt(topic="t/{stream}", retained=retained), surroundings())
        assert len(intake.take([Message("t/p1", data, True, NOW)])) == wanted


def test_streams_are_bounded() -> None:
    intake = Intake(Mqtt(topic="t/{stream}", streams_max=2), surroundings())
    messages = [Message(f"t/{name}", b'{"x":1,"y":2}', False, NOW) for name in "abca"]
    assert [reading.stream for reading in intake.take(messages)] == ["a", "b", "a"]
    assert intake.dropped == {"streams": 1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"topic": ""}, "topic is empty"),
        ({"topic": "t/#/x"}, "wildcard"),
        ({"topic": "t", "format": "senml", "time": "$.t"}, "time is a path"),
        ({"topic": "t", "format": "raw", "channels": {"x": "a"}}, "take channels out"),
        ({"topic": "t", "raw": {"time": "uint64_ns"}}, "part of the header"),
        ({"topic": "t", "raw": {"scale": 0}}, "raw.scale"),
        ({"topic": "t", "broker": {"url": "tcp://x"}}, "broker.url"),
        ({}, "topic"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plugins.sensor({"kind": "mqtt", **settings})


def test_channels_that_the_model_has_not_are_refused() -> None:
    with pytest.raises(UsageError, match="channels names z; the model wants x, y"):
        Mqtt(topic="t", channels={"z": "$.z"}).decoder(surroundings())


def test_a_timeline_is_steady_under_jitter_and_lets_gaps_be() -> None:
    timeline = Timeline(100.0, 10)  # blocks of 100 samples, one a second
    draw = np.random.default_rng(3)
    begins = [timeline.begin("a", 50 + at + draw.uniform(0, 0.2), 100) for at in range(200)]
    assert np.abs(np.diff(begins) - 1).max() <= 0.0025 + 1e-9  # a quarter of a sample period
    assert timeline.begin("a", 50 + 200 + 3, 100) == 253  # three blocks are missing
    assert timeline.begin("a", 100, 100) == 100  # the clock was set back
    assert timeline.begin("b", 7, 100) == 7


def test_a_timeline_follows_a_clock_that_drifts() -> None:
    timeline = Timeline(100.0, 10)
    for at in range(1000):  # 0.1 % slow
        begin = timeline.begin("a", at * 1.001, 100)
        assert abs(begin - at * 1.001) < 0.05


def test_blocks_of_regular_and_single_samples() -> None:
    samples = np.zeros((3, 1), np.float32)
    times = np.array([0.0, 10.0, 20.0])
    assert len(blocks_of("a", times, samples, 0.1)) == 1
    assert len(blocks_of("a", times, samples, 1.0)) == 3
    assert blocks_of("a", times[:0], samples[:0], 1.0) == []


async def gather(readings: AsyncGenerator[Sequence[Reading], None], count: int) -> list[Reading]:
    got: list[Reading] = []
    async with asyncio.timeout(60), contextlib.aclosing(readings):
        async for batch in readings:
            got += batch
            if len(got) >= count:
                break
    return got


def test_many_streams_through_a_real_broker(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            sensor = plugins.sensor(
                {
                    "kind": "mqtt",
                    "topic": "factory/{stream}/vibration",
                    "format": "raw",
                    "qos": 1,
                    "labels_topic": "factory/{stream}/label",
                    "broker": {"url": server.url, "session_seconds": 60},
                }
            )
            # The session is kept, so what is published before the sensor opens again waits for it.
            async with Connection(server.broker, "mouth") as mouth:
                opened = sensor.batches(surroundings("x", rate_hz=12_000))
                reading = asyncio.ensure_future(gather(opened, 21))
                while not reading.done():
                    block = np.full(1200, 1, "<f4").tobytes()
                    for number in range(20):
                        mouth.publish(f"factory/m{number}/vibration", block, qos=1)
                    label = {"label": "good", "start": 1, "end": 2}
                    mouth.publish("factory/m0/label", json.dumps(label).encode(), qos=1)
                    await asyncio.sleep(0.05)
                got = await reading
            blocks = [each for each in got if isinstance(each, Block)]
            assert {block.stream for block in blocks} == {f"m{number}" for number in range(20)}
            assert all(block.samples.shape == (1200, 1) for block in blocks)
            assert Label("m0", 1, 2, "good") in got

    asyncio.run(scene())


def test_a_broker_that_is_away_at_the_start_is_a_sensor_that_is_down() -> None:
    async def scene() -> None:
        sensor = Mqtt(topic="a", broker=Broker(url="mqtt://127.0.0.1:1"))
        with pytest.raises(SensorDown, match="not reachable"):
            await gather(sensor.batches(surroundings()), 1)

    asyncio.run(scene())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["x", "y", "t", "label", "start", "end"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


INTAKES = [
    Intake(settings, surroundings("x"))
    for settings in (
        Mqtt(topic="t", time="$.t"),
        Mqtt(topic="t", time="$.t[*]"),
        Mqtt(topic="t", format="senml"),
        Mqtt(topic="t", format="raw"),
        Mqtt(topic="data", labels_topic="t"),
    )
]


@given(st.binary(max_size=60) | JSON.map(lambda each: json.dumps(each).encode()))
def test_no_message_ends_the_sensor(payload: bytes) -> None:
    for intake in INTAKES:
        before = intake.dropped.total()
        readings = intake.take([Message("t", payload, False, NOW)])
        assert bool(readings) != (intake.dropped.total() > before)


def test_a_number_of_many_digits_is_left_out() -> None:
    digits = b"1" + b"0" * 9000
    for payload in (b'{"x":%b,"y":1,"t":0}', b'{"x":1,"y":1,"t":%b}', b'{"x":[%b],"y":[1],"t":0}'):
        readings, dropped = reads(payload % digits, time="$.t")
        assert readings == []
        assert sum(dropped.values()) == 1
