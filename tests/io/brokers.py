"""A real Mosquitto for tests, on a free port of loopback, and a client that hears everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.connection import Connection, Message
from hedgerow.io.nats_server import find_binary

START_SECONDS_MAX = 60


@dataclass
class Mosquitto:
    """`stop` and `start` are a power cut of the broker: what it was told to keep is gone."""

    directory: Path
    settings: tuple[str, ...] = ("allow_anonymous true",)
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def broker(self) -> Broker:
        return Broker(url=self.url)

    def start(self) -> None:
        if self.port == 0:
            with socket.socket() as chosen:
                chosen.bind(("127.0.0.1", 0))
                self.port = chosen.getsockname()[1]
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *self.settings, "set_tcp_nodelay true"]
        if os.geteuid() == 0:
            lines.append("user root")  # its own user may not read the test's directory
        path.write_text("\n".join(lines) + "\n")
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _wait_for(self.process, self.port, self.directory / "log")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def mosquitto(directory: Path, *settings: str) -> Iterator[Mosquitto]:
    running = Mosquitto(directory, settings or ("allow_anonymous true",))
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Listener:
    """What came over the broker, in order."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages: list[Message] = []

    def on(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic == topic]

    async def until(self, fits: Callable[[Listener], object], seconds_max: float = 60) -> None:
        """Listen until `fits` holds."""
        async with asyncio.timeout(seconds_max):
            while not fits(self):
                self.messages += await self.connection.receive()


@asynccontextmanager
async def listening(broker: Broker, *topics: str) -> AsyncIterator[Listener]:
    wanted = [(topic, 1) for topic in topics or ("#",)]
    async with Connection(broker, "listener", subscribe=wanted) as connection:
        yield Listener(connection)


async def until(fits: Callable[[], object], seconds_max: float = 60) -> None:
    """Wait until `fits` holds."""
    async with asyncio.timeout(seconds_max):
        while not fits():
            await asyncio.sleep(0.005)


def password_file(path: Path, user: str, password: str) -> Path:
    """A file of passwords as Mosquitto keeps them."""
    program = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
    subprocess.run([program, "-b", "-c", path, user, password], check=True, capture_output=True)
    return path


class TlsFiles(NamedTuple):
    ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


def tls_files(directory: Path) -> TlsFiles:
    """An authority, and a certificate by it for a server on loopback and for a client."""
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    made = [_certificate(directory / "ca", issuer, authority, issuer, authority, ca=True)]
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made.append(_certificate(directory / name, subject, key, issuer, authority, ca=False))
    (ca, _), server, client = made
    return TlsFiles(ca, *server, *client)


def _certificate(
    path: Path,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> tuple[Path, Path]:
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    certificate, private = path.with_suffix(".crt"), path.with_suffix(".key")
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


@contextmanager
def nats_with_mqtt(directory: Path) -> Iterator[tuple[str, str]]:
    """A NATS server that speaks MQTT; gives its URLs for TCP and for WebSocket."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = []
    for _ in range(3):
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            ports.append(chosen.getsockname()[1])
    settings = directory / "nats.conf"
    settings.write_text(
        f"""
        server_name: test
        host: 127.0.0.1
        port: {ports[0]}
        jetstream {{ store_dir: "{directory}/store" }}
        mqtt {{ host: 127.0.0.1, port: {ports[1]} }}
        websocket {{ host: 127.0.0.1, port: {ports[2]}, no_tls: true }}
        """
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_binary(), "-c", settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        for port in ports:
            _wait_for(process, port, directory / "log")
        yield f"mqtt://127.0.0.1:{ports[1]}", f"ws://127.0.0.1:{ports[2]}/mqtt"
    finally:
        process.kill()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server does not start: {log.read_text()}") from error
            time.sleep(0.01)
        else:
            return
