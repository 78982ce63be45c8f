"""Sparkplug B without a network: payloads, and both ends of a session, against each other."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import PeerError
from hedgerow.io.sparkplug.edge import EdgeNode
from hedgerow.io.sparkplug.host import (
    REBIRTH_SECONDS_MIN,
    REORDER_SECONDS,
    AskRebirth,
    Data,
    Died,
    Event,
    Host,
)
from hedgerow.io.sparkplug.payload import DataType, Metric, Payload, decode, encode
from hedgerow.io.sparkplug.topics import Topic, parse

NOW_MS = 1_700_000_000_000


def test_a_payload_is_these_bytes() -> None:
    # Field by field as protobuf writes it: timestamp (1) varint, metric (2) with name (1),
    # datatype (4) Double = 10 and double_value (13), seq (3).
    payload = Payload(1, 2, (Metric("a", 1.5, DataType.DOUBLE),))
    metric = "0a0161" + "200a" + "69" + "000000000000f83f"
    assert encode(payload).hex() == "0801" + "120e" + metric + "1802"
    assert decode(bytes.fromhex("0801" + "120e" + metric + "1802")) == payload


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (DataType.INT8, -5),
        (DataType.INT16, -300),
        (DataType.INT32, -70_000),
        (DataType.INT64, -(2**40)),
        (DataType.UINT8, 200),
        (DataType.UINT32, 2**32 - 1),
        (DataType.UINT64, 2**64 - 1),
        (DataType.FLOAT, 1.5),
        (DataType.DOUBLE, 0.1),
        (DataType.BOOLEAN, False),
        (DataType.STRING, "größer"),
        (DataType.DATE_TIME, NOW_MS),
        (DataType.BYTES, b"\x00\xff"),
        (DataType.INT16_ARRAY, [-1, 2]),
        (DataType.UINT64_ARRAY, [2**63]),
        (DataType.FLOAT_ARRAY, [1.5, -2.0]),
        (DataType.DOUBLE_ARRAY, [0.1]),
        (DataType.BOOLEAN_ARRAY, [True, False, True, True, False, False, True, False, True]),
        (DataType.STRING_ARRAY, ["a", "", "bc"]),
        (DataType.DOUBLE, None),
    ],
)
def test_every_type_comes_through(datatype: DataType, value: Any) -> None:
    payload = Payload(NOW_MS, 7, (Metric("m", value, datatype, NOW_MS - 5, 3, historical=True),))
    assert decode(encode(payload)) == payload


BY_ANOTHER = bytes.fromhex(  # a NBIRTH as pysparkplug 0.6.1 writes it
    "080112120a036931361880d095ffbc31200250d4fd0312190a036936341880d095ffbc312004588080808080"
    "e0ffffff0112150a01641880d095ffbc31200a699a9999999999b93f12100a01731880d095ffbc31200c7a02"
    "c3b612180a0266611880d095ffbc31201e8201080000c03f0000204012150a0262611880d095ffbc31202082"
    "010503000000a0120e0a016e1880d095ffbc31200a38011809"
)


def test_what_another_library_wrote_is_read() -> None:
    payload = decode(BY_ANOTHER)
    assert (payload.timestamp_ms, payload.seq) == (1, 9)
    assert {metric.name: metric.value for metric in payload.metrics} == {
        "i16": -300,
        "i64": -(2**40),
        "d": 0.1,
        "s": "ö",
        "fa": [1.5, 2.5],
        "ba": [True, False, True],
        "n": None,
    }
    assert {metric.timestamp_ms for metric in payload.metrics} == {NOW_MS}


def test_arrays_are_packed_as_the_specification_shows() -> None:
    # Sparkplug 3.0.0, section 6.4.16: examples of Int8Array, BooleanArray and StringArray.
    def packed(datatype: DataType, value: Any) -> bytes:
        return encode(Payload(None, None, (Metric("", value, datatype),)))

    assert packed(DataType.INT8_ARRAY, [-23, 123]).endswith(bytes([0xE9, 0x7B]))
    bits = [False, False, True, True, False, True, False, False, True, True, False, True]
    assert packed(DataType.BOOLEAN_ARRAY, bits).endswith(bytes([0x0C, 0, 0, 0, 0x34, 0xD0]))
    assert packed(DataType.STRING_ARRAY, ["ABC", "hello"]).endswith(b"ABC\0hello\0")


# Three bytes, said to be an array of Int32.
TORN_ARRAY = encode(Payload(0, 0, (Metric("a", b"123", DataType.BYTES),))).replace(
    bytes([0x20, DataType.BYTES]), bytes([0x20, DataType.INT32_ARRAY])
)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff",
        b"\x18\x80\x02",  # seq 256
        encode(Payload(0, 0, (Metric("a", b"123", DataType.BYTES),))).replace(
            b"\x20\x11", b"\x20\x18"
        ),
    ],
)
def test_what_is_no_payload_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError, match="sparkplug"):
        decode(data)


@given(st.binary(max_size=200))
def test_hostile_bytes_never_end_a_host(data: bytes) -> None:
    host = Host()
    for kind in ("NBIRTH", "NDATA", "DBIRTH", "DDATA", "NDEATH"):
        device = "/d" if kind[0] == "D" else ""
        host.take(f"spBv1.0/g/{kind}/n{device}", data, 0)


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("spBv1.0/g/NBIRTH/n", Topic("g", "NBIRTH", "n")),
        ("spBv1.0/g/DDATA/n/d", Topic("g", "DDATA", "n", "d")),
        ("spBv1.0/g/DDATA/n", None),
        ("spBv1.0/g/NDATA/n/d", None),
        ("spBv1.0/STATE/host", None),
        ("spAv1.0/g/NDATA/n", None),
        ("spBv1.0//NDATA/n", None),
    ],
)
def test_topics(text: str, topic: Topic | None) -> None:
    assert parse(text) == topic
    assert topic is None or topic.text() == text


def speed(value: float | None, when: int = NOW_MS) -> list[Metric]:
    return [
        Metric("Speed", value, DataType.DOUBLE, when),
        Metric("On", True, DataType.BOOLEAN, when),
    ]


class Pair:
    """A node and a host, with the messages between them in hand."""

    def __init__(self) -> None:
        self.node = EdgeNode("g", "n", bd_seq=254)
        self.host = Host()
        self.now = 0.0
        self.dead = self.node.will(NOW_MS)

    def tell(self, *messages: tuple[str, bytes]) -> list[Event]:
        return [
            event
            for topic, payload in messages
            for event in self.host.take(topic, payload, self.now)
        ]

    def born(self) -> list[Event]:
        return self.tell(*self.node.births(NOW_MS), *self.node.data("d", speed(1.0), NOW_MS))

    def reconnect(self) -> None:
        self.dead = self.node.will(NOW_MS)


def kinds(messages: list[tuple[str, bytes]]) -> list[str]:
    return [topic.split("/")[2] for topic, _ in messages]


def values(events: list[Event]) -> list[dict[str, Any]]:
    return [
        {metric.name: metric.value for metric in event.metrics}
        for event in events
        if isinstance(event, Data)
    ]


def test_a_session_from_birth_to_death() -> None:
    pair = Pair()
    born = pair.born()
    assert values(born) == [
        {"bdSeq": 254, "Node Control/Rebirth": False},
        {"Speed": 1.0, "On": True},
    ]
    sent = pair.node.data("d", speed(2.0), NOW_MS)
    assert kinds(sent) == ["DDATA"]
    assert b"Speed" not in sent[0][1]  # by alias
    (data,) = pair.tell(*sent)
    assert data == Data(
        "g", "n", "d", NOW_MS, (Metric("Speed", 2.0, DataType.DOUBLE, NOW_MS, 1),), birth=False
    )
    assert pair.node.data("d", speed(2.0), NOW_MS) == []  # reported by exception
    assert pair.tell(pair.dead) == [Died("g", "n", "", "the edge node died")]


def test_sequence_numbers_run_from_0_to_255_and_over() -> None:
    pair = Pair()
    pair.born()
    for number in range(600):
        (event,) = pair.tell(*pair.node.data("d", speed(float(number + 10)), NOW_MS))
        assert isinstance(event, Data)
    assert pair.host.dropped == {}


def test_messages_out_of_order_wait_for_those_before() -> None:
    pair = Pair()
    pair.born()
    messages = [pair.node.data("d", speed(float(at)), NOW_MS)[0] for at in range(2, 6)]
    assert pair.tell(messages[2], messages[1], messages[3]) == []
    assert [each["Speed"] for each in values(pair.tell(messages[0]))] == [2, 3, 4, 5]
    assert pair.host.due(1e9) == []


def test_a_gap_that_does_not_close_asks_for_a_rebirth_once() -> None:
    pair = Pair()
    pair.born()
    lost, after, later = (pair.node.data("d", speed(float(at)), NOW_MS)[0] for at in (2, 3, 4))
    assert pair.tell(after) == []
    assert pair.host.due(REORDER_SECONDS - 0.1) == []
    assert pair.host.due(REORDER_SECONDS) == [AskRebirth("g", "n", "a sequence number is missing")]
    assert pair.tell(lost, later) == []
    assert pair.host.dropped == {"gap": 1, "unborn": 2}
    command = Host.rebirth("g", "n", NOW_MS)
    assert pair.node.wants_rebirth(*command)
    assert not pair.node.wants_rebirth("spBv1.0/g/NCMD/other", command[1])
    assert not pair.node.wants_rebirth(command[0], b"\xff")
    # The births tell all that is known; what holds now comes with them.
    assert values(pair.tell(*pair.node.births(NOW_MS)))[1] == {"Speed": 4.0, "On": True}
    assert len(pair.tell(*pair.node.data("d", speed(5.0), NOW_MS))) == 1


def test_a_request_that_came_too_soon_is_made_later() -> None:
    pair = Pair()
    pair.born()
    pair.host.forget()
    assert len(pair.tell(*pair.node.data("d", speed(2.0), NOW_MS))) == 1
    pair.tell(*pair.node.births(NOW_MS))
    pair.node.data("d", speed(3.0), NOW_MS)  # lost
    pair.tell(*pair.node.data("d", speed(4.0), NOW_MS))
    assert pair.host.due(REORDER_SECONDS) == []
    assert pair.host.due(REBIRTH_SECONDS_MIN - 0.1) == []
    assert len(pair.host.due(REBIRTH_SECONDS_MIN)) == 1


def test_a_far_jump_asks_at_once() -> None:
    pair = Pair()
    pair.born()
    for at in range(100):
        message = pair.node.data("d", speed(float(at + 2)), NOW_MS)
    assert isinstance(pair.tell(*message)[0], AskRebirth)


def test_data_before_a_birth_asks_for_it_and_again_after_a_while() -> None:
    pair = Pair()
    pair.node.births(NOW_MS)
    pair.node.data("d", speed(1.0), NOW_MS)
    asked = []
    for second in range(12):
        pair.now = float(second)
        asked += pair.tell(*pair.node.data("d", speed(float(second + 2)), NOW_MS))
    assert asked == [AskRebirth("g", "n", "data came before a birth")] * 3


def test_data_of_a_device_without_a_birth_asks_for_it() -> None:
    pair = Pair()
    node_birth = pair.node.births(NOW_MS)
    birth = pair.node.data("d", speed(1.0), NOW_MS)
    pair.tell(*node_birth)
    # The device's birth is replaced by something with its sequence number.
    other = encode(Payload(NOW_MS, 1, (Metric("x", 1, DataType.INT32),)))
    pair.tell(("spBv1.0/g/NDATA/n", other))
    del birth
    (event,) = pair.tell(*pair.node.data("d", speed(2.0), NOW_MS))
    assert event == AskRebirth("g", "n", "device 'd' has no birth")


def test_an_alias_that_nobody_introduced_asks_for_a_rebirth() -> None:
    pair = Pair()
    pair.born()
    metrics = (
        Metric("", 5.0, DataType.DOUBLE, alias=99),
        Metric("", 6.0, DataType.DOUBLE, alias=1),
    )
    message = ("spBv1.0/g/DDATA/n/d", encode(Payload(NOW_MS, 2, metrics), brief=True))
    ask, data = pair.tell(message)
    assert ask == AskRebirth("g", "n", "an alias that no birth introduced")
    assert values([data]) == [{"Speed": 6.0}]


def test_a_death_of_an_earlier_connection_counts_nothing() -> None:
    pair = Pair()
    pair.born()
    old = pair.dead
    pair.reconnect()
    pair.tell(*pair.node.births(NOW_MS))
    assert pair.tell(old) == []
    assert pair.host.dropped == {"old death": 1}
    assert len(pair.tell(pair.dead)) == 1


def test_bd_seq_grows_with_every_connection_and_runs_over() -> None:
    node = EdgeNode("g", "n", bd_seq=254)
    seen = []
    for _ in range(4):
        _, payload = node.will(NOW_MS)
        death = decode(payload)
        birth = decode(node.births(NOW_MS)[0][1])
        assert death.seq is None
        assert death.metrics[0] == birth.metrics[0]
        assert birth.seq == 0
        seen.append(death.metrics[0].value)
    assert seen == [254, 255, 0, 1]
    assert node.next_bd_seq == 2


def test_a_device_dies_alone() -> None:
    pair = Pair()
    pair.born()
    death = ("spBv1.0/g/DDEATH/n/d", encode(Payload(NOW_MS, 2)))
    assert pair.tell(death) == [Died("g", "n", "d", "the device died")]


def test_after_our_own_connection_broke_nothing_is_taken_as_known() -> None:
    pair = Pair()
    pair.born()
    pair.host.forget()
    assert pair.tell(*pair.node.data("d", speed(9.0), NOW_MS)) == [
        AskRebirth("g", "n", "data came before a birth")
    ]


def test_a_backlog_is_historical_and_leaves_what_holds_now() -> None:
    pair = Pair()
    pair.born()
    sent = pair.node.data("d", speed(0.5, NOW_MS - 9000), NOW_MS, historical=True)
    (event,) = pair.tell(*sent)
    assert isinstance(event, Data)
    assert [(metric.historical, metric.timestamp_ms) for metric in event.metrics] == [
        (True, NOW_MS - 9000)
    ] * 2
    assert values(pair.tell(*pair.node.births(NOW_MS)))[1]["Speed"] == 1.0


def test_a_device_first_heard_of_in_a_backlog_is_born_without_values() -> None:
    pair = Pair()
    pair.tell(*pair.node.births(NOW_MS))
    events = pair.tell(*pair.node.data("d", speed(0.5), NOW_MS, historical=True))
    assert values(events) == [{"Speed": None, "On": None}, {"Speed": 0.5, "On": True}]


def test_a_value_that_is_not_known_is_null() -> None:
    pair = Pair()
    pair.born()
    assert values(pair.tell(*pair.node.data("d", speed(None), NOW_MS))) == [{"Speed": None}]
    nan = pair.node.data("d", speed(math.nan), NOW_MS)
    assert math.isnan(values(pair.tell(*nan))[0]["Speed"])
