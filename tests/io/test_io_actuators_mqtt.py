"""Decisions over MQTT and Sparkplug B, to a real broker that comes and goes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import plugins, senml
from hedgerow.io.actuators.base import Act, ActuatorDown
from hedgerow.io.actuators.sparkplug import Sparkplug
from hedgerow.io.sparkplug.host import Data, Died, Event, Host
from hedgerow.io.sparkplug.payload import decode
from hedgerow.io.surroundings import Surroundings
from tests.io.brokers import Listener, Mosquitto, listening, mosquitto
from tests.io.ledger import Ledger
from tests.io.notices import NOW, notice

TOPIC = "hedgerow/gate/press 4/decision"


def surroundings(directory: Path, ledger: Ledger | None = None) -> Surroundings:
    return Surroundings(
        device="gate",
        state=directory,
        channels=("x",),
        rate_hz=1.0,
        egress=Ledger() if ledger is None else ledger,
    )


@asynccontextmanager
async def scene(
    directory: Path, kind: str, ledger: Ledger | None = None, **settings: Any
) -> AsyncIterator[tuple[Act, Listener, Mosquitto]]:
    """An actuator at work on a broker, and an ear on it."""
    with mosquitto(directory / "server") as server:
        async with listening(server.broker) as ear:
            actuator = plugins.actuator({"kind": kind, "broker": {"url": server.url}, **settings})
            async with actuator.open(surroundings(directory, ledger)) as act:
                yield act, ear, server


def test_a_decision_is_published_and_written_down(tmp_path: Path) -> None:
    async def play() -> None:
        ledger = Ledger()
        async with scene(tmp_path, "mqtt", ledger) as (act, ear, server):
            await act([notice(), notice("a/b+#", label="fault", alert=True)])
            await ear.until(lambda ear: ear.on("hedgerow/gate/a/b__/decision"))
            (payload,) = ear.on(TOPIC)
            said = json.loads(payload)
            assert (said["stream"], said["label"], said["drift"]) == ("press 4", "normal", None)
            assert [(left.to, left.kind) for left in ledger.entries] == [
                (server.url, "state"),
                (server.url, "alert"),
            ]
            assert ledger.entries[0].size == len(payload)

    asyncio.run(play())


def test_a_decision_as_senml(tmp_path: Path) -> None:
    async def play() -> None:
        settings: dict[str, Any] = {"format": "senml", "topic": "d/{stream}"}
        async with scene(tmp_path, "mqtt", **settings) as (act, ear, _):
            await act([notice(alert=True)])
            await ear.until(lambda ear: ear.on("d/press 4"))
            records = senml.decode(ear.on("d/press 4")[0], 0)
            assert {record.name: record.value for record in records} == {
                "press_4:label": "normal",
                "press_4:confidence": 0.25,
                "press_4:alert": True,
                "press_4:score": 0.5,
                "press_4:model": "vibration 1.2",
                "press_4:reason": "normal at 0.25",
            }
            assert {record.time_seconds for record in records} == {NOW}

    asyncio.run(play())


def test_what_was_decided_while_the_broker_was_away_comes_afterwards(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, "mqtt", backlog_max=3, retain=True) as (act, _, server):
            await act([notice(label="before")])
            server.stop()
            await asyncio.sleep(0.2)
            for number in range(6):
                await act([notice(f"press {number}")])
            server.start()
            async with listening(server.broker) as late:
                await late.until(lambda late: late.on("hedgerow/gate/press 5/decision"))
                topics = {each.topic for each in late.messages}
                assert {f"hedgerow/gate/press {number}/decision" for number in (3, 4, 5)} <= topics
                assert "hedgerow/gate/press 0/decision" not in topics

    asyncio.run(play())


class Scada:
    """A host application's view of what an ear hears."""

    def __init__(self, ear: Listener) -> None:
        self.host = Host()
        self.events: list[Event] = []
        self._ear = ear
        self._heard = 0

    def look(self) -> list[Event]:
        for message in self._ear.messages[self._heard :]:
            self.events += self.host.take(message.topic, message.payload, 0.0)
        self._heard = len(self._ear.messages)
        return self.events

    def predictions(self) -> list[tuple[str, Any, bool]]:
        """Device, prediction and whether it is historical, of births and data alike."""
        return [
            (event.device, metric.value, metric.historical)
            for event in self.look()
            if isinstance(event, Data)
            for metric in event.metrics
            if metric.name == "Prediction"
        ]

    def births(self) -> int:
        return sum(
            isinstance(event, Data) and event.birth and not event.device for event in self.look()
        )


