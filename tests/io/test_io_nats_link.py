import asyncio
import os
import shutil

import pytest
from nats.aio.client import Client

from hedgerow.core.errors import UsageError
from hedgerow.io import clock
from hedgerow.io.authority import Authority
from hedgerow.io.keys import Identity
from hedgerow.io.links import BlobMissing, BlobRefused, ByteMeter, LinkDown, MessageRefused
from hedgerow.io.nats_connection import Connection
from hedgerow.io.nats_journal import JournalLimits
from hedgerow.io.nats_link import NatsJoinLink
from hedgerow.io.nats_server import EmbeddedServer
from tests.io.fleet import FLEET, Device, coordinator, device, until


def test_messages_reach_whom_they_are_for(server: EmbeddedServer, authority: Authority) -> None:
    async def scene() -> None:
        async with (
            coordinator(server, authority) as hub,
            device(server, authority) as one,
            device(server, authority) as two,
        ):
            await one.link.send_note(b"ready")
            await until(lambda: hub.notes)
            assert hub.notes == [(one.id, b"ready")]
            await hub.link.send(one.id, b"offer")
            await hub.link.broadcast(b"model")
            await until(lambda: len(one.received) == 2 and len(two.received) == 1)
            assert one.received == [b"offer", b"model"]
            assert two.received == [b"model"]
            await one.link.send_update(b"weights", "r1")
            await until(lambda: hub.updates)
            assert [tuple(update) for update in hub.updates] == [(1, one.id, b"weights")]
            assert await hub.link.last_sequence() == 1

    asyncio.run(scene())


