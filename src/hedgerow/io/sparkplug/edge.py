"""The sending end of Sparkplug B, without I/O: an edge node, its devices and their payloads.

    node = EdgeNode("factory", "gate", bd_seq=0)
    topic, payload = node.will(now_ms)       # into the CONNECT, every time
    node.births(now_ms)                      # after it: NBIRTH, then a DBIRTH for each device
    node.data("press-4", metrics, now_ms)    # DDATA; before it a DBIRTH where the device is new

Messages carry a running sequence and must be published in the order they are made, with QoS 0 and
not retained; the will with QoS 1 (Sparkplug 3.0.0, sections 4, 5 and 6.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from hedgerow.core.errors import PeerError
from hedgerow.io.sparkplug.payload import DataType, Metric, Payload, decode, encode
from hedgerow.io.sparkplug.topics import BD_SEQ, REBIRTH, Topic

SEQUENCE: Final = 256
_ALIASES_PER_DEVICE: Final = 64

Outgoing: TypeAlias = tuple[str, bytes]
"""Topic and payload."""


class EdgeNode:
    """One edge node. Nothing is sent for a device before the node was born."""

    def __init__(
        self, group: str, node: str, *, bd_seq: int, properties: Sequence[Metric] = ()
    ) -> None:
        """`bd_seq` is what the next connection carries, 0 to 255; keep it between starts.

        `properties` are the node's own metrics, told at birth.
        """
        self.group: Final = group
        self.node: Final = node
        self.next_bd_seq = bd_seq % SEQUENCE
        self._bd_seq = self.next_bd_seq
        self._properties = tuple(properties)
        self._seq = 0
        self._devices: dict[str, dict[str, Metric]] = {}
        self._introduced: set[str] = set()

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that are known, the first one first."""
        return tuple(self._devices)

    def will(self, now_ms: int) -> Outgoing:
        """The death certificate for the connection that is about to be made."""
        self._bd_seq = self.next_bd_seq
        self.next_bd_seq = (self._bd_seq + 1) % SEQUENCE
        return self.death(now_ms)

    def death(self, now_ms: int) -> Outgoing:
        """The death certificate of this connection, for a farewell; it has no sequence number."""
        payload = Payload(now_ms, None, (self._bd(),))
        return Topic(self.group, "NDEATH", self.node).text(), encode(payload)

    def births(self, now_ms: int) -> list[Outgoing]:
        """The birth of the node, then of each device it knows, with what they say now."""
        self._seq = 0
        self._introduced.clear()
        metrics = (self._bd(), Metric(REBIRTH, False, DataType.BOOLEAN), *self._properties)
        born = [self._next("NBIRTH", "", metrics, now_ms)]
        return born + [self._birth(device, now_ms) for device in self._devices]

    def data(
        self, device: str, metrics: Sequence[Metric], now_ms: int, *, historical: bool = False
    ) -> list[Outgoing]:
        """What to send for new values of a device: those that changed, or nothing.

        `historical` values come from a backlog; all of them go, and the current ones stay. The
        first call for a device says which metrics it will ever have.
        """
        out: list[Outgoing] = []
        known = self._devices.get(device)
        if known is None:
            place = len(self._devices) * _ALIASES_PER_DEVICE
            known = self._devices[device] = {
                # A birth tells what is now; of a backlog nothing is.
                metric.name: _with(metric, alias=place + number, unknown=historical)
                for number, metric in enumerate(metrics, 1)
            }
            if not historical:
                return [self._birth(device, now_ms)]
        if device not in self._introduced:
            out.append(self._birth(device, now_ms))
        changed = []
        for metric in metrics:
            last = known[metric.name]
            if historical or metric.value != last.value:
                changed.append(_with(metric, alias=last.alias, historical=historical))
            if not historical:
                known[metric.name] = _with(metric, alias=last.alias)
        if changed:
            out.append(self._next("DDATA", device, changed, now_ms))
        return out

    def wants_rebirth(self, topic: str, payload: bytes) -> bool:
        """Whether a message is the command to tell everything again."""
        if topic != Topic(self.group, "NCMD", self.node).text():
            return False
        try:
            metrics = decode(payload).metrics
        except PeerError:
            return False
        return any(metric.name == REBIRTH and metric.value is True for metric in metrics)

    def _birth(self, device: str, now_ms: int) -> Outgoing:
        self._introduced.add(device)
        return self._next("DBIRTH", device, tuple(self._devices[device].values()), now_ms)

    def _bd(self) -> Metric:
        return Metric(BD_SEQ, self._bd_seq, DataType.INT64)

    def _next(self, kind: str, device: str, metrics: Sequence[Metric], now_ms: int) -> Outgoing:
        seq = self._seq
        self._seq = (seq + 1) % SEQUENCE
        topic = Topic(self.group, kind, self.node, device).text()
        return topic, encode(Payload(now_ms, seq, tuple(metrics)), brief=kind.endswith("DATA"))


def _with(
    metric: Metric, *, alias: int | None, historical: bool = False, unknown: bool = False
) -> Metric:
    value = None if unknown else metric.value
    when = None if unknown else metric.timestamp_ms
    return Metric(metric.name, value, metric.datatype, when, alias, historical)
