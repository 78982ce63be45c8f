"""Real Modbus and OPC UA servers for tests, on loopback, on an event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

import asyncua
from asyncua.common.node import Node
from asyncua.server.server import Server
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import SimDevice

ua: Any = asyncua.ua  # its types are narrower than what it takes
NAMESPACE = "urn:hedgerow:test"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@asynccontextmanager
async def modbus_server(
    devices: Sequence[SimDevice], port: int, *, ignore_missing: bool = False
) -> AsyncGenerator[ModbusTcpServer, None]:
    server = ModbusTcpServer(
        list(devices), address=("127.0.0.1", port), ignore_missing_devices=ignore_missing
    )
    await server.serve_forever(background=True)
    try:
        yield server
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


class OpcServer(NamedTuple):
    server: Server
    url: str
    nodes: dict[str, Node]


@asynccontextmanager
async def opcua_server(
    values: dict[str, object], port: int | None = None
) -> AsyncGenerator[OpcServer, None]:
    """A server whose namespace 2 holds a variable for each of `values`, by string id."""
    port = free_port() if port is None else port
    server = Server()
    await server.init()
    url = f"opc.tcp://127.0.0.1:{port}/hedgerow"
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    namespace = await server.register_namespace(NAMESPACE)
    nodes = {
        name: await server.nodes.objects.add_variable(ua.NodeId(name, namespace), name, value)
        for name, value in values.items()
    }
    async with server:
        yield OpcServer(server, url, nodes)


class OpcThread(NamedTuple):
    """A server on an event loop of its own: making one takes seconds, so tests share it."""

    given: OpcServer
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.given.url

    async def write(self, name: str, value: object) -> None:
        """Writes a value, or a `DataValue` with its time and status, from any loop."""
        writing = self.given.nodes[name].write_value(value)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(writing, self.loop))


@contextmanager
def opcua_thread(values: dict[str, object]) -> Iterator[OpcThread]:
    """An OPC UA server in a thread of its own."""
    started: list[OpcThread] = []
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        try:
            async with opcua_server(values) as server:
                started.append(OpcThread(server, asyncio.get_running_loop()))
                ready.set()
                await stop.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        yield started[0]
    finally:
        if started:
            started[0].loop.call_soon_threadsafe(stop.set)
        thread.join()


def data_value(value: object, when: datetime, *, bad: bool = False) -> object:
    """A value with the time of its source, and perhaps a status that says not to believe it."""
    status = ua.StatusCode(ua.StatusCodes.BadSensorFailure if bad else ua.StatusCodes.Good)
    return ua.DataValue(ua.Variant(value), status, SourceTimestamp=when)


@asynccontextmanager
async def cable(port: int) -> AsyncGenerator[int, None]:
    """A port on loopback that leads to `port`, until the block ends: then it is cut."""
    carrying: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.update({writer, far_writer})
        for way in ((reader, far_writer), (far_reader, writer)):
            carrying.add(asyncio.create_task(carry(*way)))

    writers: set[asyncio.StreamWriter] = set()
    server = await asyncio.start_server(joined, "127.0.0.1", 0)
    async with server:
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*carrying)
