"""The streams of updates and of events, read as journals: from any point on, in order, each once.

The server pushes; nothing is acknowledged. The reader says where it wants to begin, which makes a
restarted coordinator replay its open round. Delivery is checked by the consumer's own numbers: a
gap, a silence or a new connection makes a new consumer after the last update that was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js.errors import NotFoundError

from hedgerow.io.authority import MESSAGE_BYTES_MAX
from hedgerow.io.links import ByteMeter, Update
from hedgerow.io.nats_connection import PENDING, Connection, message_bytes

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS_MAX: Final = 3 * HEARTBEAT_SECONDS
RETRY_SECONDS: Final = 0.2
QUEUE_BYTES_MAX: Final = 64 * 2**20


@dataclass(frozen=True)
class JournalLimits:
    """Bounds of the update stream and the blob store.

    When one is reached the newcomer is refused and stays in its device's outbox: what was
    acknowledged is never pushed out, only outlived by `updates_age_seconds_max`.
    """

    updates_bytes_max: int = 2 * 2**30
    updates_age_seconds_max: float = 7 * 86_400.0
    # Unread updates of one device, so that one that floods shuts out itself only.
    updates_per_device_max: int = 64
    update_bytes_max: int = MESSAGE_BYTES_MAX
    duplicate_window_seconds: float = 600.0
    blobs_bytes_max: int = 4 * 2**30
    events_bytes_max: int = 1 * 2**30
    events_age_seconds_max: float = 14 * 86_400.0
    # Unread batches of events of one device; then it waits, and its outbox keeps the rest.
    events_per_device_max: int = 256

    async def ensure(self, client: Client, fleet: str, chunk_bytes: int) -> None:
        """Make the streams `<fleet>-updates` and `<fleet>-events` and the store `<fleet>-models`,
        or change them.
        """
        updates = api.StreamConfig(
            name=f"{fleet}-updates",
            subjects=[f"hedgerow.{fleet}.up.*.update"],
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_bytes=self.updates_bytes_max,
            max_age=self.updates_age_seconds_max,
            max_msgs_per_subject=self.updates_per_device_max,
            max_msg_size=self.update_bytes_max,
            duplicate_window=self.duplicate_window_seconds,
            num_replicas=1,
        )
        events = api.StreamConfig(
            name=f"{fleet}-events",
            subjects=[f"hedgerow.{fleet}.up.*.events"],
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_bytes=self.events_bytes_max,
            max_age=self.events_age_seconds_max,
            max_msgs_per_subject=self.events_per_device_max,
            max_msg_size=self.update_bytes_max,
            duplicate_window=self.duplicate_window_seconds,
            num_replicas=1,
        )
        blobs = api.StreamConfig(
            name=f"OBJ_{fleet}-models",
            subjects=[f"$O.{fleet}-models.C.>", f"$O.{fleet}-models.M.>"],
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            max_bytes=self.blobs_bytes_max,
            max_msg_size=chunk_bytes + 4096,
            allow_rollup_hdrs=True,
            allow_direct=True,
            num_replicas=1,
        )
        manager = client.jetstream()
        for config in (updates, events, blobs):
            try:
                await manager.update_stream(config)
            except NotFoundError:
                await manager.add_stream(config)


class Journal:
    """One reader of a stream; `kind` is what its messages are metered under."""

    def __init__(
        self, connection: Connection, stream: str, meter: ByteMeter, kind: str = "update"
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._kind = kind
        self._meter = meter
        self._queue: deque[Update] = deque()
        self._queue_bytes = 0
        self._next_sequence = 1
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()

    async def updates(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        """Batches of whatever has arrived, from `start_sequence` on; see CoordinatorLink."""
        self._next_sequence = max(1, start_sequence)
        self._connection.watchers.add(self.touch)
        try:
            async for batch in self._batches():
                yield batch
        finally:
            self._connection.watchers.discard(self.touch)

    async def _batches(self) -> AsyncIterator[list[Update]]:
        while True:
            await self._connection.up.wait()
            client = self._connection.client
            if client is None:
                continue
            reader = _Reader(self, client)
            try:
                self._next_sequence = await reader.first(self._next_sequence)
                await reader.start(self._next_sequence)  # from here on updates arrive
                while await self._wait(reader, client):
                    yield self._take()
            except (nats.errors.Error, TimeoutError) as error:
                log.debug("reading %s: %r", self._stream, error)
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                await reader.stop()

    async def _wait(self, reader: _Reader, client: Client) -> bool:
        """Until something is queued (True), or this reader cannot be relied on any more (False)."""
        while not self._queue:
            if reader.broken or self._connection.client is not client:
                return False
            self._changed.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

    def _take(self) -> list[Update]:
        batch = list(self._queue)
        self._queue.clear()
        self._queue_bytes = 0
        self._space.set()
        return batch

    async def put(self, update: Update, size: int) -> None:
        """Queue one update; waits while the queue is full, which makes the server wait."""
        await self._space.wait()
        if update.sequence < self._next_sequence:  # its successor has delivered it meanwhile
            return
        self._meter.down(self._kind, size)
        self._queue.append(update)
        self._queue_bytes += len(update.data)
        self._next_sequence = update.sequence + 1
        if self._queue_bytes > QUEUE_BYTES_MAX:
            self._space.clear()
        self._changed.set()

    def touch(self) -> None:
        """Something happened: look again."""
        self._changed.set()


class _Reader:
    """One push consumer of one connection. It is thrown away at the first sign of a gap."""

    def __init__(self, journal: Journal, client: Client) -> None:
        self.broken = False
        self._journal = journal
        self._client = client
        self._delivered = 0
        self._subscription: Subscription | None = None
        self._consumer: str | None = None

    async def first(self, sequence: int) -> int:
        """Where to begin: at `sequence`, or at 1 when the stream has not got that far."""
        streams = self._client.jetstream()
        last = (await streams.stream_info(self._journal._stream)).state.last_seq
        if sequence > last + 1:
            log.warning(
                "%s ends at %d and %d was wanted next: it was begun anew, reading all of it",
                self._journal._stream,
                last,
                sequence,
            )
            return 1
        return sequence

    async def start(self, sequence: int) -> None:
        """Have the server push every update from `sequence` on."""
        streams = self._client.jetstream()
        inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(inbox, cb=self._received, **PENDING)
        info = await streams.add_consumer(
            self._journal._stream,
            api.ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=sequence,
                ack_policy=api.AckPolicy.NONE,
                flow_control=True,
                idle_heartbeat=HEARTBEAT_SECONDS,
                max_deliver=1,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        self._consumer = info.name

    async def stop(self) -> None:
        self.broken = True
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                if self._subscription is not None:
                    await self._subscription.unsubscribe()
                if self._consumer is not None:
                    await self._client.jetstream().delete_consumer(
                        self._journal._stream, self._consumer
                    )

    async def _received(self, message: Msg) -> None:
        if self.broken:
            return
        headers = message.headers
        if headers is not None and headers.get("Status") == "100":
            await self._control(message, headers)
            return
        stream_sequence, delivered = _numbers(message.reply)
        if delivered != self._delivered + 1:
            self._break()
            return
        self._delivered = delivered
        size = message_bytes(message.subject, message.reply, headers, message.data)
        update = Update(stream_sequence, message.subject.split(".")[3], message.data)
        await self._journal.put(update, size)

    async def _control(self, message: Msg, headers: dict[str, str]) -> None:
        """Heartbeats, and flow control: answering says that all before it was taken in."""
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != self._delivered:
            self._break()
            return
        ask = message.reply or headers.get("Nats-Consumer-Stalled")
        if ask:
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(ask)
        self._journal.touch()

    def _break(self) -> None:
        self.broken = True
        self._journal.touch()


def _numbers(reply: str) -> tuple[int, int]:
    """(stream sequence, number in this consumer's deliveries) from a `$JS.ACK…` reply subject."""
    tokens = reply.split(".")
    if len(tokens) == 9:
        return int(tokens[5]), int(tokens[6])
    return int(tokens[7]), int(tokens[8])  # with a domain and an account hash in front
