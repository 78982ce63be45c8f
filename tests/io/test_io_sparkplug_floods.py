"""A Sparkplug host on a broker that anybody may publish to: what is remembered stays bounded."""

import pytest

from hedgerow.io.sparkplug.host import AskRebirth, Data, Event, Host
from hedgerow.io.sparkplug.payload import DataType, Metric, Payload, encode
from hedgerow.io.sparkplug.topics import Topic

NOW_MS = 1_700_000_000_000


def test_births_again_and_again_with_new_aliases_take_no_more_room() -> None:
    host, sequence = Host(), 1

    def birth(device: str, first: int) -> list[Event]:
        nonlocal sequence
        metrics = tuple(Metric(f"m{at}", 1.0, DataType.DOUBLE, alias=first + at) for at in range(9))
        data = encode(Payload(NOW_MS, sequence, metrics))
        sequence = (sequence + 1) % 256
        return host.take(Topic("g", "DBIRTH", "n", device).text(), data, 0.0)

    host.take(Topic("g", "NBIRTH", "n").text(), encode(Payload(NOW_MS, 0)), 0.0)
    birth("d", 0)
    held = host.held
    for again in range(1, 50):
        assert isinstance(birth("d", 100 * again)[-1], Data)
    assert host.held == held
    host.take(Topic("g", "NBIRTH", "n").text(), encode(Payload(NOW_MS, 0)), 0.0)
    assert host.held == 0


def test_what_waits_for_its_turn_is_bounded_over_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.io.sparkplug.host.WAITING_BYTES_MAX", 100_000)
    host = Host()
    body = encode(Payload(NOW_MS, 5, (Metric("x", "y" * 30_000, DataType.STRING),)))
    for node in ("a", "b", "c"):
        host.take(Topic("g", "NBIRTH", node).text(), encode(Payload(NOW_MS, 0)), 0.0)
        assert host.take(Topic("g", "NDATA", node).text(), body, 0.0) == []
    host.take(Topic("g", "NBIRTH", "d").text(), encode(Payload(NOW_MS, 0)), 0.0)
    (asked,) = host.take(Topic("g", "NDATA", "d").text(), body, 0.0)
    assert isinstance(asked, AskRebirth)


def test_many_nodes_are_asked_for_rebirths_a_hundred_a_second() -> None:
    host = Host()
    data = encode(Payload(NOW_MS, 0))

    def asked(events: list[Event]) -> int:
        return sum(isinstance(event, AskRebirth) for event in events)

    told = [host.take(Topic("g", "NDATA", f"n{at}").text(), data, 0.0) for at in range(250)]
    assert sum(map(asked, told)) == 100
    assert [asked(host.due(second)) for second in (0.5, 1.0, 2.0, 3.0)] == [0, 100, 50, 0]
