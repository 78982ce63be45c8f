"""Everything that goes out over the link to the fleet stands in the egress record."""

import asyncio
import contextlib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from hedgerow.io.authority import Authority, Credentials
from hedgerow.io.egress import EgressRecord
from hedgerow.io.keys import Identity
from hedgerow.io.links import BlobMissing, ByteMeter, LinkDown
from hedgerow.io.nats_connection import nonce_signature
from hedgerow.io.nats_link import NatsDeviceLink, NatsJoinLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.io.telling import PURPOSES, told
from hedgerow.wire import codec
from hedgerow.wire.events import EVENT_MESSAGES
from hedgerow.wire.messages import CheckIn, Enrol, FromDevice, Report, kind_of
from tests.io.fleet import FLEET, Device, coordinator, until


def test_every_byte_on_the_meter_is_in_the_record(
    server: EmbeddedServer, authority: Authority, tmp_path: Path
) -> None:
    mill = Device(server, authority)
    me = mill.identity
    record = EgressRecord(tmp_path / "egress", me)

    async def scene() -> None:
        states: list[bool] = []
        credentials, meter = mill.credentials, mill.meter
        async with coordinator(server, authority) as hub:
            link = NatsDeviceLink(
                server.url, FLEET, credentials, mill.received.append, states.append, meter, record
            )
            await link.connect()
            await until(lambda: states == [True])
            note = CheckIn(model_version=1, samples=2)
            await link.send_note(codec.seal(note, me.public, me.sign))
            await link.send_note(codec.seal(Report(model_version=1), me.public, me.sign))
            await link.send_update(b"weights", "r1")
            await link.send_events(b"events", "e1")
            blob = await hub.link.put_blob(b"model")
            assert await link.fetch_blob(blob, 100) == b"model"
            with pytest.raises(BlobMissing):
                await link.fetch_blob("0" * 64, 100)
            await link.close()

    asyncio.run(scene())
    kinds = record.totals().kinds
    assert set(kinds) == {"login", "check_in", "report", "other", "blob"}
    assert kinds["login"].messages == 1
    assert record.totals().bytes - kinds["login"].bytes == mill.meter.total_up
    assert record.totals().messages - 1 == sum(mill.meter.messages_up.values())
    assert {one.to for one in record.entries()} == {server.url}
    update = next(one for one in record.entries(kind="other"))
    assert update.digest == told(b"events").digest.hex()
    record.close()


def test_asking_to_join_is_in_the_record(
    server: EmbeddedServer, authority: Authority, tmp_path: Path
) -> None:
    mill = Device(server, authority)
    me = mill.identity
    record = EgressRecord(tmp_path / "egress", me)

    async def scene() -> None:
        async with coordinator(server, authority) as hub:
            meter = ByteMeter()
            link = NatsJoinLink(server.url, FLEET, authority.join_credentials, meter, record)
            request = codec.seal(Enrol(device=me.public, name="mill"), me.public, me.sign)
            asking = asyncio.create_task(link.enrol(request, me.public, 10.0))
            await until(lambda: hub.enrolments)
            await hub.link.answer_enrolment(me.public, b"welcome")
            assert await asking == b"welcome"

    asyncio.run(scene())
    assert set(record.totals().kinds) == {"login", "enrol"}
    assert record.entries(kind="enrol")[0].purpose == "asks to join the fleet"
    record.close()


def test_each_message_of_a_device_has_a_purpose_in_words() -> None:
    kinds = {kind_of(message) for message in (*get_args(FromDevice), *EVENT_MESSAGES)}
    assert set(PURPOSES) == kinds


@pytest.mark.parametrize(
    "nonce",
    [
        "hedgerow 1\nUDXU\n" + "a" * 32,
        "hedgerow release 1\n" + "a" * 32,
        "hedgerow.egress/UDXU\n1\nAAAA\ntime 1.0\n",
        "",
        "a" * 65,
        "n\u00f6nce-of-eleven",
    ],
)
def test_a_server_that_wants_something_else_signed_than_a_nonce_gets_nothing(nonce: str) -> None:
    with pytest.raises(LinkDown, match="no nonce"):
        nonce_signature(Identity.create(), nonce)


def test_a_login_that_is_refused_left_the_device_all_the_same(tmp_path: Path) -> None:
    me = Identity.create()
    record = EgressRecord(tmp_path / "egress", me)
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "s", "version": "2.11.0", "auth_required": True, "max_payload": 9}
        writer.write(b"INFO " + msgspec.json.encode(info | {"nonce": "xuOqRD0lRyVMDVQ"}) + b"\r\n")
        asked.append(await reader.readline())
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        await writer.drain()
        writer.close()

    async def scene() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            link = NatsDeviceLink(
                f"nats://127.0.0.1:{port}",
                FLEET,
                Credentials("jwt", me),
                print,
                print,
                ByteMeter(),
                record,
            )
            with contextlib.suppress(LinkDown, TimeoutError):
                await asyncio.wait_for(link.connect(), 1.0)
            await link.close()

    asyncio.run(scene())
    assert asked and asked[0].startswith(b"CONNECT ")
    assert record.totals().kinds["login"].messages == len(asked)
    record.close()