def state(online: bool, timestamp: int) -> bytes:
    return json.dumps({"online": online, "timestamp": timestamp}).encode()


def test_streams_are_devices_of_an_edge_node(tmp_path: Path) -> None:
    async def play() -> None:
        ledger = Ledger()
        async with scene(tmp_path, "sparkplug", ledger, group="plant") as (act, ear, _):
            scada = Scada(ear)
            await act([notice(), notice("line 2/press 5", label="fault", alert=True)])
            await act([notice(time_seconds=NOW + 1), notice(label="worn", time_seconds=NOW + 2)])
            await ear.until(lambda _: len(scada.predictions()) >= 3)
            assert scada.predictions() == [
                ("press 4", "normal", False),
                ("line 2_press 5", "fault", False),
                ("press 4", "worn", False),
            ]
            last = scada.events[-1]
            assert isinstance(last, Data)
            # Only what changed, with its own time.
            assert {metric.name: metric.timestamp_ms for metric in last.metrics} == {
                "Prediction": round((NOW + 2) * 1000)
            }
            assert scada.host.dropped == {}
            kinds = [each.topic.split("/")[2] for each in ear.messages if "plant" in each.topic]
            assert kinds == ["NBIRTH", "DBIRTH", "DBIRTH", "DDATA"]
            assert len(ledger.entries) == 5  # and the will

    asyncio.run(play())


def test_an_orderly_end_is_a_death_and_a_restart_counts_on(tmp_path: Path) -> None:
    async def play() -> None:
        with mosquitto(tmp_path / "server") as server:
            async with listening(server.broker) as ear:
                scada = Scada(ear)
                for count in (1, 2):
                    actuator = Sparkplug(broker=server.broker)
                    async with actuator.open(surroundings(tmp_path)) as act:
                        await act([notice()])
                    await ear.until(
                        lambda _, n=count: sum(isinstance(e, Died) for e in scada.look()) == n  # type: ignore[misc]
                    )
                births = [m.payload for m in ear.messages if "NBIRTH" in m.topic]
                bd_seqs = [decode(payload).metrics[0].value for payload in births]
                assert bd_seqs == [0, 1]
                assert scada.host.dropped == {}

    asyncio.run(play())


def test_a_rebirth_is_given_when_asked_for(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, "sparkplug") as (act, ear, _):
            scada = Scada(ear)
            await act([notice()])
            await ear.until(lambda _: scada.predictions())
            ear.connection.publish(*Host.rebirth("hedgerow", "gate", 0))
            await ear.until(lambda _: scada.births() == 2)
            await ear.until(lambda _: len(scada.predictions()) == 2)
            assert scada.host.dropped == {}

    asyncio.run(play())


