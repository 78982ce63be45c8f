"""What passes between a connection and those who use it."""

from __future__ import annotations

from typing import NamedTuple

from hedgerow.core.errors import HedgerowError


class BrokerDown(HedgerowError):
    """The broker cannot be reached, or refuses; the message says which broker and why."""


class Message(NamedTuple):
    """What the broker sent. `time_seconds`: Unix time of its arrival here."""

    topic: str
    payload: bytes
    retain: bool
    time_seconds: float


class Will(NamedTuple):
    """What the broker publishes for us when the connection breaks."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
