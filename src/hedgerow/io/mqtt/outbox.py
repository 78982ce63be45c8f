"""Messages that wait for the broker: bounded, and the oldest make room."""

from __future__ import annotations

import asyncio
import collections
from typing import Final, NamedTuple

from hedgerow.io.mqtt.connection import Connection

AGAIN_SECONDS: Final = 0.2


class Outgoing(NamedTuple):
    """One message, and what the egress record says of it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    kind: str
    purpose: str


class Outbox:
    """Sends in order, as soon as the connection takes it."""

    def __init__(self, connection: Connection, messages_max: int) -> None:
        self._connection = connection
        self._waiting: collections.deque[Outgoing] = collections.deque()
        self._messages_max = messages_max
        self._again: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Outgoing) -> None:
        """Send `message` after those that wait; call `flush` after the last of a batch."""
        if len(self._waiting) >= self._messages_max:
            self._waiting.popleft()
            self._connection.drop("backlog")
        self._waiting.append(message)

    def flush(self) -> None:
        """Hand over what the connection takes; when it is only slow, the rest soon."""
        waiting, publish = self._waiting, self._connection.publish
        while waiting:
            head = waiting[0]
            if not publish(
                head.topic,
                head.payload,
                qos=head.qos,
                retain=head.retain,
                kind=head.kind,
                purpose=head.purpose,
            ):
                break
            waiting.popleft()
        if waiting and self._connection.up and self._again is None:
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(AGAIN_SECONDS, self._try_again)

    def close(self) -> None:
        """Nothing is sent any more."""
        if self._again is not None:
            self._again.cancel()

    def _try_again(self) -> None:
        self._again = None
        self.flush()
