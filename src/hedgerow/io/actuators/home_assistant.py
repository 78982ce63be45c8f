"""Decisions as entities of Home Assistant, which appear there by themselves.

    [[actuators]]
    kind = "home_assistant"
    broker.url = "mqtt://homeassistant.local"
    broker.user = "hedgerow"
    broker.password = "file:/etc/hedgerow/homeassistant.password"

Each stream is a device with six entities: prediction, confidence, score, drift, model, alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io import entropy
from hedgerow.io.actuators.base import Act, Actuator, ActuatorDown, When
from hedgerow.io.actuators.home_assistant_discovery import Names, discovery, state
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import role_of
from hedgerow.io.mqtt.connection import BrokerDown, Connection, Will
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end

log = logging.getLogger(__name__)

TICK_SECONDS_MAX: Final = 1.0
BIRTH_PAUSE_SECONDS_MAX: Final = 1.0
"""Devices answer Home Assistant's start a little apart from each other, as it asks them to."""
SAVE_SECONDS: Final = 3600.0
STREAMS_KEPT_BYTES_MAX: Final = 16 * 2**20


class HomeAssistant(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings: see docs/mqtt.md. It thins out by itself, so it takes all notices."""

    when: When = "always"
    broker: Broker = Broker()
    discovery_prefix: str = "homeassistant"
    topic_prefix: str = "hedgerow"
    every_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0
    devices_max: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 200
    remove_after_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("discovery_prefix", "topic_prefix"):
            given = getattr(self, name)
            if not given or any(sign in given for sign in "+#\0") or given.strip("/") != given:
                raise UsageError(f"{name} is {given!r}; wanted a topic to put in front of others")

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncIterator[Act]:
        """As `Actuator.open`."""
        board = Board(self, around)
        try:
            async with board.connection:
                task = asyncio.create_task(board.serve(), name="home assistant")
                try:

                    async def act(notices: Sequence[Notice]) -> None:
                        if task.done():
                            raise ActuatorDown(str(task.exception()))
                        board.take(notices)

                    yield act
                finally:
                    await end([task])
                    board.farewell()
        except BrokerDown as error:
            raise ActuatorDown(str(error)) from error


class Board:
    """What Home Assistant was told, and what it is still to be told."""

    def __init__(self, settings: HomeAssistant, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        self._names = Names(settings.discovery_prefix, settings.topic_prefix, around.device)
        role = role_of(around.device, "home assistant", settings.broker.url, *self._names.prefixes)
        self._file = around.state / f"home-assistant-{role}.json"
        self._seen: dict[str, float] = self._load()
        self._latest: dict[str, Notice] = {}
        self._sent_seconds: dict[str, float] = {}
        self._pending: dict[str, None] = {}
        self._full_said = False
        self._saved_seconds = around.monotonic()
        self._random = entropy.generator()
        will = Will(self._names.availability, b"offline", 1, True)
        self.connection = Connection(
            settings.broker,
            role,
            subscribe=[(f"{settings.discovery_prefix}/status", 1)],
            will=lambda: will,
            on_up=self._tell_all,
            now=around.now,
            egress=around.egress,
        )

    async def serve(self) -> None:
        """Tells everything anew when Home Assistant starts, and what was held back when due."""
        tick = min(TICK_SECONDS_MAX, max(0.05, self._settings.every_seconds))
        while True:
            for message in await self.connection.receive(tick):
                # A retained one is old: everything was told when the connection came up.
                if message.payload == b"online" and not message.retain:
                    pause = float(self._random.uniform(0, BIRTH_PAUSE_SECONDS_MAX))
                    await self._around.sleep(pause)
                    self._tell_all()
            self._send_due()
            self._remove_silent()
            if self._around.monotonic() - self._saved_seconds >= SAVE_SECONDS:
                self._save()

    def take(self, notices: Sequence[Notice]) -> None:
        """Show notices: a new label or a change of alert at once, the rest when it is time."""
        new = False
        for notice in notices:
            stream = notice.stream
            if stream not in self._seen:
                if not self._room(stream):
                    continue
                new = True
            self._seen[stream] = self._around.now()
            last = self._latest.get(stream)
            self._latest[stream] = notice
            if last is None:
                self._announce(stream)
            if last is None or notice.label != last.label or notice.alert != last.alert:
                self._send(stream)
            else:
                self._pending[stream] = None
        self._send_due()
        if new:
            self._save()

    def remove(self, stream: str) -> None:
        """Take a stream's device out of Home Assistant; it comes back with its next notice."""
        self._seen.pop(stream, None)
        for table in (self._latest, self._sent_seconds, self._pending):
            table.pop(stream, None)
        for topic in (self._names.config(stream), self._names.state(stream)):
            self._publish(topic, b"", "removed")
        self._save()

    def farewell(self) -> None:
        """Entities become unavailable until we are back."""
        self._publish(self._names.availability, b"offline", "goes away")
        self._save()

    def _room(self, stream: str) -> bool:
        if len(self._seen) < self._settings.devices_max:
            return True
        self.connection.drop("devices")
        if not self._full_said:
            self._full_said = True
            log.warning(
                "home assistant: over %d streams; %s and others are not shown; raise devices_max",
                self._settings.devices_max,
                stream,
            )
        return False

    def _tell_all(self) -> None:
        for stream in self._seen:
            self._announce(stream)
        self._publish(self._names.availability, b"online", "is there")
        for stream in self._latest:
            self._send(stream)

    def _announce(self, stream: str) -> None:
        self._publish(self._names.config(stream), discovery(self._names, stream), "discovery")

    def _send(self, stream: str) -> None:
        notice = self._latest[stream]
        if self._publish(
            self._names.state(stream),
            state(notice),
            "decision",
            "alert" if notice.alert else "state",
        ):
            self._pending.pop(stream, None)
            self._sent_seconds[stream] = self._around.monotonic()
        else:
            self._pending[stream] = None

    def _send_due(self) -> None:
        if not self._pending or not self.connection.up:
            return
        until = self._around.monotonic() - self._settings.every_seconds
        for stream in list(self._pending):
            if self._sent_seconds.get(stream, -math.inf) <= until:
                self._send(stream)

    def _publish(self, topic: str, payload: bytes, purpose: str, kind: str = "state") -> bool:
        return self.connection.publish(
            topic, payload, qos=1, retain=True, kind=kind, purpose=f"home assistant: {purpose}"
        )

    def _remove_silent(self) -> None:
        longest = self._settings.remove_after_seconds
        if longest == 0 or not self.connection.up:
            return
        before = self._around.now() - longest
        for stream in [stream for stream, seen in self._seen.items() if seen < before]:
            log.info("home assistant: %s said nothing for %.0f s and is removed", stream, longest)
            self.remove(stream)

    def _load(self) -> dict[str, float]:
        """The streams announced before the last stop, and when each last spoke."""
        try:
            if self._file.stat().st_size <= STREAMS_KEPT_BYTES_MAX:
                return msgspec.json.decode(self._file.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError):
            pass  # the first start, or a damaged file: streams announce themselves anew
        return {}

    def _save(self) -> None:
        self._saved_seconds = self._around.monotonic()
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(self._seen))
            draft.replace(self._file)
        except OSError as error:
            log.warning("home assistant: cannot write %s: %s", self._file, error.strerror)
