"""The paho client underneath a connection: made from a broker's settings, not yet connected."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from hedgerow.io import entropy
from hedgerow.io.extras import needs
from hedgerow.io.mqtt.broker import Broker

with needs("mqtt"):
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

__all__ = ["BACKOFF_SECONDS_FIRST", "Client", "make_client", "paho", "role_of", "session"]

BACKOFF_SECONDS_FIRST: Final = 0.5
QUEUED_MESSAGES_MAX: Final = 10_000
PACKET_BYTES_MAX: Final = 2**28
"""The most that MQTT can say of a packet's length is 256 MiB."""


class Client(paho.Client):
    """A client whose thread outlives what a broken broker can make the library raise."""

    on_fault: Callable[[Exception], None]
    on_ready: Callable[[], None]
    accepted = False
    """The broker said yes, and nobody was told yet."""

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> Any:
        """As the library's, which runs it on its thread."""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live
                self.on_fault(error)
                time.sleep(BACKOFF_SECONDS_FIRST)
                with contextlib.suppress(OSError):
                    self.reconnect()

    def loop_misc(self) -> Any:
        """As the library's, which calls it after every turn of its loop.

        Only here, and not yet in `on_connect`, is what the last connection left unacknowledged on
        its way again: what is published from now on comes after it.
        """
        if self.accepted:
            self.accepted = False
            self.on_ready()
        return super().loop_misc()

    def sever(self) -> None:
        """Break the connection as a pulled cable would; the thread then comes back by itself."""
        handle: Any = self.socket()
        if handle is not None:
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(handle.fileno())) as twin,
            ):
                twin.shutdown(socket.SHUT_RDWR)


def make_client(broker: Broker, role: str) -> Client:
    """A client with the broker's settings, not yet connected.

    Raises UsageError when a password or a certificate cannot be read.
    """
    address = broker.address()
    five = broker.version == "5"
    kept = broker.session_seconds > 0
    # A session that nobody keeps gets a name that nobody else has: two clients of one name would
    # throw each other out for ever. Every broker takes 23 letters and digits.
    name = broker.client_id or "hedgerow" + (role if kept else entropy.secret_bytes(6).hex())
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=paho.MQTTv5 if five else paho.MQTTv311,
        transport="websockets" if address.websocket_path else "tcp",
        clean_session=None if five else not kept,
    )
    client.suppress_exceptions = True  # an error in a callback must not end the thread
    client.max_queued_messages_set(QUEUED_MESSAGES_MAX)
    if address.websocket_path:
        client.ws_set_options(path=address.websocket_path)
    context = broker.tls_context()
    if context is not None:
        client.tls_set_context(context)
    if broker.user:
        client.username_pw_set(broker.user, broker.secret())
    return client


def session(broker: Broker, bytes_max: int) -> dict[str, Any]:
    """What CONNECT says of the session, where the version of MQTT has words for it."""
    if broker.version != "5":
        return {}
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = broker.session_seconds
    properties.MaximumPacketSize = min(bytes_max, PACKET_BYTES_MAX)
    return {"clean_start": broker.session_seconds == 0, "properties": properties}


def role_of(*parts: str) -> str:
    """A name for a client that is the same after every start: 14 letters and digits."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:14]
