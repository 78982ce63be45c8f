"""Samples from Sparkplug B edge nodes.

    [[sensors]]
    kind = "sparkplug"
    broker.url = "mqtt://scada.factory.example"
    group = "press shop"
    channels = { x = "Vibration/X", y = "Vibration/Y" }

Each device is a stream. Its values come when they change and hold until they do again, so they are
put on the model's grid; array metrics are blocks of samples as they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import role_of
from hedgerow.io.mqtt.connection import BrokerDown, Connection, Message, Will
from hedgerow.io.sensors.base import (
    Block,
    Gone,
    Reading,
    Sensor,
    SensorDown,
    is_moment,
    is_stream,
)
from hedgerow.io.sensors.grid import Held
from hedgerow.io.sensors.timeline import Timeline, blocks_of
from hedgerow.io.sparkplug import topics
from hedgerow.io.sparkplug.host import Data, Died, Event, Host
from hedgerow.io.sparkplug.payload import Metric
from hedgerow.io.surroundings import Surroundings

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 60.0
TICK_SECONDS: Final = 1.0
LOG_EVERY_SECONDS: Final = 600.0

_Key = tuple[str, str, str]


class Sparkplug(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings: see docs/mqtt.md. `channels` maps a channel to the name of its metric."""

    broker: Broker = Broker()
    group: str = "+"
    node: str = "+"
    device: str = "+"
    channels: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    stream: str = "{node}/{device}"
    hold_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    host_id: str = ""
    streams_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    queue_bytes_max: Annotated[int, msgspec.Meta(ge=65_536, le=2**31)] = 64 * 2**20
    gather_seconds: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.02

    def __post_init__(self) -> None:
        for name in ("group", "node", "device", "host_id"):
            given = getattr(self, name)
            if given != "+" and any(sign in given for sign in "/+#"):
                raise UsageError(f"{name} is {given!r}; wanted a name, or + for all")
        if not self.group or not self.node:
            raise UsageError("group and node want a name, or + for all")
        if not _named(self.stream, "group", "node", "device"):
            raise UsageError(
                f"stream is {self.stream!r}; wanted the likes of {{group}}/{{node}}/{{device}}"
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Readings of every message that came meanwhile. Raises as `Sensor.batches`."""
        intake = Intake(self, around)
        online: dict[str, int] = {}

        def will() -> Will:
            online["timestamp"] = round(around.now() * 1000)
            return Will(topics.state(self.host_id), _state(False, online["timestamp"]), 1, True)

        def up() -> None:
            intake.host.forget()
            if self.host_id:
                birth = _state(True, online["timestamp"])
                connection.publish(
                    topics.state(self.host_id), birth, qos=1, retain=True, purpose="host is online"
                )

        connection = Connection(
            self.broker,
            role_of(around.device, "sparkplug sensor", self.group, self.node, self.device),
            subscribe=[(filtered, 1) for filtered in self.filters],
            will=will if self.host_id else None,
            on_up=up,
            now=around.now,
            egress=around.egress,
            queue_bytes_max=self.queue_bytes_max,
            linger_seconds=self.gather_seconds,
            patience_seconds=PATIENCE_SECONDS,
        )
        try:
            async with connection:
                try:
                    while True:
                        readings = intake.take(await connection.receive(TICK_SECONDS), connection)
                        if readings:
                            yield readings
                finally:
                    if self.host_id:
                        gone = _state(False, online["timestamp"])
                        connection.publish(topics.state(self.host_id), gone, qos=1, retain=True)
        except BrokerDown as error:
            raise SensorDown(str(error)) from error

    @property
    def filters(self) -> list[str]:
        """Topic filters. All devices, whichever is wanted: a node has one sequence for them all."""
        base = f"{topics.NAMESPACE}/{self.group}/+/{self.node}"
        return [base, f"{base}/+"]


@dataclass
class _Stream:
    name: str
    held: Held
    spoke: bool = False
    past: list[float] = field(default_factory=list)
    """The values of the backlog so far, one a channel."""


class Intake:
    """From messages to readings; keeps what each device said last."""

    def __init__(self, settings: Sparkplug, around: Surroundings) -> None:
        """Raises UsageError when `channels` names what the model has not."""
        unknown = [name for name in settings.channels if name not in around.channels]
        if unknown:
            raise UsageError(
                f"channels names {', '.join(unknown)}; the model wants {', '.join(around.channels)}"
            )
        self.host = Host()
        self._settings = settings
        self._around = around
        names = [settings.channels.get(name, name) for name in around.channels]
        self._places = {name: place for place, name in enumerate(names)}
        self._streams: dict[_Key, _Stream] = {}
        self._timeline = Timeline(around.rate_hz, settings.streams_max)
        self._logged_seconds = -math.inf

    def take(self, messages: Sequence[Message], connection: Connection) -> list[Reading]:
        """The readings that `messages` and the time since hold; requests go out meanwhile."""
        readings: list[Reading] = []
        now = self._around.monotonic()
        for message in messages:
            for event in self.host.take(message.topic, message.payload, now):
                readings += self._event(event, message.time_seconds, connection)
        for event in self.host.due(now):
            readings += self._event(event, self._around.now(), connection)
        return readings

    def _event(self, event: Event, now: float, connection: Connection) -> Sequence[Reading]:
        if isinstance(event, Data):
            return self._data(event, now)
        if isinstance(event, Died):
            return self._died(event, now)
        self._log("asking %r for a rebirth: %s", (event.group, event.node), event.reason)
        topic, payload = Host.rebirth(event.group, event.node, round(now * 1000))
        connection.publish(topic, payload, kind="command", purpose="rebirth wanted")
        return []

    def _died(self, event: Died, now: float) -> list[Reading]:
        """Streams that ended: a device's one, or all of a node."""
        if event.device:
            keys = [(event.group, event.node, event.device)]
        else:
            keys = [key for key in self._streams if key[:2] == (event.group, event.node)]
        gone: list[Reading] = []
        for key in keys:
            stream = self._streams.pop(key, None)
            if stream is not None:
                self._timeline.forget(stream.name)
                if stream.spoke:
                    gone.append(Gone(stream.name, now, event.reason))
        return gone

    def _data(self, event: Data, now: float) -> list[Reading]:
        wanted = self._settings.device
        if event.device != wanted and not (wanted == "+" and event.device):
            return []
        mapped = [metric for metric in event.metrics if metric.name in self._places]
        if not mapped:
            return []
        key = (event.group, event.node, event.device)
        stream = self._streams.get(key)
        if stream is None:
            made = self._new(key)
            if len(self._streams) >= self._settings.streams_max or not is_stream(made.name):
                self.host.dropped["streams"] += 1
                return []
            stream = self._streams[key] = made
        usual = now if event.timestamp_ms is None else event.timestamp_ms / 1000
        blocks = self._blocks(stream, mapped, usual)
        stream.spoke = stream.spoke or bool(blocks)
        return list(blocks)

    def _new(self, key: _Key) -> _Stream:
        named = dict(zip(("group", "node", "device"), key, strict=True))
        name = self._settings.stream.format(**named).strip("/")
        held = Held(
            len(self._places), self._around.rate_hz, stale_seconds=self._settings.hold_seconds
        )
        return _Stream(name, held)

    def _blocks(self, stream: _Stream, metrics: Sequence[Metric], usual: float) -> list[Block]:
        arrays, past, latest = [], [], -math.inf
        for metric in metrics:
            seconds = usual if metric.timestamp_ms is None else metric.timestamp_ms / 1000
            if not is_moment(seconds):
                self.host.dropped["time"] += 1
                continue
            if isinstance(metric.value, list):
                arrays.append((metric, seconds))
                continue
            value = math.nan if metric.value is None else metric.value
            if not isinstance(value, int | float):
                self.host.dropped["values"] += 1
            elif metric.historical:
                past.append((seconds, self._places[metric.name], float(value)))
            else:
                stream.held.put(self._places[metric.name], seconds, float(value))
                latest = max(latest, seconds)
        blocks = self._past(stream, past) if past else []
        if math.isfinite(latest):
            blocks += [Block(stream.name, begin, rows) for begin, rows in stream.held.until(latest)]
        if arrays:
            blocks += self._arrays(stream, arrays)
        return blocks

    def _past(self, stream: _Stream, values: list[tuple[float, int, float]]) -> list[Block]:
        """Rows of a backlog: what was not said again holds, as it does in the present."""
        if not stream.past:
            stream.past = [math.nan] * len(self._places)
        rows: dict[float, list[float]] = {}
        for seconds, place, value in sorted(values):
            stream.past[place] = value
            rows[seconds] = list(stream.past)
        whole = {at: row for at, row in rows.items() if not any(map(math.isnan, row))}
        return blocks_of(
            stream.name,
            np.array(list(whole), np.float64),
            np.array(list(whole.values()), np.float32),
            self._around.rate_hz,
            historical=True,
        )

    def _arrays(self, stream: _Stream, given: list[tuple[Metric, float]]) -> list[Block]:
        """Array metrics: one for each channel, as long as each other, of one time."""
        columns: list[Any] = [None] * len(self._places)
        for metric, _ in given:
            columns[self._places[metric.name]] = metric.value
        lengths = {-1 if column is None else len(column) for column in columns}
        length = lengths.pop()
        if lengths or length < 1:
            self.host.dropped["values"] += 1
            return []
        try:
            samples = np.column_stack([np.asarray(column, np.float32) for column in columns])
        except ValueError:
            self.host.dropped["values"] += 1
            return []
        metric, seconds = given[0]
        if not metric.historical:
            seconds = self._timeline.begin(stream.name, seconds, length)
        return [Block(stream.name, seconds, samples, metric.historical)]

    def _log(self, text: str, *given: object) -> None:
        now = self._around.monotonic()
        if now - self._logged_seconds >= LOG_EVERY_SECONDS:
            self._logged_seconds = now
            log.warning(text, *given)


def _named(template: str, *names: str) -> bool:
    try:
        return bool(template.format(**dict.fromkeys(names, "x")))
    except (KeyError, IndexError, ValueError, AttributeError):
        return False


def _state(online: bool, timestamp_ms: int) -> bytes:
    """What a host application says of itself (Sparkplug 3.0.0, section 6.4.24)."""
    return msgspec.json.encode({"online": online, "timestamp": timestamp_ms})
