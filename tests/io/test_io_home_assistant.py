"""Entities of Home Assistant: the announcement by its published schema, the rest over a broker."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import plugins
from hedgerow.io.actuators.base import Act, ActuatorDown
from hedgerow.io.actuators.home_assistant import Board, HomeAssistant
from hedgerow.io.actuators.home_assistant_discovery import Names, discovery, slug, state, unique
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.surroundings import Surroundings
from tests.io.brokers import Listener, Mosquitto, listening, mosquitto, until
from tests.io.ledger import Ledger
from tests.io.notices import notice

SCHEMA = json.loads((Path(__file__).parent / "home_assistant.schema.json").read_text())

# From homeassistant/components/mqtt/abbreviations.py, those that are used here.
SHORT = {"dev": "device", "o": "origin", "cmps": "components"}
SHORT_DEVICE = {
    "ids": "identifiers",
    "mf": "manufacturer",
    "mdl": "model",
    "sw": "sw_version",
}
SHORT_ORIGIN = {"sw": "sw_version", "url": "support_url"}

CONFIG = "homeassistant/device/hedgerow_gate_press_4_{}/config"
NAMES = Names("homeassistant", "hedgerow", "gate")
CONFIG_4, STATE_4 = NAMES.config("press 4"), NAMES.state("press 4")


def long(given: dict[str, Any]) -> dict[str, Any]:
    """A payload as Home Assistant sees it, abbreviations written out."""
    full = {SHORT.get(key, key): value for key, value in given.items()}
    full["device"] = {SHORT_DEVICE.get(key, key): value for key, value in full["device"].items()}
    full["origin"] = {SHORT_ORIGIN.get(key, key): value for key, value in full["origin"].items()}
    full["components"] = {
        name: {{"p": "platform"}.get(key, key): value for key, value in entity.items()}
        for name, entity in full["components"].items()
    }
    return full


@pytest.mark.parametrize("stream", ["press 4", "p", "plant/Größe #1", "ü" * 300, ""])
def test_the_announcement_fits_the_published_schema(stream: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    made = long(json.loads(discovery(NAMES, stream)))
    jsonschema.validate(made, SCHEMA, jsonschema.Draft202012Validator)
    assert list(made["components"]) == [
        *("prediction", "confidence", "score"),
        *("drift", "model", "alert"),
    ]
    assert made["components"]["alert"]["platform"] == "binary_sensor"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("device", "identifiers"), []),
        (("device", "identifier"), "x"),
        (("origin",), {}),
        (("components", "alert", "device_class"), "alarm"),
        (("components", "alert", "state_class"), "measurement"),
        (("components", "score", "unique_id"), ""),
        (("state_topic",), "a/#"),
        (("retain",), True),
    ],
)
def test_the_schema_sees_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    made = long(json.loads(discovery(NAMES, "press 4")))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA, jsonschema.Draft202012Validator)


def test_ids_stay_and_no_two_streams_share_one() -> None:
    made = long(json.loads(discovery(NAMES, "press 4")))
    # Ids are what automations hang on: this test is to fail when they change.
    assert made["device"]["identifiers"] == ["hedgerow_gate_press_4_ec71e445"]
    assert CONFIG.format("ec71e445") == CONFIG_4
    score = made["components"]["score"]
    assert score["unique_id"] == "hedgerow_gate_press_4_ec71e445_score"
    assert score["default_entity_id"] == "sensor.press_4_score"
    names = ["press 4", "press-4", "press_4", "Press 4", "press  4"]
    assert {slug(name) for name in names} == {"press_4"}
    assert len({unique(name) for name in names}) == len(names)


def test_the_state_holds_what_the_templates_ask_for() -> None:
    made = json.loads(state(notice(label="x" * 300, alert=True)))
    assert made["prediction"] == "x" * 255
    assert (made["alert"], made["score"], made["drift"]) == ("ON", 0.5, None)
    for entity in json.loads(discovery(NAMES, "p"))["cmps"].values():
        field = entity["value_template"].removeprefix("{{ value_json.").removesuffix(" }}")
        assert field in made


@asynccontextmanager
async def scene(
    directory: Path, **settings: Any
) -> AsyncIterator[tuple[Act, Listener, Mosquitto, Ledger]]:
    """The actuator at work on a broker, and an ear on it."""
    ledger = Ledger()
    with mosquitto(directory / "server") as server:
        async with listening(server.broker) as ear:
            table = {"kind": "home_assistant", "broker": {"url": server.url}, **settings}
            around = surroundings(directory, ledger)
            async with plugins.actuator(table).open(around) as act:
                yield act, ear, server, ledger


def surroundings(directory: Path, ledger: Ledger | None = None, **other: Any) -> Surroundings:
    return Surroundings(
        device="gate",
        state=directory,
        channels=("x",),
        rate_hz=1.0,
        egress=Ledger() if ledger is None else ledger,
        **other,
    )


def states(ear: Listener, topic: str = STATE_4) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in ear.on(topic) if payload]


def heard(topic: str, count: int = 1) -> Callable[[Listener], object]:
    return lambda ear: len(ear.on(topic)) >= count


def test_a_stream_appears_with_all_its_entities_and_its_state(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as (act, ear, server, ledger):
            await act([notice(), notice("press 5", alert=True, label="outer race")])
            await ear.until(heard(STATE_4))
            await ear.until(heard(NAMES.state("press 5")))
            assert ear.on(NAMES.availability) == [b"online"]
            assert ear.on(CONFIG_4) == [discovery(NAMES, "press 4")]
            assert states(ear)[0]["prediction"] == "normal"
            assert states(ear, NAMES.state("press 5"))[0]["alert"] == "ON"
            # Whoever comes later finds everything there.
            async with listening(server.broker) as late:
                wanted = {CONFIG_4, STATE_4, NAMES.availability}
                await late.until(
                    lambda late: wanted <= {each.topic for each in late.messages if each.retain}
                )
            assert {left.kind for left in ledger.entries} == {"state", "alert"}
            assert sum(left.size for left in ledger.entries) >= len(discovery(NAMES, "press 4"))
        # The end is orderly: entities are there and unavailable.

    asyncio.run(play())


def test_leaving_and_breaking_off_make_entities_unavailable(tmp_path: Path) -> None:
    async def play() -> None:
        with mosquitto(tmp_path / "server") as server:
            async with listening(server.broker, NAMES.availability) as ear:
                board = Board(HomeAssistant(broker=server.broker), surroundings(tmp_path))
                async with board.connection:
                    await ear.until(lambda ear: said(ear) == [b"online"])
                    board.connection.reconnect("test")
                    await ear.until(lambda ear: said(ear) == [b"online", b"offline", b"online"])
                    await until(lambda: board.connection.up)
                    board.farewell()
                await ear.until(lambda ear: said(ear) == [b"online", b"offline"] * 2)

    def said(ear: Listener) -> list[bytes]:
        # At least once: what was not acknowledged is said again.
        return [payload for payload, _ in itertools.groupby(ear.on(NAMES.availability))]

    asyncio.run(play())


def test_everything_is_told_again_when_home_assistant_starts(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as (act, ear, _, _):
            await act([notice()])
            await ear.until(heard(STATE_4))
            ear.connection.publish("homeassistant/status", b"online", qos=1)
            await ear.until(heard(STATE_4, 2))
            assert len(ear.on(CONFIG_4)) == 2
            ear.connection.publish("homeassistant/status", b"offline", qos=1)
            await act([notice(label="other")])
            await ear.until(heard(STATE_4, 3))
            assert len(ear.on(CONFIG_4)) == 2

    asyncio.run(play())


def test_changes_go_at_once_and_the_rest_now_and_then(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, every_seconds=0.2) as (act, ear, _, _):
            for number in range(50):
                await act([notice(confidence=number / 100)])
            await act([notice(label="fault", alert=True)])
            for number in range(50):
                await act([notice(label="fault", alert=True, confidence=number / 100)])
            await ear.until(lambda ear: states(ear) and states(ear)[-1]["confidence"] == 0.49)
            shown = states(ear)
            assert [each["prediction"] for each in shown[:2]] == ["normal", "fault"]
            assert len(shown) < 20

    asyncio.run(play())


def test_devices_are_bounded(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, devices_max=2) as (act, ear, _, _):
            await act([notice(f"press {number}") for number in range(5)])
            await act([notice("press 1", label="last")])
            topic = NAMES.state("press 1")
            await ear.until(lambda ear: states(ear, topic)[-1:] == [json.loads(state(last))])
            announced = {each.topic for each in ear.messages if each.topic.endswith("/config")}
            assert announced == {NAMES.config("press 0"), NAMES.config("press 1")}

    last = notice("press 1", label="last")
    asyncio.run(play())


def test_a_stream_that_fell_silent_is_removed_even_after_a_restart(tmp_path: Path) -> None:
    async def play() -> None:
        with mosquitto(tmp_path / "server") as server:
            settings = HomeAssistant(broker=server.broker, remove_after_seconds=3600)
            async with listening(server.broker) as ear:
                async with settings.open(surroundings(tmp_path, now=lambda: 1000.0)) as act:
                    await act([notice(), notice("press 5")])
                async with settings.open(surroundings(tmp_path, now=lambda: 4000.0)) as act:
                    await act([notice("press 5")])
                async with settings.open(surroundings(tmp_path, now=lambda: 5000.0)):
                    await ear.until(
                        lambda ear: ear.on(CONFIG_4)[-1:] == ear.on(STATE_4)[-1:] == [b""]
                    )
                assert b"" not in ear.on(NAMES.config("press 5"))
            async with listening(server.broker) as late:
                await late.until(heard(NAMES.state("press 5")))
                assert late.on(CONFIG_4) == []

    asyncio.run(play())


def test_what_happened_while_the_broker_was_away_is_shown_afterwards(tmp_path: Path) -> None:
    async def play() -> None:
        with mosquitto(tmp_path / "server") as server:
            settings = HomeAssistant(broker=server.broker)
            async with settings.open(surroundings(tmp_path)) as act:
                await act([notice()])
                server.stop()
                await act([notice(label="fault", alert=True), notice("press 9")])
                await asyncio.sleep(0.1)
                await act([notice(label="fault 2", alert=True)])
                server.start()
                async with listening(server.broker) as ear:
                    await ear.until(
                        lambda ear: states(ear) and states(ear)[-1]["prediction"] == "fault 2"
                    )
                    await ear.until(heard(NAMES.state("press 9")))
                    assert ear.on(CONFIG_4)

    asyncio.run(play())


def test_a_broker_that_is_away_at_the_start_is_an_actuator_that_is_down(tmp_path: Path) -> None:
    async def play() -> None:
        settings = HomeAssistant(broker=Broker(url="mqtt://127.0.0.1:1"))
        with pytest.raises(ActuatorDown, match="not reachable"):
            async with settings.open(surroundings(tmp_path)):
                pass

    asyncio.run(play())


@pytest.mark.parametrize("prefix", ["", "a/#", "/a", "a/"])
def test_prefixes_that_cannot_work_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="discovery_prefix"):
        HomeAssistant(discovery_prefix=prefix)
