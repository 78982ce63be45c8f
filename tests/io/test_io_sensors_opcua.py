"""OPC UA sensors against a real OPC UA server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Reading, SensorDown
from tests.io.industrial import NAMESPACE, OpcThread, cable, data_value, opcua_thread
from tests.io.sensing import around, blocks, first, gaps, joined, sensor

NODES = {"x": f"nsu={NAMESPACE};s={{stream}}.x", "y": f"nsu={NAMESPACE};s={{stream}}.y"}
MACHINES = {f"{machine}.{channel}": 0.0 for machine in ("a", "b") for channel in "xy"}


@pytest.fixture(scope="module")
def server() -> Iterator[OpcThread]:
    arrays: dict[str, object] = {"ax": [0.0] * 100, "ay": [0.0] * 100}
    with opcua_thread({**MACHINES, **arrays, "t": 21.5, "old": 1.0}) as started:
        yield started


async def counted(server: OpcThread, period: float) -> None:
    """Counts the machines' nodes up, until cancelled."""
    number = 0
    while True:
        number += 1
        for at, name in enumerate(MACHINES):
            await server.write(name, float(number + 1000 * at))
        await asyncio.sleep(period)


def test_values_that_change_become_even_samples_of_each_machine(server: OpcThread) -> None:
    async def run() -> list[Reading]:
        given = sensor("opcua", url=server.url, streams=["a", "b"], nodes=NODES, block_seconds=0.2)
        writer = asyncio.create_task(counted(server, 0.1))
        try:
            return await first(given, around(["y", "x"], 20), 16)
        finally:
            writer.cancel()

    readings = asyncio.run(run())
    for machine, base in (("a", 0), ("b", 2000)):
        ours = blocks(readings, machine)
        assert max(map(abs, gaps(ours, 20))) < 1e-3
        samples = joined(ours)[8:]
        assert (np.diff(samples[:, 1]) >= 0).all()
        assert samples[-1, 1] > samples[0, 1] >= base
        assert set((samples[:, 0] - samples[:, 1]).tolist()) <= {999, 1000, 1001}


def test_a_value_that_holds_goes_on_giving_samples_and_a_bad_one_is_no_number(
    server: OpcThread,
) -> None:
    async def run() -> tuple[list[Block], list[Block]]:
        given = sensor("opcua", url=server.url, nodes={"t": "ns=2;s=t"}, block_seconds=0.1)
        async with aclosing(given.batches(around(["t"], 20))) as batches:
            good = [reading for _ in range(4) for reading in await anext(batches)]
            await server.write("t", data_value(21.5, datetime.now(UTC), bad=True))
            rest = [reading for _ in range(8) for reading in await anext(batches)]
        await server.write("t", 21.5)
        return blocks(good), blocks(rest)

    good, rest = asyncio.run(run())
    assert good[0].stream == "press 4"  # one stream is named as the device
    assert set(joined(good).ravel().tolist()) == {21.5}
    assert math.isnan(rest[-1].samples[-1, 0])


def test_what_holds_since_yesterday_begins_with_the_subscription(server: OpcThread) -> None:
    async def run() -> tuple[list[Reading], float]:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        await server.write("old", data_value(2.0, yesterday))
        surroundings = around(["t"], 20)
        given = sensor("opcua", url=server.url, nodes={"t": "ns=2;s=old"}, block_seconds=0.1)
        began = surroundings.now()
        return await first(given, surroundings, 3), began

    readings, began = asyncio.run(run())
    ours = blocks(readings)
    assert ours[0].time_seconds > began - 1
    assert set(joined(ours).ravel().tolist()) == {2.0}


