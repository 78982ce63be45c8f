"""What a page's port stands from whoever can reach it."""

import asyncio
import urllib.request
from pathlib import Path

import pytest

from hedgerow.web import serving
from hedgerow.web.console import serve_console
from tests.web import gateways


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def test_whoever_connects_and_says_nothing_is_turned_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS_MAX", 0.2)

    async def scenario() -> None:
        async with serve_console(gateways.factory(streams=3), tmp_path) as url:
            for begin in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
                writer.write(begin)
                assert await asyncio.wait_for(reader.read(), 10) == b""
                writer.close()

    asyncio.run(scenario())


def test_connections_beyond_a_few_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 4)

    async def scenario() -> None:
        async with serve_console(gateways.factory(streams=3), tmp_path) as url:
            held = [await asyncio.open_connection("127.0.0.1", port_of(url)) for _ in range(4)]
            await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            assert await asyncio.wait_for(reader.read(), 10) == b""
            for _, each in (*held, (reader, writer)):
                each.close()
                await each.wait_closed()
            await asyncio.sleep(0.05)

            def ask() -> int:
                with urllib.request.urlopen(f"{url}api/owner", timeout=10) as answer:
                    return int(answer.status)

            assert await asyncio.to_thread(ask) == 200

    asyncio.run(scenario())
