"""What a credential cannot do, against the real server. Each line is an attack that must fail."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from hedgerow.io import clock
from hedgerow.io.authority import Authority, Credentials, _user_jwt
from hedgerow.io.keys import Identity
from hedgerow.io.nats_connection import settle
from hedgerow.io.nats_server import EmbeddedServer
from tests.io.fleet import FLEET, Device, coordinator, device, until


class Intruder:
    """A client of its own making that holds somebody's credentials."""

    def __init__(self) -> None:
        self.client = Client()
        self.errors: list[str] = []
        self.heard: list[tuple[str, bytes]] = []

    async def denied(self) -> bool:
        """Whether the server has complained since the last question."""
        if self.client.is_connected:
            await settle(self.client)
        found = any("permissions violation" in error.lower() for error in self.errors)
        self.errors.clear()
        return found

    async def publish_denied(self, subject: str, data: bytes = b"x", reply: str = "") -> bool:
        await self.client.publish(subject, data, reply)
        return await self.denied()

    async def subscribe_denied(self, subject: str) -> bool:
        await self.client.subscribe(subject, cb=self._hear)
        return await self.denied()

    async def _hear(self, message: Msg) -> None:
        self.heard.append((message.subject, message.data))


@asynccontextmanager
async def intruder(server: EmbeddedServer, credentials: Credentials) -> AsyncIterator[Intruder]:
    made = Intruder()

    async def error(fault: Exception) -> None:
        made.errors.append(str(fault))

    try:
        await made.client.connect(
            server.url,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            user_jwt_cb=lambda: bytearray(credentials.jwt, "ascii"),
            signature_cb=lambda nonce: base64.b64encode(credentials.identity.sign(nonce.encode())),
            error_cb=error,
        )
        yield made
    finally:
        await made.client.close()


async def refused(server: EmbeddedServer, credentials: Credentials) -> bool:
    try:
        async with intruder(server, credentials):
            return False
    except Error:
        return True


