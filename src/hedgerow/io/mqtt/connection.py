"""One connection to an MQTT broker that is kept up, for asyncio.

    async with Connection(broker, "sensor", subscribe=[("factory/+/vibration", 0)]) as connection:
        while True:
            for message in await connection.receive():
                ...

The client library runs in a thread of its own. What it receives goes into a bounded queue, and the
event loop is woken once for all that came meanwhile: a wake-up costs more than a message.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import logging
import math
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple

from hedgerow.core.errors import HedgerowError
from hedgerow.io import clock, entropy
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.client import BACKOFF_SECONDS_FIRST, make_client, paho, session
from hedgerow.io.mqtt.messages import BrokerDown, Message, Will
from hedgerow.io.surroundings import Egress, NoEgress

__all__ = ["BrokerDown", "Connection", "Message", "Will"]

log = logging.getLogger(__name__)

CONNECT_SECONDS_MAX: Final = 10.0
BACKOFF_SECONDS_MAX: Final = 30.0
CLOSE_SECONDS_MAX: Final = 2.0
QUEUE_MESSAGES_MAX: Final = 65_536
UNSENT_BYTES_MAX: Final = 16 * 2**20
UNSENT_MESSAGES_MAX: Final = 10_000
BATCH_MESSAGES_MAX: Final = 1024
LOG_EVERY_SECONDS: Final = 600.0
REFUSED: Final = 128
"""Reason codes and granted QoS from here on are refusals (MQTT 5, 2.4; 3.1.1, 3.9.3)."""


class _Unsent(NamedTuple):
    """A message the library has and the broker perhaps not."""

    number: int
    qos: int
    size: int


class Connection:
    """An asynchronous context manager: entered when the broker said yes to all, or raises.

    Afterwards it comes back by itself, with growing, jittered pauses, for as long as it is open.
    `dropped` counts messages that were lost here, by reason.
    """

    def __init__(
        self,
        broker: Broker,
        role: str,
        *,
        subscribe: Sequence[tuple[str, int]] = (),
        will: Callable[[], Will] | None = None,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[], None] | None = None,
        now: Callable[[], float] = clock.now,
        egress: Egress | None = None,
        queue_bytes_max: int = 64 * 2**20,
        linger_seconds: float = 0.0,
        patience_seconds: float = math.inf,
    ) -> None:
        """`role` names the client where its session is kept; it holds letters and digits.

        `subscribe` holds topic filters and their QoS. `will` is asked anew before every attempt,
        on the library's thread. `on_up` is called on the event loop whenever the connection came
        up, `on_down` when it broke. Messages wait in a queue of `queue_bytes_max`; the oldest go
        first. `linger_seconds` lets messages gather before `receive` returns. After
        `patience_seconds` without the broker `receive` raises.
        """
        self.broker = broker
        self.up = False
        self.fault = ""
        self.dropped: collections.Counter[str] = collections.Counter()
        self._subscribe = list(subscribe)
        self._will = will
        self._given_will: Will | None = None
        self._on_up, self._on_down = on_up, on_down
        self._now = now
        self._egress = NoEgress() if egress is None else egress
        self._queue_bytes_max = queue_bytes_max
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._random = entropy.generator()
        self._attempts = 0
        self._logged_seconds = self._told_seconds = -math.inf
        self._lock = threading.Lock()  # guards what both threads touch: the four below
        self._queue: collections.deque[Message] = collections.deque()
        self._queued_bytes = 0
        self._woken = False
        self._closing = False
        self._unsent: collections.deque[_Unsent] = collections.deque()
        self._sent: set[int] = set()  # numbers of messages, of which some are in `_unsent`
        self._unsent_bytes = 0
        self._impatient: asyncio.TimerHandle | None = None
        self._raised: HedgerowError | None = None
        self._unanswered: set[int] = set()  # subscriptions, by their numbers
        self._client = make_client(broker, role)
        self._client.on_fault = self._failed
        self._client.on_ready = lambda: self._post(self._is_up)
        self._client.on_pre_connect = self._before
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._unreachable
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._client.on_publish = self._published
        self._client.on_message = self._came

    async def __aenter__(self) -> Connection:
        """Returns when the broker said yes. Raises BrokerDown when it did not, in 10 s."""
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._tried = asyncio.Event()
        if self.broker.in_clear():
            log.warning("password goes to %s in clear; use mqtts://", self.broker.name)
        host, port, _, _ = self.broker.address()
        keep_alive = self.broker.keep_alive_seconds
        kept = session(self.broker, self._queue_bytes_max)
        self._client.connect_async(host, port, keep_alive, **kept)
        self._client.loop_start()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), CONNECT_SECONDS_MAX)
            if not self.up:
                fault = self.fault or f"no answer in {CONNECT_SECONDS_MAX:.0f} s"
                raise BrokerDown(f"{self.broker.name}: {fault}")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Sends what is still to be sent, at most 2 s long, and disconnects."""
        try:
            await self.settle(CLOSE_SECONDS_MAX)
        finally:
            await self._stop()

    async def receive(self, seconds_max: float = math.inf) -> list[Message]:
        """The messages that came since the last call, oldest first; waits for the first one.

        Returns:
            at least one message, or none after `seconds_max`.

        Raises:
            BrokerDown: the broker is away for longer than `patience_seconds`, or refused a
                subscription.
        """
        until = self._loop.time() + seconds_max
        timer = None
        if math.isfinite(seconds_max):
            timer = self._loop.call_later(seconds_max, self._arrived.set)
        try:
            while True:
                if self._raised is not None:
                    raise self._raised
                await self._arrived.wait()
                if self._linger_seconds > 0 and self._raised is None:
                    await asyncio.sleep(self._linger_seconds)
                batch = self._take()
                if batch or self._loop.time() >= until:
                    return batch
        finally:
            if timer is not None:
                timer.cancel()

    def _take(self) -> list[Message]:
        with self._lock:
            count = min(len(self._queue), BATCH_MESSAGES_MAX)
            batch = [self._queue.popleft() for _ in range(count)]
            self._queued_bytes -= sum(len(message.payload) for message in batch)
            if not self._queue and self._raised is None:
                self._woken = False
                self._arrived.clear()
        return batch

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        kind: str = "state",
        purpose: str = "",
    ) -> bool:
        """Hand one message to the broker, and tell the egress record of its `kind` and `purpose`.

        Returns:
            False when it was not taken: the connection is down, or so slow that 10,000 messages or
            16 MiB wait to be sent. What was taken with QoS 1 or 2 is sent again after a broken
            connection, for as long as this one is open.
        """
        self._forget_sent()
        size = len(topic) + len(payload)
        room = len(self._unsent) < UNSENT_MESSAGES_MAX
        fits = self._unsent_bytes + size <= UNSENT_BYTES_MAX or not self._unsent
        if not (self.up and room and fits):
            return False
        info = self._client.publish(topic, payload, qos, retain)
        # With QoS 1 and 2 the library keeps what it finds no connection for.
        kept = qos > 0 and info.rc == paho.MQTT_ERR_NO_CONN
        if info.rc != paho.MQTT_ERR_SUCCESS and not kept:
            return False
        self._unsent.append(_Unsent(info.mid, qos, size))
        self._unsent_bytes += size
        self._tell(payload, kind, purpose)
        return True

    def drop(self, reason: str) -> None:
        """Count a message that was lost here, and say so now and then. For any thread."""
        self.dropped[reason] += 1
        now = clock.monotonic()
        if now - self._told_seconds >= LOG_EVERY_SECONDS:
            self._told_seconds = now
            log.warning("%s: left out so far: %s", self.broker.name, dict(self.dropped))

    async def settle(self, seconds_max: float) -> bool:
        """Wait until everything is sent, and acknowledged where QoS asks for it."""
        until = self._loop.time() + seconds_max
        while self.up:
            self._forget_sent()
            if not self._unsent:
                return True
            if self._loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return False

    def reconnect(self, reason: str) -> None:
        """Break the connection without a farewell, so that the broker sends the will; come back."""
        log.info("%s: connection broken on purpose: %s", self.broker.name, reason)
        self._client.sever()

    def _forget_sent(self) -> None:
        unsent = self._unsent
        while unsent and unsent[0].number in self._sent:
            done = unsent.popleft()
            self._sent.discard(done.number)
            self._unsent_bytes -= done.size

    async def _stop(self) -> None:
        with self._lock:
            self._closing = True
        if self._impatient is not None:
            self._impatient.cancel()
        self._client.disconnect()
        ending = asyncio.ensure_future(asyncio.to_thread(self._client.loop_stop))
        _, hangs = await asyncio.wait({ending}, timeout=CLOSE_SECONDS_MAX)
        if hangs:  # a broker that reads nothing does not get our farewell either
            self._client.sever()
            await ending
        self.up = False

    def _tell(self, payload: bytes, kind: str, purpose: str) -> None:
        digest = hashlib.sha256(payload).digest()
        name = self.broker.name
        self._egress.left(to=name, kind=kind, purpose=purpose, size=len(payload), digest=digest)

    # On the library's thread.

    def _post(self, call: Callable[..., None], *given: Any) -> None:
        with self._lock:
            if not self._closing:
                self._loop.call_soon_threadsafe(call, *given)

    def _before(self, _client: paho.Client, _data: Any) -> None:
        if self._will is not None:
            self._given_will = will = self._will()
            self._client.will_set(will.topic, will.payload, will.qos, will.retain)

    def _connected(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._post(self._down, f"login refused: {reason}")
            return
        self._attempts = 0
        asked = [client.subscribe(topic, qos)[1] for topic, qos in self._subscribe]
        self._unanswered = {number for number in asked if number is not None}
        self._client.accepted = not self._unanswered

    def _unreachable(self, _client: paho.Client, _data: Any) -> None:
        self._pause()
        self._post(self._down, f"not reachable: {sys.exception()}")

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        self._pause()
        why = str(reason)  # "Unspecified error": it broke without a word from the broker
        lost = "connection lost" if why == "Unspecified error" else f"connection lost: {why}"
        self._post(self._down, lost)

    def _failed(self, error: Exception) -> None:
        self._pause()
        self._post(self._down, f"the broker sent what cannot be read: {error!r}")

    def _pause(self) -> None:
        """Sets how long the library waits before its next attempt."""
        self._attempts += 1
        longest = min(BACKOFF_SECONDS_FIRST * 2 ** min(self._attempts, 16), BACKOFF_SECONDS_MAX)
        seconds = float(self._random.uniform(longest / 2, longest))
        self._client.reconnect_delay_set(seconds, seconds)  # type: ignore[arg-type]

    def _subscribed(
        self, _client: paho.Client, _data: Any, mid: int, codes: Sequence[Any], _properties: Any
    ) -> None:
        if any(code.value >= REFUSED for code in codes):
            asked = ", ".join(topic for topic, _ in self._subscribe)
            self._post(self._give_up, f"the broker refused to subscribe us to one of {asked}")
            return
        self._unanswered.discard(mid)
        self._client.accepted = not self._unanswered

    def _published(
        self, _client: paho.Client, _data: Any, number: int, _reason: Any, _properties: Any
    ) -> None:
        self._sent.add(number)

    def _came(self, _client: paho.Client, _data: Any, given: paho.MQTTMessage) -> None:
        try:
            topic = given.topic
        except UnicodeDecodeError:
            self.drop("topic")
            return
        message = Message(topic, bytes(given.payload), given.retain, self._now())
        with self._lock:
            self._queue.append(message)
            self._queued_bytes += len(message.payload)
            while (
                self._queued_bytes > self._queue_bytes_max or len(self._queue) > QUEUE_MESSAGES_MAX
            ):
                self._queued_bytes -= len(self._queue.popleft().payload)
                self.drop("queue")
            wake = not self._woken and not self._closing
            self._woken = True
            if wake:
                self._loop.call_soon_threadsafe(self._arrived.set)

    # On the event loop.

    def _is_up(self) -> None:
        self.up = True
        self.fault = ""
        self._tried.set()
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        if self._given_will is not None:
            self._tell(self._given_will.payload, "state", "last will")
        if self._on_up is not None:
            self._on_up()

    def _down(self, fault: str) -> None:
        # A refused login is followed by a lost connection, which says less.
        self.fault = fault if self.up or not self.fault or "lost" not in fault else self.fault
        was_up, self.up = self.up, False
        self._tried.set()
        # What had QoS 0 is lost with its connection.
        self._unsent = collections.deque(each for each in self._unsent if each.qos > 0)
        self._unsent_bytes = sum(each.size for each in self._unsent)
        self._sent &= {each.number for each in self._unsent}
        now = self._loop.time()
        if now - self._logged_seconds >= LOG_EVERY_SECONDS:
            self._logged_seconds = now
            log.warning("%s: %s; trying again", self.broker.name, self.fault)
        if self._impatient is None and math.isfinite(self._patience_seconds):
            self._impatient = self._loop.call_later(
                self._patience_seconds, lambda: self._give_up(self.fault)
            )
        if was_up and self._on_down is not None:
            self._on_down()

    def _give_up(self, why: str) -> None:
        self.fault = why
        self._raised = BrokerDown(f"{self.broker.name}: {why}")
        self._tried.set()
        self._arrived.set()
