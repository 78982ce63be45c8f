"""Samples from an MQTT broker: JSON, SenML, or blocks of raw numbers.

    [[sensors]]
    kind = "mqtt"
    broker.url = "mqtts://broker.factory.example"
    topic = "factory/{stream}/vibration"
    channels = { x = "$.data[*].x", y = "$.data[*].y" }
    time = "$.t"

Many streams come over one connection; the topic says which one a message belongs to.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import role_of
from hedgerow.io.mqtt.connection import BrokerDown, Connection, Message
from hedgerow.io.mqtt.topics import Topics
from hedgerow.io.sensors.base import Label, Reading, Sensor, SensorDown, is_moment, is_stream
from hedgerow.io.sensors.payloads import Decoder, JsonDecoder, RawDecoder, RawLayout, SenmlDecoder
from hedgerow.io.sensors.timeline import Timeline
from hedgerow.io.surroundings import Surroundings

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 60.0
LOG_EVERY_SECONDS: Final = 600.0
LABEL_CHARACTERS_MAX: Final = 200


class Mqtt(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings: see docs/mqtt.md. `channels` maps a channel to its path (JSON) or name (SenML)."""

    broker: Broker = Broker()
    topic: str
    format: Literal["json", "senml", "raw"] = "json"
    channels: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    time: str = ""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    time_of: Literal["first", "last"] = "first"
    raw: RawLayout = RawLayout()
    labels_topic: str = ""
    qos: Literal[0, 1, 2] = 0
    retained: bool = False
    streams_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    queue_bytes_max: Annotated[int, msgspec.Meta(ge=65_536, le=2**31)] = 64 * 2**20
    gather_seconds: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.02

    def __post_init__(self) -> None:
        for template in (self.topic, self.labels_topic):
            if template:
                Topics(template)
        if not self.topic:
            raise UsageError('topic is empty; wanted the likes of "factory/{stream}/vibration"')
        if self.format != "json" and self.time:
            raise UsageError(f"time is a path in JSON, and the format is {self.format!r}")
        if self.format == "raw" and self.channels:
            raise UsageError("raw blocks hold the model's channels in order; take channels out")

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Readings of every message that came meanwhile. Raises as `Sensor.batches`."""
        intake = Intake(self, around)
        role = role_of(around.device, "sensor", self.topic)
        try:
            async with Connection(
                self.broker,
                role,
                subscribe=[(filtered, self.qos) for filtered in intake.filters],
                now=around.now,
                egress=around.egress,
                queue_bytes_max=self.queue_bytes_max,
                linger_seconds=self.gather_seconds,
                patience_seconds=PATIENCE_SECONDS,
            ) as connection:
                intake.dropped = connection.dropped
                while True:
                    readings = intake.take(await connection.receive())
                    if readings:
                        yield readings
        except BrokerDown as error:
            raise SensorDown(str(error)) from error

    def decoder(self, around: Surroundings) -> Decoder:
        """What makes samples of a payload. Raises UsageError when the settings do not fit."""
        unknown = [name for name in self.channels if name not in around.channels]
        if unknown:
            raise UsageError(
                f"channels names {', '.join(unknown)}; the model wants {', '.join(around.channels)}"
            )
        if self.format == "raw":
            return RawDecoder(self.raw, len(around.channels))
        if self.format == "senml":
            names = tuple(self.channels.get(name, name) for name in around.channels)
            return SenmlDecoder(names, around.rate_hz)
        paths = tuple(self.channels.get(name, f"$['{name}']") for name in around.channels)
        return JsonDecoder(paths, self.time, self.time_unit, around.rate_hz)


class _LabelMessage(msgspec.Struct):
    """What an owner publishes to `labels_topic`; other fields are left alone."""

    label: str
    start: float
    end: float


class Intake:
    """From messages to readings. `dropped` counts what could not be used, by reason."""

    def __init__(self, settings: Mqtt, around: Surroundings) -> None:
        """Raises UsageError when the settings do not fit the model."""
        self.dropped: Counter[str] = Counter()
        self._settings = settings
        self._around = around
        self._decoder = settings.decoder(around)
        self._named = "{stream}" in settings.topic or "+" in settings.topic or "#" in settings.topic
        self._samples = Topics(settings.topic)
        self._labels = Topics(settings.labels_topic) if settings.labels_topic else None
        self._timeline = Timeline(around.rate_hz, settings.streams_max)
        self._streams: dict[str, str] = {}
        self._logged_seconds = -math.inf

    @property
    def filters(self) -> list[str]:
        """The topic filters to subscribe to."""
        return [topics.filter for topics in (self._samples, self._labels) if topics is not None]

    def take(self, messages: Sequence[Message]) -> list[Reading]:
        """The readings that `messages` hold; a message that cannot be used is counted."""
        readings: list[Reading] = []
        for message in messages:
            if message.retain and not self._settings.retained:
                self.dropped["retained"] += 1  # an old state, sent again on every connection
                continue
            try:
                readings += self._read(message)
            except PeerError as error:
                self._drop(error.reason, message.topic, error.detail)
        return readings

    def _read(self, message: Message) -> Sequence[Reading]:
        stream = self._streams.get(message.topic)
        if stream is None:
            if self._labels is not None:
                about = self._labels.stream(message.topic)
                if about is not None:
                    return [_label(about, message.payload)]
            stream = self._learn(message.topic)
        return self._decode(stream, message)

    def _learn(self, topic: str) -> str:
        """The stream of a topic that was not seen before."""
        stream = self._samples.stream(topic)
        if stream is None:
            raise PeerError("topic", "this topic was not asked for")
        if len(self._streams) >= self._settings.streams_max:
            raise PeerError("streams", f"over {len(self._streams)} streams; raise streams_max")
        self._streams[topic] = stream
        return stream

    def _decode(self, stream: str, message: Message) -> Sequence[Reading]:
        rate = self._around.rate_hz
        blocks = self._decoder.decode(stream, message.payload, message.time_seconds)
        made: list[Reading] = []
        for given in blocks:
            count = len(given.samples)
            begin = given.time_seconds
            name = given.stream if not self._named else stream
            if not is_moment(begin):
                raise PeerError("time", f"{begin:g} s is no moment from 1970 to 9999")
            if not is_stream(name):
                raise PeerError("streams", f"{name[:64]!r}… is too long a name of a stream")
            if given.steady:
                if not given.stamped or self._settings.time_of == "last":
                    begin -= (count - 1) / rate
                begin = self._timeline.begin(name, begin, count)
            made.append(given.block(name, begin))
        return made

    def _drop(self, reason: str, topic: str, detail: str) -> None:
        self.dropped[reason] += 1
        now = self._around.monotonic()
        if now - self._logged_seconds >= LOG_EVERY_SECONDS:
            self._logged_seconds = now
            log.warning(
                "left out a message of %r: %s: %s; so far %s",
                topic,
                reason,
                detail,
                told(self.dropped),
            )


def _label(stream: str, payload: bytes) -> Label:
    try:
        given = msgspec.json.decode(payload, type=_LabelMessage)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("label", f"{error}; wanted label, start and end") from None
    if (
        not -math.inf < given.start < given.end < math.inf
        or not is_stream(stream)
        or not 0 < len(given.label) <= LABEL_CHARACTERS_MAX
    ):
        raise PeerError("label", "wanted a label, and start (Unix seconds) before end")
    return Label(stream, given.start, given.end, given.label)


def told(dropped: Mapping[str, int]) -> str:
    """Counts as one line of a log."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items())) or "none"
