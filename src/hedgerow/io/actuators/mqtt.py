"""Decisions published to an MQTT broker, as JSON or SenML.

    [[actuators]]
    kind = "mqtt"
    when = "alert"
    broker.url = "mqtts://broker.factory.example"
    topic = "hedgerow/{device}/{stream}/decision"

While the broker is away the newest notices wait, and go out in order when it is back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, Literal

import msgspec

from hedgerow.decide.notice import Notice
from hedgerow.io import senml
from hedgerow.io.actuators.base import Act, Actuator, ActuatorDown
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import role_of
from hedgerow.io.mqtt.connection import BrokerDown, Connection
from hedgerow.io.mqtt.outbox import Outbox, Outgoing
from hedgerow.io.mqtt.topics import fill
from hedgerow.io.surroundings import Surroundings

TOPICS_MAX: Final = 100_000
_ENCODER: Final = msgspec.json.Encoder()


class Mqtt(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings: see docs/mqtt.md. `topic` may name `{device}` and `{stream}`."""

    broker: Broker = Broker()
    topic: str = "hedgerow/{device}/{stream}/decision"
    format: Literal["json", "senml"] = "json"
    qos: Literal[0, 1, 2] = 1
    retain: bool = False
    backlog_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000

    def __post_init__(self) -> None:
        fill(self.topic, device="device", stream="stream")

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncIterator[Act]:
        """As `Actuator.open`."""
        topics: dict[str, str] = {}

        def topic(stream: str) -> str:
            known = topics.get(stream)
            if known is None:
                if len(topics) >= TOPICS_MAX:
                    topics.clear()
                known = topics[stream] = fill(self.topic, device=around.device, stream=stream)
            return known

        async def act(notices: Sequence[Notice]) -> None:
            for notice in notices:
                kind = "alert" if notice.alert else "state"
                payload = self.payload(notice)
                outbox.put(
                    Outgoing(topic(notice.stream), payload, self.qos, self.retain, kind, "decision")
                )
            outbox.flush()

        def up() -> None:
            outbox.flush()

        connection = Connection(
            self.broker,
            role_of(around.device, "mqtt actuator", self.topic),
            on_up=up,
            now=around.now,
            egress=around.egress,
        )
        outbox = Outbox(connection, self.backlog_max)
        try:
            async with connection:
                yield act
                outbox.close()
        except BrokerDown as error:
            raise ActuatorDown(str(error)) from error

    def payload(self, notice: Notice) -> bytes:
        """What is published of one notice."""
        if self.format == "json":
            return _ENCODER.encode(notice)  # NaN becomes null
        return senml.encode_json(_records(notice), _base_name(notice.stream))


def _base_name(stream: str) -> str:
    """A stream as RFC 8428 lets a name be: its characters, a letter or digit first."""
    kept = "".join(
        sign if (sign.isascii() and sign.isalnum()) or sign in "-:./_" else "_" for sign in stream
    )
    return f"{kept if kept[:1].isalnum() else 'stream' + kept}:"


def _records(notice: Notice) -> list[senml.Record]:
    base = _base_name(notice.stream)
    values: dict[str, senml.Value] = {
        "label": notice.label,
        "confidence": notice.confidence,
        "alert": notice.alert,
        "score": notice.score,
        "drift": notice.drift,
        "model": notice.model,
        "reason": notice.reason,
    }
    return [
        senml.Record(base + name, value, notice.time_seconds)
        for name, value in values.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    ]
