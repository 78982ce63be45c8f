"""Which MQTT broker, and how to log in there: the table `broker` of a sensor or an actuator.

broker.url = "mqtts://broker.factory.example"
broker.user = "gateway-4"
broker.password = "file:/etc/hedgerow/broker.password"
"""

from __future__ import annotations

import ssl
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.io.secret import named_secret

PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Address(NamedTuple):
    """Where a broker listens, as its URL says."""

    host: str
    port: int
    tls: bool
    websocket_path: str
    """Empty: plain MQTT over TCP."""


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A broker's address and how to log in.

    `password` names a file that only its owner may read (`file:PATH`) or an environment variable
    (`env:NAME`). `session_seconds` > 0 asks the broker to keep the
    subscriptions and what QoS 1 owes for so long while the device is away (3.1.1 knows no limit:
    the broker keeps it for as long as it likes).
    """

    url: str = "mqtt://127.0.0.1:1883"
    user: str = ""
    password: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    client_id: str = ""
    version: Literal["3.1.1", "5"] = "3.1.1"
    keep_alive_seconds: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30
    session_seconds: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)] = 0

    def __post_init__(self) -> None:
        address = self.address()
        if self.password and not self.user:
            raise UsageError("broker has a password and no user; set broker.user too")
        if not address.tls and (self.ca_file or self.certificate_file):
            raise UsageError(
                f"broker.url is {self.url!r} and there are certificates; use mqtts:// or wss://"
            )
        if bool(self.certificate_file) != bool(self.key_file):
            raise UsageError("broker needs certificate_file and key_file together, or neither")

    def address(self) -> Address:
        """Where it listens. Raises UsageError when `url` is no address of a broker."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise UsageError(f"broker.url {self.url!r} is no URL: {error}") from None
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "broker.url holds a user or password; set broker.user and broker.password"
            )
        fits = parts.scheme in PORTS and host.isascii() and 0 < len(host) <= 253 and port != 0
        if not fits or any(len(label) > 63 for label in host.split(".")):
            raise UsageError(
                f"broker.url is {self.url!r}; wanted mqtt://, mqtts://, ws:// or wss://, a host, "
                "and a port if it is not the usual one"
            )
        websocket = (parts.path or "/mqtt") if parts.scheme in ("ws", "wss") else ""
        usual = PORTS[parts.scheme]
        return Address(
            host, usual if port is None else port, parts.scheme in ("mqtts", "wss"), websocket
        )

    @property
    def name(self) -> str:
        """The broker as logs and the egress record name it."""
        address = self.address()
        return f"{urlsplit(self.url).scheme}://{address.host}:{address.port}"

    def in_clear(self) -> bool:
        """Whether a password would cross a network that others can read."""
        address = self.address()
        return bool(self.user) and not address.tls and address.host not in LOOPBACK

    def secret(self) -> str | None:
        """The password, read anew. Raises UsageError when it is not where the settings say."""
        return named_secret(self.password) or None

    def tls_context(self) -> ssl.SSLContext | None:
        """How to check the broker's certificate, and ours to show.

        Raises UsageError when a certificate or key cannot be read.
        """
        if not self.address().tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.certificate_file:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(
                name for name in (self.ca_file, self.certificate_file, self.key_file) if name
            )
            raise UsageError(f"cannot use the certificates {files}: {error}") from error
        return context
