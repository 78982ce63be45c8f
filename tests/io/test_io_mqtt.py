"""A connection to real brokers: kept up, bounded, in order."""

import asyncio
import gc
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.mqtt.broker import Broker
from hedgerow.io.mqtt.connection import BrokerDown, Connection, Will
from hedgerow.io.mqtt.outbox import Outbox, Outgoing
from tests.io.brokers import listening, mosquitto, nats_with_mqtt, password_file, tls_files, until
from tests.io.ledger import Ledger


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_go_and_come(tmp_path: Path, version: str, qos: int) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            broker = Broker(url=server.url, version=version)  # type: ignore[arg-type]
            ledger = Ledger()
            async with (
                Connection(broker, "ear", subscribe=[("a/#", qos)]) as ear,
                Connection(broker, "mouth", egress=ledger) as mouth,
            ):
                for number in range(3):
                    assert mouth.publish(
                        "a/b", b"%d" % number, qos=qos, kind="alert", purpose="test"
                    )
                assert await mouth.settle(5)
                got: list[bytes] = []
                while len(got) < 3:
                    got += [message.payload for message in await ear.receive()]
                assert got == [b"0", b"1", b"2"]
                assert await ear.receive(0.01) == []
            assert [(entry.to, entry.kind, entry.size) for entry in ledger.entries] == [
                (server.url, "alert", 1)
            ] * 3

    asyncio.run(scene())


def test_a_connection_comes_back_after_the_broker_was_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            ups: list[str] = []
            async with Connection(
                server.broker,
                "ear",
                subscribe=[("a", 1)],
                on_up=lambda: ups.append("up"),
                on_down=lambda: ups.append("down"),
            ) as ear:
                server.stop()
                await until(lambda: not ear.up)
                assert not ear.publish("a", b"lost")
                server.start()
                await until(lambda: ear.up)
                assert ups == ["up", "down", "up"]
                async with Connection(server.broker, "mouth") as mouth:
                    mouth.publish("a", b"again", qos=1)
                    assert [message.payload for message in await ear.receive()] == [b"again"]

    asyncio.run(scene())
    assert caplog.text.count("trying again") == 1