def test_arrays_are_blocks_of_samples_with_the_time_of_the_source(server: OpcThread) -> None:
    async def run() -> tuple[list[Block], datetime]:
        given = sensor(
            "opcua",
            url=server.url,
            nodes={"x": "ns=2;s=ax", "y": "ns=2;s=ay"},
            array="last",
            block_seconds=0.1,
        )
        when = datetime.now(UTC).replace(microsecond=0)
        async with aclosing(given.batches(around(["x", "y"], 1000))) as batches:
            await anext(batches)  # what was there
            for name, sign in (("ax", 1), ("ay", -1)):
                samples = [sign * float(at) for at in range(100)]
                taken = when + timedelta(milliseconds=sign)
                await server.write(name, data_value(samples, taken))
            return blocks(await anext(batches)), when

    (block,), when = asyncio.run(run())
    assert block.samples.shape == (100, 2)
    assert block.samples[-1].tolist() == [99, -99]
    assert block.time_seconds == pytest.approx(when.timestamp() - 0.099, abs=0.0015)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nodes": {"t": "ns=2;s=none"}}, r"does not give node ns=2;s=none: BadNodeIdUnknown"),
        ({"nodes": {"t": "nsu=urn:none;s=t"}}, "no namespace 'urn:none'"),
    ],
)
def test_a_node_that_is_not_there_is_tried_again_and_named(
    server: OpcThread, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(SensorDown, match=said):
        asyncio.run(first(sensor("opcua", url=server.url, **settings), around(["t"], 1)))


@pytest.mark.parametrize(
    ("node", "array", "said"),
    [("ax", "", r"holds an array of 100; wanted a number"), ("t", "first", "wanted an array")],
)
def test_arrays_and_numbers_are_not_taken_for_each_other(
    server: OpcThread, node: str, array: str, said: str
) -> None:
    given = sensor("opcua", url=server.url, nodes={"t": f"ns=2;s={node}"}, array=array)
    with pytest.raises(UsageError, match=said):
        asyncio.run(first(given, around(["t"], 1)))


def test_a_server_out_of_reach_is_down_at_once_and_is_found_again(server: OpcThread) -> None:
    port = int(server.url.split(":")[2].split("/")[0])

    async def run() -> list[Reading]:
        async with cable(port) as reached:
            url = f"opc.tcp://127.0.0.1:{reached}"
            given = sensor("opcua", url=url, nodes={"t": "ns=2;s=t"}, block_seconds=0.1)
            batches = given.batches(around(["t"], 20))
            await anext(batches)
        async with asyncio.timeout(90):
            with pytest.raises(SensorDown, match="is lost"):
                async for _ in batches:
                    pass
        with pytest.raises(SensorDown, match="no OPC UA from"):
            await first(given, around(["t"], 20))
        async with cable(port) as reached:
            url = f"opc.tcp://127.0.0.1:{reached}"
            again = sensor("opcua", url=url, nodes={"t": "ns=2;s=t"})
            return await first(again, around(["t"], 20), 1)

    (block,) = blocks(asyncio.run(run()))
    assert block.samples[0, 0] == 21.5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://a"}, r"wanted opc\.tcp"),
        ({"url": "opc.tcp://me:secret@a:1"}, "in user and password"),
        ({"nodes": {"x": "ns=2;s={stream}", "y": "ns=2;s=y"}}, "all or none"),
        ({"nodes": {"x": "ns=2;s={stream}"}}, "streams names 0"),
        ({"streams": ["a", "b"]}, "streams names 2"),
        ({"policy": "Basic256Sha256"}, "needs certificate_file"),
        ({"user": "me"}, "not encrypted"),
    ],
)
def test_settings_that_cannot_work_say_so(settings: dict[str, object], said: str) -> None:
    usual = {"url": "opc.tcp://a:4840", "nodes": {"x": "ns=2;s=x"}}
    with pytest.raises(UsageError, match=said):
        sensor("opcua", **(usual | settings))


def test_what_is_no_node_id_is_the_settings_fault(server: OpcThread) -> None:
    given = sensor("opcua", url=server.url, nodes={"t": "temperature"})
    with pytest.raises(UsageError, match="'temperature' is no node id"):
        asyncio.run(first(given, around(["t"], 1)))