def test_a_device_speaks_and_hears_as_itself_only(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as victim:
            thief = Device(server, authority)
            async with intruder(server, thief.credentials) as attack:
                for subject in (
                    f"hedgerow.{FLEET}.up.{victim.id}.note",
                    f"hedgerow.{FLEET}.up.{victim.id}.update",
                    f"hedgerow.{FLEET}.down.{victim.id}",
                    f"hedgerow.{FLEET}.down.{thief.id}",
                    f"hedgerow.{FLEET}.all",
                    f"hedgerow.{FLEET}.enrol.{thief.id}",
                    f"hedgerow.{FLEET}.enrolled.{victim.id}",
                    f"hedgerow.other.up.{thief.id}.note",
                    f"_INBOX.{victim.id}.answer.0",
                    "$SYS.REQ.SERVER.PING",
                ):
                    assert await attack.publish_denied(subject), subject
                for subject in (
                    f"hedgerow.{FLEET}.down.{victim.id}",
                    f"hedgerow.{FLEET}.down.*",
                    f"hedgerow.{FLEET}.up.*.note",
                    f"hedgerow.{FLEET}.up.{victim.id}.update",
                    f"hedgerow.{FLEET}.enrol.*",
                    f"hedgerow.{FLEET}.enrolled.*",
                    f"hedgerow.{FLEET}.>",
                    f"_INBOX.{victim.id}.>",
                    "_INBOX.>",
                    f"$O.{FLEET}-models.>",
                    "$SYS.>",
                    ">",
                ):
                    assert await attack.subscribe_denied(subject), subject
                # What it may do, so that the test above means something.
                assert not await attack.publish_denied(f"hedgerow.{FLEET}.up.{thief.id}.note")
                assert not await attack.subscribe_denied(f"hedgerow.{FLEET}.down.{thief.id}")
                await until(lambda: hub.notes)
                await hub.link.send(victim.id, b"for the victim")
                await until(lambda: victim.received)
                await settle(attack.client)
                assert hub.notes == [(thief.id, b"x")]
                assert hub.updates == []
                assert attack.heard == []

    asyncio.run(scene())


def test_a_device_cannot_reach_into_storage(server: EmbeddedServer, authority: Authority) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub:
            sha256 = await hub.link.put_blob(b"model")
            thief = Device(server, authority)
            name = base64.urlsafe_b64encode(sha256.encode()).decode()
            stream, bucket = f"{FLEET}-updates", f"OBJ_{FLEET}-models"
            async with intruder(server, thief.credentials) as attack:
                for subject in (
                    "$JS.API.INFO",
                    "$JS.API.STREAM.NAMES",
                    "$JS.API.STREAM.CREATE.mine",
                    f"$JS.API.STREAM.INFO.{stream}",
                    f"$JS.API.STREAM.UPDATE.{stream}",
                    f"$JS.API.STREAM.PURGE.{stream}",
                    f"$JS.API.STREAM.DELETE.{bucket}",
                    f"$JS.API.STREAM.MSG.GET.{stream}",
                    f"$JS.API.STREAM.MSG.DELETE.{bucket}",
                    f"$JS.API.DIRECT.GET.{stream}",
                    f"$JS.API.CONSUMER.CREATE.{bucket}",
                    f"$JS.API.CONSUMER.CREATE.{stream}.mine",
                    f"$JS.API.CONSUMER.DURABLE.CREATE.{bucket}.mine",
                    f"$JS.API.CONSUMER.MSG.NEXT.{bucket}.mine",
                    f"$O.{FLEET}-models.M.{name}",
                    f"$O.{FLEET}-models.C.chunk",
                ):
                    assert await attack.publish_denied(subject, b"{}"), subject
            async with device(server, authority) as one:
                assert await one.link.fetch_blob(sha256, 100) == b"model"
            assert await hub.link.last_sequence() == 0

    asyncio.run(scene())


def test_rollup_headers_do_not_empty_the_stream(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as victim:
            await victim.link.send_update(b"weights", "m")
            thief = Device(server, authority)
            async with intruder(server, thief.credentials) as attack:
                for header in ({"Nats-Rollup": "all"}, {"Nats-Rollup": "sub"}):
                    subject = f"hedgerow.{FLEET}.up.{thief.id}.update"
                    await attack.client.publish(subject, b"x", headers=header)
                await settle(attack.client)
            await victim.link.send_update(b"more", "n")
            await until(lambda: len(hub.updates) == 2)
            assert hub.bodies == [b"weights", b"more"]
            await hub.link.close()
        async with coordinator(server, authority) as again:
            await until(lambda: len(again.updates) == 2)

    asyncio.run(scene())


def test_the_join_credential_enrols_and_nothing_else(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        victim = Device(server, authority)
        async with (
            coordinator(server, authority) as hub,
            intruder(server, authority.join_credentials) as attack,
        ):
            for subject in (
                f"hedgerow.{FLEET}.up.{victim.id}.note",
                f"hedgerow.{FLEET}.enrolled.{victim.id}",
                f"hedgerow.{FLEET}.all",
                f"$JS.API.DIRECT.GET.OBJ_{FLEET}-models",
                "$JS.API.INFO",
            ):
                assert await attack.publish_denied(subject), subject
            for subject in (f"hedgerow.{FLEET}.all", f"hedgerow.{FLEET}.enrol.*", "_INBOX.>"):
                assert await attack.subscribe_denied(subject), subject
            assert not await attack.publish_denied(f"hedgerow.{FLEET}.enrol.nonsense")
            assert not await attack.publish_denied(f"hedgerow.{FLEET}.enrol.{victim.id}")
            await until(lambda: hub.enrolments)
            assert hub.enrolments == [(victim.id, b"x")]  # only claimed; nonsense is dropped

    asyncio.run(scene())


def test_a_stolen_enrolment_key_makes_devices_only(
    server: EmbeddedServer, authority: Authority
) -> None:
    """The server refuses a JWT of a role's key that brings permissions of its own."""

    async def scene() -> None:
        signing, account = authority.enroller.signing, authority.enroller.account
        identity = Identity.create()
        honest = _user_jwt(signing, account, identity.public, "device", clock.now(), None)
        assert not await refused(server, Credentials(honest, identity))
        claims = json.loads(base64.urlsafe_b64decode(honest.split(".")[1] + "=="))
        claims["nats"]["pub"] = {"allow": [">"]}
        head = honest.split(".")[0]
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        seal = base64.urlsafe_b64encode(signing.sign(f"{head}.{body}".encode())).decode()
        assert await refused(server, Credentials(f"{head}.{body}.{seal.rstrip('=')}", identity))

    asyncio.run(scene())


def test_false_expired_and_borrowed_credentials_are_refused(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        one, other = Identity.create(), Identity.create()
        now = clock.now()
        jwt = authority.issue_device(one.public, now)
        stranger = _user_jwt(
            Identity.create("account"), authority.enroller.account, one.public, "device", now, None
        )
        expired = authority.issue_device(one.public, now - 100, expires_at=now - 10)
        assert await refused(server, Credentials(jwt, other))
        assert await refused(server, Credentials(stranger, one))
        assert await refused(server, Credentials(expired, one))
        assert not await refused(server, Credentials(jwt, one))

    asyncio.run(scene())


def test_a_revoked_device_is_cut_off_and_stays_out(
    server: EmbeddedServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with device(server, authority) as bad, device(server, authority) as good:
            began = int(clock.now())
            await until(lambda: int(clock.now()) > began + 1)  # claims carry whole seconds
            authority.revoke(bad.id)
            server.reload()
            await until(lambda: bad.states == [True, False])
            assert await refused(server, bad.credentials)
            anew = authority.issue_device(bad.id, clock.now() + 60.0)
            assert await refused(server, Credentials(anew, bad.identity))
            assert good.states == [True]
            server.stop()
            server.start()
            await until(lambda: good.states == [True, False, True])
            assert await refused(server, bad.credentials)

    asyncio.run(scene())


def test_answers_aimed_elsewhere_are_the_servers_words_and_move_no_storage(
    server: EmbeddedServer, authority: Authority
) -> None:
    """NATS does not check reply subjects: the limit that docs/security.md states.

    What lands there is the server's own text, never the attacker's, and carries no signature; and
    it is no way to the storage interface.
    """

    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as victim:
            await hub.link.put_blob(b"model")
            thief = Device(server, authority)
            async with intruder(server, thief.credentials) as attack:
                for aim in (
                    f"$JS.API.STREAM.PURGE.{FLEET}-updates",
                    f"$JS.API.STREAM.DELETE.{FLEET}-updates",
                    f"$JS.API.STREAM.DELETE.OBJ_{FLEET}-models",
                    f"hedgerow.{FLEET}.down.{victim.id}",
                ):
                    subject = f"hedgerow.{FLEET}.up.{thief.id}.update"
                    await attack.client.publish(subject, b"chosen words", reply=aim)
                await settle(attack.client)
            await until(lambda: victim.received and len(hub.updates) == 4)
            assert json.loads(victim.received[0]) == {"stream": f"{FLEET}-updates", "seq": 4}
            streams = hub.link._connection.require().jetstream()
            assert (await streams.stream_info(f"{FLEET}-updates")).state.messages == 4
            assert (await streams.stream_info(f"OBJ_{FLEET}-models")).state.messages == 2

    asyncio.run(scene())