def test_what_qos_1_took_is_sent_after_the_connection_broke(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            async with listening(server.broker, "a") as ear:
                async with Connection(server.broker, "mouth") as mouth:
                    mouth.reconnect("test")  # the socket is cut, the library does not know yet
                    assert mouth.publish("a", b"kept", qos=1)
                    await ear.until(lambda ear: ear.on("a"))
                assert ear.on("a") == [b"kept"]

    asyncio.run(scene())


def test_what_is_published_on_coming_back_follows_what_was_not_acknowledged(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:

            def up() -> None:
                mouth.publish("a", b"new", qos=1, retain=True)

            mouth = Connection(
                server.broker,
                "mouth",
                on_up=up,
            )
            async with mouth:
                await mouth.settle(5)
                server.stop()
                for number in range(30):
                    assert mouth.publish("a", b"old %d" % number, qos=1, retain=True)
                await until(lambda: not mouth.up)
                server.start()
                await until(lambda: mouth.up)
                assert await mouth.settle(5)
            async with listening(server.broker, "a") as ear:
                await ear.until(lambda ear: ear.on("a"))
                assert ear.on("a") == [b"new"]

    asyncio.run(scene())


def test_the_will_is_made_anew_for_every_connection(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            made: list[int] = []

            def will() -> Will:
                made.append(len(made))
                return Will("will", b"%d" % made[-1])

            async with listening(server.broker, "will") as ear:
                ups: list[bool] = []
                mouth = Connection(
                    server.broker, "mouth", will=will, on_up=lambda: ups.append(True)
                )
                async with mouth:
                    for number in (1, 2):
                        mouth.reconnect("test")
                        await ear.until(lambda ear, n=number: len(ear.on("will")) == n)  # type: ignore[misc]
                        await until(lambda n=number: len(ups) > n)  # type: ignore[misc]
                assert ear.on("will") == [b"0", b"1"]  # and none for the orderly end

    asyncio.run(scene())


def test_the_oldest_make_room_in_a_full_queue(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            async with (
                Connection(server.broker, "ear", subscribe=[("a", 1)], queue_bytes_max=100) as ear,
                Connection(server.broker, "mouth") as mouth,
            ):
                for number in range(10):
                    mouth.publish("a", bytes([number]) * 40, qos=1)
                await until(lambda: ear.dropped["queue"] == 8)
                assert [message.payload[0] for message in await ear.receive()] == [8, 9]

    asyncio.run(scene())


def test_an_outbox_keeps_the_newest_until_the_broker_is_back(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            outboxes: list[Outbox] = []
            connection = Connection(
                server.broker, "mouth", on_up=lambda: outboxes[0].flush() if outboxes else None
            )
            outboxes.append(Outbox(connection, 3))
            async with connection:
                server.stop()
                await until(lambda: not connection.up)
                for number in range(5):
                    outboxes[0].put(Outgoing("a", b"%d" % number, 1, True, "state", "test"))
                outboxes[0].flush()
                assert len(outboxes[0]) == 3
                assert connection.dropped["backlog"] == 2
                server.start()
                await until(lambda: not len(outboxes[0]))
                assert await connection.settle(5)
                async with listening(server.broker, "a") as ear:
                    await ear.until(lambda ear: ear.on("a"))
                    assert ear.on("a") == [b"4"]

    asyncio.run(scene())


def test_a_broker_that_is_not_there_is_an_error_with_its_reason() -> None:
    async def scene() -> None:
        with pytest.raises(BrokerDown, match=r"mqtt://127.0.0.1:1: not reachable: .*refused"):
            async with Connection(Broker(url="mqtt://127.0.0.1:1"), "nobody"):
                pass

    asyncio.run(scene())


def test_after_its_patience_a_reader_is_told(tmp_path: Path) -> None:
    async def scene() -> None:
        with mosquitto(tmp_path) as server:
            async with Connection(
                server.broker, "ear", subscribe=[("a", 0)], patience_seconds=0.05
            ) as ear:
                server.stop()
                with pytest.raises(BrokerDown, match=server.url):
                    await ear.receive()

    asyncio.run(scene())


def test_login_by_a_password_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passwords = password_file(tmp_path / "passwords", "me", "secret-1")
    right = tmp_path / "right"
    right.write_text("secret-1\n")
    right.chmod(0o600)
    wrong = tmp_path / "wrong"
    wrong.write_text("secret-2\n")
    wrong.chmod(0o600)

    async def scene() -> None:
        with mosquitto(
            tmp_path / "server", "allow_anonymous false", f"password_file {passwords}"
        ) as server:
            async with Connection(
                Broker(url=server.url, user="me", password=f"file:{right}"), "me"
            ) as connection:
                assert connection.up
            for broker in (
                Broker(url=server.url, user="me", password=f"file:{wrong}"),
                Broker(url=server.url, version="5"),
            ):
                with pytest.raises(BrokerDown, match="login refused: Not authorized"):
                    async with Connection(broker, "me"):
                        pass

    asyncio.run(scene())
    right.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        Connection(Broker(user="me", password=f"file:{right}"), "me")
    assert "secret-" not in caplog.text


def test_tls_checks_the_broker_and_shows_our_certificate(tmp_path: Path) -> None:
    files = tls_files(tmp_path)
    settings = (
        f"cafile {files.ca}",
        f"certfile {files.server_certificate}",
        f"keyfile {files.server_key}",
        "require_certificate true",
        "use_identity_as_username true",
    )

    async def scene() -> None:
        with mosquitto(tmp_path / "server", *settings) as server:
            url = f"mqtts://localhost:{server.port}"
            ours: dict[str, Any] = {
                "certificate_file": str(files.client_certificate),
                "key_file": str(files.client_key),
            }
            async with Connection(Broker(url=url, ca_file=str(files.ca), **ours), "me") as good:
                assert good.publish("a", b"hello", qos=1)
                assert await good.settle(5)
                good.reconnect("test")
                await until(lambda: not good.up)
                await until(lambda: good.up)

    asyncio.run(scene())
    with pytest.raises(UsageError, match="cannot use the certificates"):
        Connection(Broker(url="mqtts://localhost", ca_file=str(tmp_path / "none")), "me")


# The library leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_with_a_certificate_of_a_stranger_is_refused(tmp_path: Path) -> None:
    files = tls_files(tmp_path)
    settings = (
        "allow_anonymous true",
        f"certfile {files.server_certificate}",
        f"keyfile {files.server_key}",
    )

    async def scene() -> None:
        with mosquitto(tmp_path / "server", *settings) as server:
            broker = Broker(url=f"mqtts://localhost:{server.port}")
            with pytest.raises(BrokerDown, match="certificate verify failed"):
                async with Connection(broker, "stranger"):
                    pass

    asyncio.run(scene())
    gc.collect()


def test_a_kept_session_brings_what_came_meanwhile(tmp_path: Path) -> None:
    async def scene(version: str) -> None:
        with mosquitto(tmp_path / version) as server:
            broker = Broker(url=server.url, version=version, session_seconds=600)  # type: ignore[arg-type]
            async with Connection(broker, "ear", subscribe=[("a", 1)]):
                pass
            async with Connection(server.broker, "mouth") as mouth:
                mouth.publish("a", b"meanwhile", qos=1)
                await mouth.settle(5)
            async with Connection(broker, "ear", subscribe=[("a", 1)]) as ear:
                assert [message.payload for message in await ear.receive()] == [b"meanwhile"]

    asyncio.run(scene("3.1.1"))
    asyncio.run(scene("5"))


def test_the_nats_server_will_do_as_broker_over_tcp_and_websocket(tmp_path: Path) -> None:
    async def scene() -> None:
        with nats_with_mqtt(tmp_path) as (tcp, websocket):
            async with (
                Connection(Broker(url=websocket), "ear", subscribe=[("a/+/x", 1)]) as ear,
                Connection(Broker(url=tcp), "mouth") as mouth,
            ):
                mouth.publish("a/p1/x", b"hello" * 20_000, qos=1)
                assert [message.payload for message in await ear.receive()] == [b"hello" * 20_000]

    asyncio.run(scene())


def test_a_refused_subscription_is_an_error(tmp_path: Path) -> None:
    async def scene() -> None:
        with (
            nats_with_mqtt(tmp_path) as (tcp, _),
            pytest.raises(BrokerDown, match="refused to subscribe us to one of a, b c"),
        ):
            # NATS takes no blanks in subjects.
            async with Connection(Broker(url=tcp), "ear", subscribe=[("a", 1), ("b c", 1)]):
                pass

    asyncio.run(scene())


def test_a_broker_that_sends_nonsense_does_not_end_the_client() -> None:
    logins: list[bytes] = []
    entered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        logins.append(await reader.read(1000))
        writer.write(b"\x20\x02\x00\x00")  # CONNACK: yes
        await entered.wait()
        if len(logins) == 1:
            writer.write(b"\x30\x01\x00")  # a PUBLISH that ends before its topic
        else:
            writer.write(b"\x30\x05\x00\x01ahi")
        await reader.read()
        writer.close()

    async def scene() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with Connection(Broker(url=f"mqtt://127.0.0.1:{port}"), "ear") as ear:
                entered.set()
                (message,) = await asyncio.wait_for(ear.receive(), 60)
                assert (message.topic, message.payload) == ("a", b"hi")
                assert len(logins) >= 2

    asyncio.run(scene())


def test_giving_up_while_connecting_leaves_no_thread_behind() -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            broker = Broker(url=f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
            before = threading.active_count()
            connecting = asyncio.ensure_future(Connection(broker, "ear").__aenter__())
            await asyncio.sleep(0.1)
            assert threading.active_count() > before
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            mine = [each for each in threading.enumerate() if each.name.startswith("paho")]
            assert mine == []

    asyncio.run(scene())