def test_the_same_update_sent_again_is_stored_once(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            for _ in range(3):
                await one.link.send_update(b"weights", "r1")
            await one.link.send_update(b"weights", "r2")
            await until(lambda: len(hub.updates) == 2)
            assert await hub.link.last_sequence() == 2

    asyncio.run(scene())


def test_nobody_can_use_up_the_id_of_anothers_update(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with (
            coordinator(server, authority) as hub,
            device(server, authority) as thief,
            device(server, authority) as one,
        ):
            await thief.link.send_update(b"noise", f"{one.id}/r1")
            await one.link.send_update(b"weights", f"{one.id}/r1")
            await until(lambda: len(hub.updates) == 2)
            assert hub.updates[1].device == one.id

    asyncio.run(scene())


def test_a_killed_server_loses_nothing_that_was_acknowledged(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            url = server.url
            for number in range(20):
                await one.link.send_update(b"before %d" % number, f"b{number}")
            server.kill()
            await until(lambda: not one.up)
            with pytest.raises(LinkDown):
                await one.link.send_update(b"away", "a")
            with pytest.raises(LinkDown):
                await one.link.send_note(b"away")
            server.start()
            assert server.url == url
            await until(lambda: one.up and hub.states[-1])
            for number in range(20):
                await one.link.send_update(b"after %d" % number, f"a{number}")
            await until(lambda: len(hub.updates) == 40)
            assert [update.sequence for update in hub.updates] == list(range(1, 41))
            assert hub.bodies[19:21] == [b"before 19", b"after 0"]
            assert one.states == [True, False, True]
            await hub.link.send(one.id, b"still there")
            await until(lambda: one.received)

    asyncio.run(scene())


def test_updates_in_flight_while_the_server_dies_arrive_once_by_retrying(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def insist(one: Device, number: int) -> None:
        while True:
            try:
                return await one.link.send_update(b"%d" % number, f"m{number}")
            except LinkDown:
                await asyncio.sleep(0.01)

    async def scene() -> None:
        limits = JournalLimits(updates_per_device_max=1000)
        async with (
            coordinator(server, authority, limits=limits) as hub,
            device(server, authority) as one,
        ):
            for restart in range(3):
                first = 40 * restart
                sending = [asyncio.create_task(insist(one, first + n)) for n in range(40)]
                await asyncio.sleep(0.01 * restart)
                server.kill()
                server.start()
                await asyncio.gather(*sending)
            await until(lambda: len(hub.updates) == 120)
            assert sorted(int(body) for body in hub.bodies) == list(range(120))
            sequences = [update.sequence for update in hub.updates]
            assert sequences == sorted(set(sequences))

    asyncio.run(scene())


def test_a_restarted_coordinator_replays_from_where_it_says(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        async with device(server, authority) as one:
            async with coordinator(server, authority):
                for number in range(6):
                    await one.link.send_update(b"%d" % number, f"m{number}")
            async with coordinator(server, authority, start_sequence=3) as again:
                await until(lambda: len(again.updates) == 4)
                assert again.bodies == [b"2", b"3", b"4", b"5"]
                await one.link.send_update(b"6", "m6")
                await until(lambda: again.bodies[-1] == b"6")
                await again.link.purge_updates(before_sequence=7)
                assert await again.link.last_sequence() == 7
            async with coordinator(server, authority, start_sequence=1) as third:
                await until(lambda: third.updates)
                assert third.bodies == [b"6"]
                await third.link.purge_updates(before_sequence=0)
                await third.link.purge_updates(before_sequence=8)
                assert await third.link.last_sequence() == 7

    asyncio.run(scene())


def test_a_lost_stream_is_read_from_its_new_beginning(
    server: EmbeddedServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            for number in range(3):
                await one.link.send_update(b"%d" % number, f"m{number}")
            await until(lambda: len(hub.updates) == 3)
            server.stop()
            shutil.rmtree(server.directory / "jetstream")
            server.start()
            await until(lambda: hub.states == [True, False, True] and one.up)
            await one.link.send_update(b"first of a new stream", "m3")
            await until(lambda: len(hub.updates) == 4)
            assert hub.updates[3].sequence == 1

    asyncio.run(scene())
    assert "begun anew" in caplog.text


def test_one_device_that_floods_shuts_out_itself_only(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        limits = JournalLimits(updates_per_device_max=4)
        async with (
            device(server, authority) as one,
            device(server, authority) as flood,
            coordinator(server, authority, limits=limits) as hub,
        ):
            for number in range(4):
                await flood.link.send_update(b"%d" % number, f"f{number}")
            with pytest.raises(LinkDown, match="could not store"):
                await flood.link.send_update(b"4", "f4")
            await one.link.send_update(b"mine", "m")
            await until(lambda: len(hub.updates) == 5)
            assert hub.bodies == [b"0", b"1", b"2", b"3", b"mine"]
            await hub.link.purge_updates(before_sequence=6)
            await flood.link.send_update(b"4", "f4")
            await until(lambda: hub.bodies[-1] == b"4")

    asyncio.run(scene())


def test_an_update_too_large_is_refused_for_good(
    server: EmbeddedServer, authority: Authority
) -> None:
    async def scene() -> None:
        limits = JournalLimits(update_bytes_max=100_000)
        async with (
            coordinator(server, authority, limits=limits),
            device(server, authority) as one,
        ):
            for size in (100_001, 9 * 2**20):
                with pytest.raises(MessageRefused, match="too_large"):
                    await one.link.send_update(bytes(size), "m")
            await one.link.send_update(bytes(90_000), "m")

    asyncio.run(scene())


@pytest.mark.parametrize("size", [0, 1, 80_000, 2**20, 3_000_000])
def test_a_blob_comes_back_whole(server: EmbeddedServer, authority: Authority, size: int) -> None:
    data = os.urandom(size)

    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            sha256 = await hub.link.put_blob(data)
            assert await hub.link.put_blob(data) == sha256
            assert await one.link.fetch_blob(sha256, size) == data
            if size:
                with pytest.raises(BlobRefused, match="blob_too_large"):
                    await one.link.fetch_blob(sha256, size - 1)
            await hub.link.delete_blob(sha256)
            await hub.link.delete_blob(sha256)
            with pytest.raises(BlobMissing):
                await one.link.fetch_blob(sha256, size)
            with pytest.raises(BlobMissing):
                await one.link.fetch_blob("0" * 64, size)
            with pytest.raises(UsageError, match="sha256"):
                await one.link.fetch_blob("../x", size)
            assert await hub.link.put_blob(data) == sha256
            assert await one.link.fetch_blob(sha256, size) == data

    asyncio.run(scene())


def test_a_tampered_blob_is_refused(server: EmbeddedServer, authority: Authority) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            sha256 = await hub.link.put_blob(b"the model as it was")
            store = await hub.link._connection.require().jetstream().object_store(f"{FLEET}-models")
            await store.put(sha256, b"the model as it isnt")
            with pytest.raises(BlobRefused, match="blob_tampered"):
                await one.link.fetch_blob(sha256, 1000)

    asyncio.run(scene())


def test_a_device_may_start_before_its_server(
    server: EmbeddedServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        server.kill()
        async with device(server, authority) as one:
            assert one.states == []
            with pytest.raises(LinkDown):
                await one.link.fetch_blob("0" * 64, 1)
            server.start()
            await until(lambda: one.up)
            with pytest.raises(LinkDown, match="keeps no updates"):
                await one.link.send_update(b"early", "m")

    asyncio.run(scene())
    assert "still trying" in caplog.text


def test_enrolment_waits_for_a_coordinator(server: EmbeddedServer, authority: Authority) -> None:
    async def scene() -> None:
        identity = Identity.create()
        join = NatsJoinLink(server.url, FLEET, authority.join_credentials, ByteMeter())
        asking = asyncio.create_task(join.enrol(b"let me in", identity.public, 15.0))
        await asyncio.sleep(0.1)
        async with coordinator(server, authority) as hub:
            await until(lambda: hub.enrolments)
            assert hub.enrolments[0] == (identity.public, b"let me in")
            jwt = authority.issue_device(identity.public, clock.now())
            await hub.link.answer_enrolment(identity.public, jwt.encode())
            assert await asking == jwt.encode()
        with pytest.raises(LinkDown, match="no answer"):
            await join.enrol(b"let me in", identity.public, 0.1)

    asyncio.run(scene())


def test_bytes_are_counted_by_class(server: EmbeddedServer, authority: Authority) -> None:
    async def scene() -> None:
        async with coordinator(server, authority) as hub, device(server, authority) as one:
            await one.link.send_note(b"12345")
            note = len(f"hedgerow.{FLEET}.up.{one.id}.note") + 5
            assert one.meter.bytes_up == {"note": note}
            await until(lambda: hub.notes)
            assert hub.meter.bytes_down == {"note": note}
            await one.link.send_update(bytes(1000), "m")
            await until(lambda: hub.updates)
            assert 1000 < one.meter.bytes_up["update"] < 1500
            assert 1000 < hub.meter.bytes_down["update"] < 1500
            assert one.meter.messages_up == {"note": 1, "update": 1}
            assert one.meter.total_up == sum(one.meter.bytes_up.values())

    asyncio.run(scene())


def test_a_callback_that_fails_does_not_take_the_link_down(
    server: EmbeddedServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(_: Client) -> None:
        return

    def fail(_: bool) -> None:
        raise KeyError

    async def scene() -> None:
        made = Device(server, authority)
        connection = Connection(server.url, made.credentials, ByteMeter(), nothing, fail)
        await connection.start()
        assert connection.up.is_set()
        server.kill()
        await until(lambda: not connection.up.is_set())
        server.start()
        await until(connection.up.is_set)
        await connection.close()

    asyncio.run(scene())
    assert "did not take up=True" in caplog.text


def test_a_slow_reader_slows_the_server_and_loses_nothing(
    server: EmbeddedServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.io.nats_journal.QUEUE_BYTES_MAX", 100_000)

    async def scene() -> None:
        async with device(server, authority) as one, coordinator(server, authority) as hub:
            for number in range(60):
                await one.link.send_update(bytes([number]) * 50_000, f"m{number}")
            largest, seen = 0, 0
            async for batch in hub.link.updates(1):
                largest = max(largest, sum(len(update.data) for update in batch))
                assert [update.sequence for update in batch] == [
                    seen + 1 + place for place in range(len(batch))
                ]
                seen += len(batch)
                if seen == 60:
                    break
                await asyncio.sleep(0.001)
            assert largest <= 150_000

    asyncio.run(scene())
