"""Decisions as metrics of a Sparkplug B edge node: the agent is the node, its streams the devices.

    [[actuators]]
    kind = "sparkplug"
    broker.url = "mqtt://scada.factory.example"
    group = "press shop"
    primary_host = "scada"

While the broker or the primary host is away notices are kept and sent as historical afterwards.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import msgspec

import hedgerow
from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Act, Actuator, ActuatorDown, When
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import role_of
from hedgerow.io.mqtt.connection import BrokerDown, Connection, Message, Will
from hedgerow.io.mqtt.topics import level
from hedgerow.io.sparkplug import topics
from hedgerow.io.sparkplug.edge import EdgeNode, Outgoing
from hedgerow.io.sparkplug.payload import DataType, Metric
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5
REBIRTH_SECONDS_MIN: Final = 1.0
"""A host that asks again and again gets no more births than this."""


class Sparkplug(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings: see docs/mqtt.md."""

    when: When = "always"
    broker: Broker = Broker()
    group: str = "hedgerow"
    node: str = ""
    primary_host: str = ""
    every_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0
    devices_max: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000
    backlog_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000

    def __post_init__(self) -> None:
        for name in ("group", "node", "primary_host"):
            if any(sign in getattr(self, name) for sign in "/+#"):
                raise UsageError(f"{name} is {getattr(self, name)!r}; take /, + and # out")
        if not self.group:
            raise UsageError("group is empty; every Sparkplug node belongs to one")

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncIterator[Act]:
        """As `Actuator.open`."""
        node = Node(self, around)
        try:
            async with node.connection:
                task = asyncio.create_task(node.serve(), name="sparkplug actuator")
                try:

                    async def act(notices: Sequence[Notice]) -> None:
                        if task.done():
                            raise ActuatorDown(str(task.exception()))
                        node.take(notices)

                    yield act
                finally:
                    await end([task])
                    node.farewell()
        except BrokerDown as error:
            raise ActuatorDown(str(error)) from error


