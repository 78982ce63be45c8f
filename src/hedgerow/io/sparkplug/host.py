"""The receiving end of Sparkplug B, without I/O: births, deaths, order, and when to ask again.

    host = Host()
    for event in host.take(topic, payload, now):
        ...  # Data, Died, or AskRebirth: publish host.rebirth(…) there

What counts (Sparkplug 3.0.0, sections 5 and 6.4): a node's messages carry one sequence 0 to 255;
one that is out of order waits a little for those before it. A gap that does not close, an alias
nobody introduced and data before a birth all end in a request for a rebirth, and what comes until
then is left out. A death counts only with the `bdSeq` of the birth it belongs to.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from hedgerow.core.errors import PeerError
from hedgerow.io.sparkplug.payload import DataType, Metric, Payload, decode, encode
from hedgerow.io.sparkplug.topics import BD_SEQ, REBIRTH, Topic, parse

SEQUENCE: Final = 256
REORDER_MESSAGES_MAX: Final = 32
REORDER_SECONDS: Final = 2.0
REBIRTH_SECONDS_MIN: Final = 5.0
REBIRTHS_A_SECOND_MAX: Final = 100
"""Of all nodes: whoever publishes under made-up names would have us publish as much."""
NODES_MAX: Final = 10_000
DEVICES_MAX: Final = 10_000
NAMES_MAX: Final = 200_000
"""Names and aliases of one node, and of all nodes `ALL_NAMES_MAX`."""
ALL_NAMES_MAX: Final = 1_000_000
WAITING_BYTES_MAX: Final = 32 * 2**20
"""What messages of all nodes may take that wait for those before them."""


class Data(NamedTuple):
    """Values of a device, or of the node itself where `device` is empty.

    `timestamp_ms` is the payload's, for metrics that have none; None: it has none either.
    """

    group: str
    node: str
    device: str
    timestamp_ms: int | None
    metrics: tuple[Metric, ...]
    birth: bool


class Died(NamedTuple):
    """A device ended, or a node with all its devices where `device` is empty."""

    group: str
    node: str
    device: str
    reason: str


class AskRebirth(NamedTuple):
    """The node is to be asked to introduce itself and its devices again."""

    group: str
    node: str
    reason: str


Event: TypeAlias = Data | Died | AskRebirth


@dataclass
class _Node:
    """What is known of one edge node since its birth."""

    alive: bool = False
    bd_seq: int | None = None
    due: int = 0
    """The sequence number that comes next."""
    devices: set[str] = field(default_factory=set)
    names: dict[str, dict[str, DataType]] = field(default_factory=dict)
    """By device."""
    aliases: dict[int, tuple[str, str]] = field(default_factory=dict)
    aliases_of: dict[str, list[int]] = field(default_factory=dict)
    held: int = 0
    """Names and aliases."""
    waiting: dict[int, tuple[Topic, bytes]] = field(default_factory=dict)
    waiting_bytes: int = 0
    overdue_seconds: float = math.inf
    asked_seconds: float = -math.inf

    def lose(self) -> None:
        """Nothing waits any more."""
        self.waiting.clear()
        self.waiting_bytes = 0


class Host:
    """All nodes that are heard. `dropped` counts messages that could not be used, by reason."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._waiting: set[tuple[str, str]] = set()
        self._asked_since, self._asked = -math.inf, 0
        self.held = 0
        """Names and aliases of all nodes."""
        self._unasked: dict[tuple[str, str], str] = {}

    def take(self, topic: str, payload: bytes, now: float) -> list[Event]:
        """What follows from one message; `now` in seconds of any clock that does not run back."""
        parsed = parse(topic)
        if parsed is None or parsed.kind.endswith("CMD"):
            return []
        try:
            return self._message(parsed, payload, now)
        except PeerError as error:
            self.dropped[error.reason] += 1
            return []

    def due(self, now: float) -> list[Event]:
        """What follows from time passing: gaps that did not close. Call it every second or so."""
        unasked, self._unasked = self._unasked, {}
        events: list[Event] = []
        for key, reason in unasked.items():
            events += self._ask(key, self._nodes[key], reason, now)
        for key in list(self._waiting):
            node = self._nodes[key]
            if now >= node.overdue_seconds:
                events += self._lost(key, node, "a sequence number is missing", now)
        return events

    def forget(self) -> None:
        """The connection was down: births and deaths may have passed, so none is taken as known."""
        for node in self._nodes.values():
            node.alive = False
            node.lose()
        self._waiting.clear()

    @staticmethod
    def rebirth(group: str, node: str, now_ms: int) -> tuple[str, bytes]:
        """Topic and payload that ask a node for its births again."""
        metric = Metric(REBIRTH, True, DataType.BOOLEAN)
        return Topic(group, "NCMD", node).text(), encode(Payload(now_ms, None, (metric,)))

    def _message(self, topic: Topic, data: bytes, now: float) -> list[Event]:
        key = (topic.group, topic.node)
        node = self._nodes.get(key)
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                raise PeerError("nodes", f"over {NODES_MAX} nodes")
            node = self._nodes[key] = _Node()
        if topic.kind == "NBIRTH":
            return self._born(topic, node, data)
        if topic.kind == "NDEATH":
            return self._dead(topic, node, data)
        if not node.alive:
            self.dropped["unborn"] += 1
            return self._ask(key, node, "data came before a birth", now)
        payload = self._decoded(topic, node, data)
        if payload.seq is None:
            raise PeerError("sparkplug", f"a {topic.kind} has no sequence number")
        ahead = (payload.seq - node.due) % SEQUENCE
        if ahead == 0:
            node.due = (node.due + 1) % SEQUENCE
            events = self._in_order(topic, node, payload, now)
            return events + self._caught_up(key, node, now)
        if ahead > REORDER_MESSAGES_MAX:
            self.dropped["gap"] += 1
            return self._lost(key, node, f"sequence {payload.seq} came for {node.due}", now)
        waiting = sum(self._nodes[one].waiting_bytes for one in self._waiting)
        if waiting + len(data) > WAITING_BYTES_MAX:
            self.dropped["gap"] += 1
            return self._lost(key, node, "too much came out of order", now)
        if not node.waiting:
            node.overdue_seconds = now + REORDER_SECONDS
            self._waiting.add(key)
        if payload.seq not in node.waiting:
            node.waiting_bytes += len(data)
            node.waiting[payload.seq] = (topic, data)
        return []

    def _introduce(self, node: _Node, device: str, payload: Payload) -> None:
        """Remembers names, types and aliases of a birth, in the place of those of the last one."""
        gone = node.aliases_of.pop(device, [])
        for alias in gone:
            if node.aliases.get(alias, ("", ""))[0] == device:
                del node.aliases[alias]
        self._hold(node, -len(gone) - len(node.names.pop(device, ())))
        names = {metric.name: metric.datatype for metric in payload.metrics}
        aliases = {
            one.alias: (device, one.name) for one in payload.metrics if one.alias is not None
        }
        self._hold(node, len(names) + len(aliases))
        node.names[device] = names
        node.aliases |= aliases
        node.aliases_of[device] = list(aliases)

    def _hold(self, node: _Node, more: int) -> None:
        """Count what is remembered of a node."""
        if node.held + more > NAMES_MAX:
            raise PeerError("metrics", f"over {NAMES_MAX} names and aliases of one node")
        if self.held + more > ALL_NAMES_MAX:
            raise PeerError("metrics", f"over {ALL_NAMES_MAX} names and aliases of all nodes")
        node.held += more
        self.held += more

    def _decoded(self, topic: Topic, node: _Node, data: bytes) -> Payload:
        def known(name: str, alias: int | None) -> tuple[str, DataType]:
            if not name and alias is not None:
                device, name = node.aliases.get(alias, ("", ""))
                if device != topic.device:
                    name = ""
            return name, node.names.get(topic.device, {}).get(name, DataType.UNKNOWN)

        return decode(data, known)

    def _born(self, topic: Topic, node: _Node, data: bytes) -> list[Event]:
        payload = decode(data)
        if payload.seq is None:
            raise PeerError("sparkplug", "a NBIRTH has no sequence number")
        key = (topic.group, topic.node)
        asked = node.asked_seconds
        self.held -= node.held
        node = self._nodes[key] = _Node(alive=True, asked_seconds=asked)
        self._waiting.discard(key)
        self._unasked.pop(key, None)
        node.due = (payload.seq + 1) % SEQUENCE
        node.bd_seq = _bd_seq(payload)
        self._introduce(node, "", payload)
        return [Data(*key, "", payload.timestamp_ms, payload.metrics, birth=True)]

    def _dead(self, topic: Topic, node: _Node, data: bytes) -> list[Event]:
        if not node.alive or _bd_seq(decode(data)) != node.bd_seq:
            self.dropped["old death"] += 1
            return []
        node.alive = False
        node.lose()
        self._waiting.discard((topic.group, topic.node))
        self._unasked.pop((topic.group, topic.node), None)
        return [Died(topic.group, topic.node, "", "the edge node died")]

    def _in_order(self, topic: Topic, node: _Node, payload: Payload, now: float) -> list[Event]:
        key = (topic.group, topic.node)
        if topic.kind == "DBIRTH":
            if len(node.devices) >= DEVICES_MAX:
                raise PeerError("devices", f"over {DEVICES_MAX} devices of one node")
            self._introduce(node, topic.device, payload)
            node.devices.add(topic.device)
        elif topic.device and topic.device not in node.devices:
            self.dropped["unborn"] += 1
            return self._ask(key, node, f"device {topic.device!r} has no birth", now)
        elif topic.kind == "DDEATH":
            node.devices.discard(topic.device)
            return [Died(*key, topic.device, "the device died")]
        events: list[Event] = []
        metrics = tuple(metric for metric in payload.metrics if metric.name)
        if len(metrics) < len(payload.metrics):
            self.dropped["alias"] += 1
            events += self._ask(key, node, "an alias that no birth introduced", now)
        birth = topic.kind == "DBIRTH"
        events.append(Data(*key, topic.device, payload.timestamp_ms, metrics, birth))
        return events

    def _caught_up(self, key: tuple[str, str], node: _Node, now: float) -> list[Event]:
        """Messages that waited and are now in order."""
        events: list[Event] = []
        while node.waiting and node.due in node.waiting:
            topic, data = node.waiting.pop(node.due)
            node.waiting_bytes -= len(data)
            node.due = (node.due + 1) % SEQUENCE
            events += self._in_order(topic, node, self._decoded(topic, node, data), now)
            node.overdue_seconds = now + REORDER_SECONDS
        if not node.waiting:
            self._waiting.discard(key)
        return events

    def _lost(self, key: tuple[str, str], node: _Node, reason: str, now: float) -> list[Event]:
        node.alive = False
        self.dropped["gap"] += len(node.waiting)
        node.lose()
        self._waiting.discard(key)
        return self._ask(key, node, reason, now)

    def _ask(self, key: tuple[str, str], node: _Node, reason: str, now: float) -> list[Event]:
        if now - self._asked_since >= 1.0:
            self._asked_since, self._asked = now, 0
        soon = now - node.asked_seconds < REBIRTH_SECONDS_MIN
        if soon or self._asked >= REBIRTHS_A_SECOND_MAX:
            self._unasked[key] = reason
            return []
        node.asked_seconds = now
        self._asked += 1
        return [AskRebirth(*key, reason)]


def _bd_seq(payload: Payload) -> int | None:
    for metric in payload.metrics:
        if metric.name == BD_SEQ and isinstance(metric.value, int):
            return metric.value
    return None
