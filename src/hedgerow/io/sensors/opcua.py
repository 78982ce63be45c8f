"""Nodes of an OPC UA server, by subscription: single values that change, or arrays of samples.

Source: *OPC Unified Architecture*, Part 4 (Services), 5.13 (monitored items) and 5.14
(subscriptions); Part 6, 5.3.1.10 (node ids as text, with `nsu=` for a namespace by name).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.secret import named_secret
from hedgerow.io.sensors.base import Block, Reading, Sensor, SensorDown
from hedgerow.io.sensors.grid import SAMPLES_MAX, Held, in_order
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end

if TYPE_CHECKING:
    from asyncua.client.client import Client
    from asyncua.common.subscription import DataChangeEvent, Subscription

_log = logging.getLogger(__name__)
_NODES_AT_ONCE: Final = 500
_WAITING_MAX: Final = 1 << 16
_ARRAYS_MAX: Final = 16
"""Arrays of one channel that wait for those of the others."""

Policy = Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]


class OpcUa(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Subscribes to `nodes` (channel → node id) of the server at `url`.

    With `{stream}` in the node ids there is one stream for each of `streams`; else one in all,
    named by `streams` or as the device. `array`: each value is an array of samples, and its time is
    that of the `first` or the `last` of them. `times`: the sensor's own, or when they `arrive`.
    """

    url: str
    nodes: dict[str, str]
    streams: tuple[str, ...] = ()
    array: Literal["", "first", "last"] = ""
    times: Literal["source", "arrival"] = "source"
    block_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=3600)] = 0.5
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 4.0
    user: str = ""
    password: str = ""
    insecure: bool = False
    policy: Policy = "None"
    sign_only: bool = False
    certificate_file: str = ""
    key_file: str = ""
    server_certificate_file: str = ""
    application: str = "urn:hedgerow:device"

    def __post_init__(self) -> None:
        where = urlsplit(self.url)
        if where.scheme != "opc.tcp" or not where.hostname or where.password is not None:
            raise UsageError(
                "url is no address of an OPC UA server; wanted opc.tcp://host:4840/path, and a "
                "name and password in user and password"
            )
        templates = [channel for channel, node in self.nodes.items() if "{stream}" in node]
        if templates and len(templates) < len(self.nodes):
            raise UsageError("some of nodes hold {stream} and some do not; wanted all or none")
        if bool(templates) != (len(self.streams) > 1) and not (templates and self.streams):
            raise UsageError(
                f"streams names {len(self.streams)}, and nodes hold "
                f"{'' if templates else 'no '}{{stream}}; name the streams that {{stream}} stands "
                "for, or one stream and plain node ids"
            )
        if self.policy != "None" and not (
            self.certificate_file and self.key_file and self.server_certificate_file
        ):
            raise UsageError(
                f"policy {self.policy} needs certificate_file, key_file and "
                "server_certificate_file: ours, its key, and the one that the server must show"
            )
        if self.user and self.policy == "None" and not self.insecure:
            raise UsageError(
                "a password would go over a line that is not encrypted; set policy, or say "
                "insecure = true"
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Samples every `block_seconds`, or arrays as they come; see `Sensor.batches`."""
        templates = in_order(self.nodes, around, "nodes")
        streams = self.streams or (around.device,)
        with needs("opcua"):
            from asyncua.ua.uaerrors import UaError
        async with self._connected() as client:
            try:
                named = await _namespaces(client, templates)
                places = {
                    template.replace("{stream}", stream): (row, channel)
                    for row, stream in enumerate(streams)
                    for channel, template in enumerate(named)
                }
                clock_offset = await _clock_offset(client, around)
                subscription = await self._subscribe(client, list(places), around.rate_hz)
            except (UaError, OSError, TimeoutError) as error:
                raise self._down(error) from error
            taker: _Values | _Arrays
            if self.array:
                taker = _Arrays(self, streams, len(templates), around)
            else:
                taker = _Values(self, streams, len(templates), around, clock_offset)
            reader = asyncio.create_task(self._read(subscription, places, taker))
            try:
                while True:
                    # The sensor's own time passes even where nothing changes.
                    done, _ = await asyncio.wait({reader}, timeout=self.block_seconds)
                    blocks = taker.take()
                    if blocks:
                        yield blocks
                    if done:
                        reader.result()
                        raise SensorDown(f"{self.url} ended the subscription; it is opened again")
            finally:
                await end([reader])

    async def _read(
        self,
        subscription: Subscription,
        places: dict[str, tuple[int, int]],
        taker: _Values | _Arrays,
    ) -> None:
        from asyncua.common.subscription import DataChangeEvent

        by_node: dict[object, tuple[int, int]] = {}
        async for event in subscription:
            if not isinstance(event, DataChangeEvent):  # of the subscription itself: it is over
                status = getattr(getattr(event, "notification", None), "Status", None)
                raise SensorDown(f"{self.url} is lost ({getattr(status, 'name', 'no reason')})")
            place = by_node.get(event.node.nodeid)
            if place is None:
                place = by_node[event.node.nodeid] = places[event.node.nodeid.to_string()]
            taker.put(place, event)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Client, None]:
        from asyncua.client.client import Client
        from asyncua.crypto import security_policies
        from asyncua.ua import MessageSecurityMode
        from asyncua.ua.uaerrors import BadIdentityTokenRejected, BadUserAccessDenied, UaError

        client = Client(self.url, timeout=self.timeout_seconds)
        client.application_uri = self.application
        try:
            if self.user:
                client.set_user(self.user)
                client.set_password(named_secret(self.password))
            if self.policy != "None":
                await client.set_security(
                    getattr(security_policies, f"SecurityPolicy{self.policy}"),
                    self.certificate_file,
                    self.key_file,
                    server_certificate=self.server_certificate_file,
                    mode=MessageSecurityMode.Sign
                    if self.sign_only
                    else MessageSecurityMode.SignAndEncrypt,
                )
        except (OSError, ValueError, UaError) as error:
            raise UsageError(
                f"the certificates for {self.url} cannot be used ({error}); wanted PEM or DER "
                "files of ours, our key and the server's"
            ) from error
        try:
            await client.connect()
        except (BadIdentityTokenRejected, BadUserAccessDenied) as error:
            raise UsageError(
                f"{self.url} refuses the user {self.user or 'anonymous'!r}; set user and "
                "password to those of an account that may read"
            ) from error
        except (UaError, OSError, TimeoutError) as error:
            raise self._down(error) from error
        try:
            yield client
        finally:
            try:
                async with asyncio.timeout(self.timeout_seconds):
                    await client.disconnect()
            except (UaError, OSError, TimeoutError):
                client.disconnect_socket()

    async def _subscribe(self, client: Client, nodes: list[str], rate_hz: float) -> Subscription:
        """A subscription to all `nodes`, sampled at the model's rate and told in blocks."""
        from asyncua.ua.uatypes import Double, StatusCode

        subscription = await client.create_subscription(
            self.block_seconds * 1000, queue_maxsize=_WAITING_MAX
        )
        # A slow model still wants what holds at each of its samples, not what held one before.
        sampled_seconds = min(1 / rate_hz, self.block_seconds)
        queued = min(max(2, math.ceil(2 * self.block_seconds * rate_hz)), 10_000)
        for first in range(0, len(nodes), _NODES_AT_ONCE):
            part = nodes[first : first + _NODES_AT_ONCE]
            results = await subscription.subscribe_data_change(
                [client.get_node(node) for node in part],
                queuesize=queued,
                # An array is a new value whenever it is written; the server decides how often.
                sampling_interval=Double(0.0 if self.array else 1000 * sampled_seconds),
            )
            for node, result in zip(part, results, strict=True):
                if isinstance(result, StatusCode):
                    raise SensorDown(
                        f"{self.url} does not give node {node}: {result.name}; look it up with a "
                        "browser for OPC UA"
                    )
        return subscription

    def _down(self, error: BaseException) -> SensorDown:
        said = str(error) or type(error).__name__
        return SensorDown(f"no OPC UA from {self.url}: {said}")


class _Values:
    """Single values, which hold until they change, on the model's grid in the server's time."""

    def __init__(
        self,
        sensor: OpcUa,
        streams: Sequence[str],
        channels: int,
        around: Surroundings,
        clock_offset: float,
    ) -> None:
        self._around = around
        self._arrival = sensor.times == "arrival"
        # A value is told at most one publishing interval after it was taken, and some on the way.
        self._behind = 0.0 if self._arrival else 1.5 * sensor.block_seconds
        self._offset = 0.0 if self._arrival else clock_offset
        # What holds since yesterday begins with the subscription: nobody saw it before.
        self._began = around.now() + self._offset
        self._streams = streams
        self._held = [Held(channels, around.rate_hz) for _ in streams]

    def put(self, place: tuple[int, int], event: DataChangeEvent) -> None:
        row, channel = place
        value, seconds, good = _data(event)
        now = self._around.now() + self._offset
        if self._arrival or seconds is None:
            seconds = now
        # The clock behind the server may be off the server's own.
        seconds = min(max(seconds, self._began), now)
        if isinstance(value, list | tuple | str | bytes) or (good and value is None):
            raise UsageError(
                f"node {event.node.nodeid.to_string()} holds {_kind(value)}; wanted a number, or "
                "set array if it is samples"
            )
        self._held[row].put(channel, seconds, float(value) if good else math.nan)

    def take(self) -> list[Block]:
        until = self._around.now() + self._offset - self._behind
        return [
            Block(stream, first, samples)
            for stream, held in zip(self._streams, self._held, strict=True)
            for first, samples in held.until(until)
        ]


class _Arrays:
    """Arrays of samples, one for each channel at about the same time."""

    def __init__(
        self, sensor: OpcUa, streams: Sequence[str], channels: int, around: Surroundings
    ) -> None:
        self._around = around
        self._times = sensor.times
        self._last = sensor.array == "last"
        self._streams = streams
        self._waiting: list[list[deque[tuple[float, NDArray[np.float32]]]]] = [
            [deque(maxlen=_ARRAYS_MAX) for _ in range(channels)] for _ in streams
        ]

    def put(self, place: tuple[int, int], event: DataChangeEvent) -> None:
        row, channel = place
        value, seconds, good = _data(event)
        if not good:
            return  # a gap; the next array says when it begins
        if not isinstance(value, list | tuple):
            raise UsageError(
                f"node {event.node.nodeid.to_string()} holds {_kind(value)}; wanted an array of "
                "samples, or take array out"
            )
        samples = np.asarray(value[:SAMPLES_MAX], np.float32)
        if samples.ndim != 1 or not len(samples):
            return
        if self._times == "arrival" or seconds is None:
            seconds = self._around.now()
        if self._last:
            seconds -= (len(samples) - 1) / self._around.rate_hz
        self._waiting[row][channel].append((seconds, samples))

    def take(self) -> list[Block]:
        blocks = []
        for stream, waiting in zip(self._streams, self._waiting, strict=True):
            while all(waiting):
                first = min(channel[0][0] for channel in waiting)
                length = min(len(channel[0][1]) for channel in waiting)
                half = length / self._around.rate_hz / 2
                together = [channel[0][0] - first <= half for channel in waiting]
                if all(together):
                    arrays = [channel.popleft()[1][:length] for channel in waiting]
                    blocks.append(Block(stream, first, np.stack(arrays, axis=1)))
                else:  # the partner of the oldest never came
                    for channel, is_old in zip(waiting, together, strict=True):
                        if is_old:
                            channel.popleft()
        return blocks


def _data(event: DataChangeEvent) -> tuple[Any, float | None, bool]:
    """The value, when it was taken (Unix seconds) if it says, and whether it is good."""
    data = event.data.monitored_item.Value
    when = data.SourceTimestamp or data.ServerTimestamp
    good = data.StatusCode is None or data.StatusCode.is_good()
    return event.value, _unix(when), good


def _unix(when: datetime | None) -> float | None:
    if when is None:
        return None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def _kind(value: object) -> str:
    return f"an array of {len(value)}" if isinstance(value, list | tuple) else type(value).__name__


async def _namespaces(client: Client, nodes: Sequence[str]) -> list[str]:
    """The same node ids with namespaces by number: a server may number them anew at each start."""
    from asyncua.ua.uaerrors import UaStringParsingError
    from asyncua.ua.uatypes import NodeId

    named = []
    for node in nodes:
        if node.startswith("nsu="):
            name, _, rest = node.removeprefix("nsu=").partition(";")
            try:
                node = f"ns={await client.get_namespace_index(name)};{rest}"
            except ValueError as error:
                raise SensorDown(
                    f"the server has no namespace {name!r}; it has "
                    f"{', '.join(await client.get_namespace_array())}"
                ) from error
        try:
            NodeId.from_string(node.replace("{stream}", "x"))
        except UaStringParsingError as error:
            raise UsageError(
                f"{node!r} is no node id; wanted such as ns=2;s=Press.Temperature or "
                "nsu=http://example.org/press;i=1001"
            ) from error
        named.append(node)
    return named


async def _clock_offset(client: Client, around: Surroundings) -> float:
    """How far the server's clock is ahead of ours, in seconds; 0 where it does not tell."""
    from asyncua.ua.object_ids import ObjectIds

    before = around.now()
    when = await client.get_node(ObjectIds.Server_ServerStatus_CurrentTime).read_value()
    theirs = _unix(when) if isinstance(when, datetime) else None
    if theirs is None:
        return 0.0
    offset = theirs - (before + around.now()) / 2
    if abs(offset) > 1:
        _log.warning("the clock of the OPC UA server is %.1f s off ours", offset)
    return offset
