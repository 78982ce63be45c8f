"""OPC UA with certificates, a name and a password, against a real server that wants them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from cryptography.x509.oid import ExtendedKeyUsageOID

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Reading, SensorDown
from tests.io.industrial import free_port, ua
from tests.io.sensing import around, blocks, first, sensor

OURS = "urn:hedgerow:device"
USE = {"ours": ExtendedKeyUsageOID.CLIENT_AUTH, "theirs": ExtendedKeyUsageOID.SERVER_AUTH}


class Users(UserManager):
    """One account."""

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | None = None,
        certificate: object = None,
    ) -> User | None:
        known = (username, password) == ("reader", "p@ss")
        return User(role=UserRole.User, name=username) if known else None


async def certified(directory: Path, name: str, use: str, uri: str) -> None:
    await setup_self_signed_certificate(
        directory / f"{name}.pem",
        directory / f"{name}.der",
        uri,
        socket.gethostname(),
        [USE[use]],
        {"organizationName": "Hedgerow"},
    )


@asynccontextmanager
async def guarded(directory: Path) -> AsyncGenerator[str, None]:
    """A server that takes no connection that is not encrypted, and one account."""
    await certified(directory, "theirs", "theirs", "urn:test:server")
    server = Server(user_manager=Users())
    await server.init()
    await server.set_application_uri("urn:test:server")
    url = f"opc.tcp://127.0.0.1:{free_port()}/"
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    await server.load_certificate(directory / "theirs.der")
    await server.load_private_key(directory / "theirs.pem")
    namespace = await server.register_namespace("urn:test")
    await server.nodes.objects.add_variable(ua.NodeId("t", namespace), "t", 21.5)
    async with server:
        yield url


def test_signed_and_encrypted_with_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLC", "p@ss")
    monkeypatch.setenv("WRONG", "wr0ng")
    surroundings = around(["t"], 20)

    async def run() -> list[Reading]:
        await certified(tmp_path, "ours", "ours", OURS)
        await certified(tmp_path, "stranger", "theirs", "urn:test:stranger")
        async with guarded(tmp_path) as url:
            usual: dict[str, object] = {
                "url": url,
                "nodes": {"t": "ns=2;s=t"},
                "policy": "Basic256Sha256",
                "certificate_file": str(tmp_path / "ours.der"),
                "key_file": str(tmp_path / "ours.pem"),
                "server_certificate_file": str(tmp_path / "theirs.der"),
                "user": "reader",
                "password": "env:PLC",
            }
            stranger = {"server_certificate_file": str(tmp_path / "stranger.der")}
            plain = {"url": url, "nodes": {"t": "ns=2;s=t"}, "timeout_seconds": 2}
            with pytest.raises(UsageError, match="refuses the user 'reader'"):
                await first(sensor("opcua", **(usual | {"password": "env:WRONG"})), surroundings)
            with pytest.raises(SensorDown, match="no OPC UA from"):  # it is not who it should be
                await first(sensor("opcua", **(usual | stranger)), surroundings)
            with pytest.raises(UsageError, match=r"certificates for .* cannot be used"):
                await first(sensor("opcua", **(usual | {"key_file": "none"})), surroundings)
            with pytest.raises(SensorDown):  # no line that is not encrypted
                await first(sensor("opcua", **plain), surroundings)
            return await first(sensor("opcua", **usual), surroundings, 1)

    (block,) = blocks(asyncio.run(run()))
    assert block.samples[0, 0] == 21.5
    assert "wr0ng" not in caplog.text and "p@ss" not in caplog.text