def test_a_backlog_is_historical_and_the_newest_is_now(tmp_path: Path) -> None:
    async def play() -> None:
        # The primary host holds the births back until the ear of the second half is there.
        topic = "spBv1.0/STATE/scada"
        settings: dict[str, Any] = {"backlog_max": 4, "primary_host": "scada"}
        async with scene(tmp_path, "sparkplug", **settings) as (act, ear, server):
            scada = Scada(ear)
            await act([notice()])
            ear.connection.publish(topic, state(True, 100), qos=1, retain=True)
            await ear.until(lambda _: scada.predictions())
            server.stop()
            await asyncio.sleep(0.2)
            for number in range(6):
                await act([notice(label=f"away {number}", time_seconds=NOW + number)])
            server.start()
            async with listening(server.broker) as late:
                scada = Scada(late)
                late.connection.publish(topic, state(True, 200), qos=1, retain=True)
                await late.until(lambda _: len(scada.predictions()) >= 5)
                assert scada.predictions() == [
                    ("press 4", "normal", False),  # the birth: what was last said
                    ("press 4", "away 2", True),
                    ("press 4", "away 3", True),
                    ("press 4", "away 4", True),
                    ("press 4", "away 5", False),
                ]
                assert scada.host.dropped == {}

    asyncio.run(play())


def test_births_wait_for_the_primary_host_and_end_with_it(tmp_path: Path) -> None:
    async def play() -> None:
        topic = "spBv1.0/STATE/scada"
        async with scene(tmp_path, "sparkplug", primary_host="scada") as (act, ear, _):
            scada = Scada(ear)
            await act([notice(label="kept"), notice(label="kept 2")])
            say = ear.connection.publish
            say(topic, state(False, 100), qos=1, retain=True)
            await ear.until(lambda ear: ear.on(topic))
            assert not scada.predictions()
            say(topic, state(True, 200), qos=1, retain=True)
            await ear.until(lambda _: len(scada.predictions()) == 3)
            assert scada.predictions() == [
                ("press 4", None, False),
                ("press 4", "kept", True),
                ("press 4", "kept 2", False),
            ]
            say(topic, state(False, 150), qos=1)  # older than its birth: left out
            await act([notice(label="live")])
            await ear.until(lambda _: len(scada.predictions()) == 4)
            say(topic, state(False, 200), qos=1, retain=True)
            await ear.until(lambda _: any(isinstance(each, Died) for each in scada.look()))
            await act([notice(label="alone")])
            say(topic, state(True, 300), qos=1, retain=True)
            await ear.until(lambda _: scada.births() == 2 and len(scada.predictions()) == 6)
            assert scada.predictions()[-1] == ("press 4", "alone", False)

    asyncio.run(play())


def test_what_only_moves_numbers_goes_now_and_then(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, "sparkplug", every_seconds=3600) as (act, ear, _):
            scada = Scada(ear)
            for number in range(100):
                await act([notice(confidence=number / 100)])
            await act([notice(alert=True), notice(), notice(label="last")])
            await ear.until(lambda _: ("press 4", "last", False) in scada.predictions())
            told = [event for event in scada.events if isinstance(event, Data) and event.device]
            assert len(told) == 4

    asyncio.run(play())


def test_devices_are_bounded(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, "sparkplug", devices_max=2) as (act, ear, _):
            scada = Scada(ear)
            await act([notice(f"press {number}") for number in range(5)])
            await act([notice("press 1", label="last")])
            await ear.until(lambda _: ("press 1", "last", False) in scada.predictions())
            assert {device for device, _, _ in scada.predictions()} == {"press 0", "press 1"}

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["mqtt", "sparkplug"])
def test_a_broker_that_is_away_at_the_start_is_an_actuator_that_is_down(
    tmp_path: Path, kind: str
) -> None:
    async def play() -> None:
        actuator = plugins.actuator({"kind": kind, "broker": {"url": "mqtt://127.0.0.1:1"}})
        with pytest.raises(ActuatorDown, match="not reachable"):
            async with actuator.open(surroundings(tmp_path)):
                pass

    asyncio.run(play())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "mqtt", "topic": "a/{owner}"}, "names 'owner'"),
        ({"kind": "mqtt", "topic": "a/#"}, "wildcards"),
        ({"kind": "mqtt", "qos": 3}, "qos"),
        ({"kind": "sparkplug", "group": "a/b"}, "group is"),
        ({"kind": "sparkplug", "group": ""}, "group is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plugins.actuator(settings)