class Node:
    """An edge node on its connection: births when it may, data after, a backlog before."""

    def __init__(self, settings: Sparkplug, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        name = settings.node or level(around.device)
        role = role_of(around.device, "sparkplug actuator", settings.group, name)
        self._bd_seq_file = around.state / f"sparkplug-{role}"
        software = Metric(
            "Properties/Software", f"hedgerow {hedgerow.__version__}", DataType.STRING
        )
        self._edge = EdgeNode(settings.group, name, bd_seq=self._load(), properties=(software,))
        self._born = False
        self._born_seconds = -math.inf
        self._rebirth = False
        self._host_ms = -1
        self._backlog: collections.deque[Notice] = collections.deque()
        self._kept: collections.Counter[str] = collections.Counter()
        self._last: dict[str, tuple[str, bool, float]] = {}  # label, alert, and when it was taken
        self._full_said = False
        subscribe = [
            (topics.Topic(settings.group, kind, name, device).text(), 1)
            for kind, device in (("NCMD", ""), ("DCMD", "#"))
        ]
        if settings.primary_host:
            subscribe.append((topics.state(settings.primary_host), 1))
        self.connection = Connection(
            settings.broker,
            role,
            subscribe=subscribe,
            will=self._will,
            on_up=self._up,
            on_down=self._down,
            now=around.now,
            egress=around.egress,
        )

    async def serve(self) -> None:
        """Hears commands and the state of the primary host, until cancelled."""
        while True:
            for message in await self.connection.receive(TICK_SECONDS):
                self._heard(message)
            if (
                self._rebirth
                and self._around.monotonic() - self._born_seconds >= REBIRTH_SECONDS_MIN
            ):
                self._births()
            self._flush()

    def take(self, notices: Sequence[Notice]) -> None:
        """Send notices, or keep them until somebody is there to hear.

        A new label or a change of alert always; what only moves numbers now and then.
        """
        now = self._around.monotonic()
        for notice in notices:
            last = self._last.get(notice.stream)
            says = (notice.label, notice.alert)
            if (
                last is not None
                and last[:2] == says
                and now - last[2] < self._settings.every_seconds
            ):
                continue
            if last is not None or len(self._last) < self._settings.devices_max:
                self._last[notice.stream] = (*says, now)
            if not (self._born and not self._backlog and self._send(notice, historical=False)):
                self._keep(notice)

    def _keep(self, notice: Notice) -> None:
        if len(self._backlog) >= self._settings.backlog_max:
            self._kept[self._backlog.popleft().stream] -= 1
            self.connection.drop("backlog")
        self._backlog.append(notice)
        self._kept[notice.stream] += 1

    def farewell(self) -> None:
        """The death certificate, before an orderly disconnect that would keep the will back."""
        if self._born:
            topic, payload = self._edge.death(self._now_ms())
            self.connection.publish(topic, payload, qos=1, purpose="node death")

    def _now_ms(self) -> int:
        return round(self._around.now() * 1000)

    def _will(self) -> Will:  # on the library's thread, while there is no connection
        topic, payload = self._edge.will(self._now_ms())
        self._save(self._edge.next_bd_seq)
        return Will(topic, payload, 1, False)

    def _up(self) -> None:
        self._host_ms = -1
        if not self._settings.primary_host:
            self._births()

    def _down(self) -> None:
        self._born = False

    def _heard(self, message: Message) -> None:
        if self._settings.primary_host and message.topic == topics.state(
            self._settings.primary_host
        ):
            self._state(message.payload)
        elif self._edge.wants_rebirth(message.topic, message.payload):
            self._rebirth = self._born

    def _state(self, payload: bytes) -> None:
        """What the primary host says of itself; an older word than the last one counts nothing."""
        try:
            state = msgspec.json.decode(payload, type=_State)
        except (msgspec.DecodeError, RecursionError):
            self.connection.drop("state")
            return
        if state.timestamp < self._host_ms:
            return
        self._host_ms = state.timestamp
        if state.online and not self._born:
            self._births()
        elif not state.online and self._born:
            # The rule is to end the session; the broker then sends our death certificate.
            self._born = False
            self.connection.reconnect("the primary host is offline")

    def _births(self) -> None:
        self._rebirth = False
        self._born_seconds = self._around.monotonic()
        self._born = self._publish(self._edge.births(self._now_ms()), "birth")
        self._flush()

    def _flush(self) -> None:
        """Sends what was kept: of each stream the newest is what holds now, the rest was."""
        while self._born and self._backlog:
            notice = self._backlog[0]
            if not self._send(notice, historical=self._kept[notice.stream] > 1):
                return
            self._backlog.popleft()
            self._kept[notice.stream] -= 1
        if not self._backlog:
            self._kept.clear()

    def _send(self, notice: Notice, *, historical: bool) -> bool:
        """Whether the notice is dealt with; False: keep it."""
        device = level(notice.stream)
        if device not in self._edge.devices and not self._room(device):
            return True
        made = self._edge.data(device, _metrics(notice), self._now_ms(), historical=historical)
        return self._publish(made, "decision", "alert" if notice.alert else "state")

    def _room(self, device: str) -> bool:
        if len(self._edge.devices) < self._settings.devices_max:
            return True
        if not self._full_said:
            self._full_said = True
            log.warning(
                "sparkplug: over %d streams; %s and others are not sent; raise devices_max",
                self._settings.devices_max,
                device,
            )
        self.connection.drop("devices")
        return False

    def _publish(self, made: Sequence[Outgoing], purpose: str, kind: str = "state") -> bool:
        for topic, payload in made:
            if not self.connection.publish(topic, payload, kind=kind, purpose=purpose):
                # A sequence number is lost: the host will ask, or we come back, with births.
                self._born = False
                if self.connection.up:
                    self.connection.reconnect("the broker does not keep up")
                return False
        return True

    def _load(self) -> int:
        """The `bdSeq` to go on with: it must grow across restarts too."""
        try:
            return int(self._bd_seq_file.read_text())
        except (OSError, ValueError):
            return 0

    def _save(self, bd_seq: int) -> None:
        draft = self._bd_seq_file.with_suffix(".new")
        try:
            draft.write_text(f"{bd_seq}\n")
            draft.replace(self._bd_seq_file)
        except OSError as error:
            log.warning("sparkplug: cannot keep bdSeq in %s: %s", self._bd_seq_file, error.strerror)


class _State(msgspec.Struct):
    online: bool
    timestamp: int


def _metrics(notice: Notice) -> list[Metric]:
    """The metrics of a device, always all and in this order."""
    when = max(0, round(notice.time_seconds * 1000))

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [
        Metric("Prediction", notice.label, DataType.STRING, when),
        Metric("Confidence", number(notice.confidence), DataType.DOUBLE, when),
        Metric("Score", number(notice.score), DataType.DOUBLE, when),
        Metric("Drift", number(notice.drift), DataType.DOUBLE, when),
        Metric("Alert", notice.alert, DataType.BOOLEAN, when),
        Metric("Decided", notice.decided, DataType.BOOLEAN, when),
        Metric("Reason", notice.reason, DataType.STRING, when),
        Metric("Model", notice.model, DataType.STRING, when),
    ]
