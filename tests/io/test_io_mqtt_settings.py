"""Topics and settings of MQTT, Home Assistant and Sparkplug, and that they are explained."""

import re
from pathlib import Path

import msgspec
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.actuators import home_assistant
from hedgerow.io.actuators import mqtt as actuators
from hedgerow.io.actuators import sparkplug as sparkplug_actuator
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.topics import Topics, fill, level
from hedgerow.io.sensors import mqtt as sensors
from hedgerow.io.sensors import payloads
from hedgerow.io.sensors import sparkplug as sparkplug_sensor


@pytest.mark.parametrize(
    ("template", "asked", "topic", "stream"),
    [
        (
            "factory/{stream}/vibration",
            "factory/+/vibration",
            "factory/press-4/vibration",
            "press-4",
        ),
        ("factory/dev-{stream}/x", "factory/+/x", "factory/dev-7/x", "7"),
        ("site/+/{stream}/x", "site/+/+/x", "site/north/p1/x", "p1"),
        ("site/+/+/x", "site/+/+/x", "site/north/p1/x", "north/p1"),
        ("site/#", "site/#", "site/north/p1", "north/p1"),
        ("{stream}/#", "+/#", "p1/a/b", "p1"),
        ("one/topic", "one/topic", "one/topic", "one/topic"),
        ("$share/group/a/{stream}", "$share/group/a/+", "a/p1", "p1"),
        ("a/{stream}/b.c", "a/+/b.c", "a/p1/bxc", None),
        ("a/{stream}/x", "a/+/x", "b/p1/x", None),
        ("a/{stream}/x", "a/+/x", "a/p1/y/x", None),
    ],
)
def test_a_topic_names_its_stream(
    template: str, asked: str, topic: str, stream: str | None
) -> None:
    topics = Topics(template)
    assert topics.filter == asked
    assert topics.stream(topic) == stream


@pytest.mark.parametrize(
    "template", ["", "a/{stream}/{stream}", "a/{device}", "a/b+/c", "a/#/b", "a/b#"]
)
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="topic"):
        Topics(template)


def test_a_topic_to_publish_to_has_no_wildcards() -> None:
    assert fill("h/{device}/{stream}", device="a+b", stream="x/#\n") == "h/a_b/x/__"
    assert level("a/b+c") == "a_b_c"
    with pytest.raises(UsageError, match=r"may use \{stream\}"):
        fill("h/{owner}", stream="x")
    with pytest.raises(UsageError, match="wildcards"):
        fill("h/+/{stream}", stream="x")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://broker"}, "wanted mqtt://"),
        ({"url": "mqtt://"}, "wanted mqtt://"),
        ({"url": "mqtt://broker:99999"}, "no URL"),
        ({"url": "mqtt://me:secret@broker"}, "holds a user or password"),
        ({"password": "env:X"}, "no user"),
        ({"ca_file": "/x"}, "use mqtts://"),
        ({"url": "mqtts://broker", "key_file": "/x"}, "together"),
    ],
)
def test_a_broker_that_cannot_work_is_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Broker(**settings)  # type: ignore[arg-type]


def test_a_broker_says_where_it_is() -> None:
    assert Broker(url="mqtts://b.example").address() == ("b.example", 8883, True, "")
    assert Broker(url="ws://b.example/m").address() == ("b.example", 80, False, "/m")
    assert Broker(url="mqtt://b.example:1", user="me").in_clear()
    assert not Broker(url="mqtt://127.0.0.1", user="me").in_clear()


@pytest.mark.parametrize(
    "settings",
    [
        *(Broker, sensors.Mqtt, payloads.RawLayout, sparkplug_sensor.Sparkplug),
        *(actuators.Mqtt, home_assistant.HomeAssistant, sparkplug_actuator.Sparkplug),
    ],
    ids=lambda settings: f"{settings.__module__}.{settings.__name__}",
)
def test_every_setting_is_explained(settings: type[msgspec.Struct]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text()
    missing = [
        name for name in settings.__struct_fields__ if not re.search(rf"`(\w+\.)?{name}`", page)
    ]
    assert missing == []
