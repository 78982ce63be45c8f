from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.io.device_store import ROW_BYTES, DeviceStore, StoreLimits
from tests.io.keeping import ITEM_BYTES, LIMITS, Hands, item, small_store

store = pytest.fixture(small_store)


def test_the_outbox_gives_the_highest_priority_first(store: DeviceStore) -> None:
    for each in (item("a"), item("b", priority=1), item("c")):
        assert store.put_outbox(each)
    assert [each.id for each in store.outbox()] == ["b", "a", "c"]
    assert store.outbox(1) == [item("b", priority=1)]
    assert store.outbox_item("a") == item("a")
    assert store.outbox_bytes() == 3 * ITEM_BYTES
    assert store.acknowledge("b")
    assert not store.acknowledge("b")
    assert store.outbox_item("b") is None


def test_putting_an_id_again_changes_nothing(store: DeviceStore) -> None:
    store.put_outbox(item("a"))
    assert store.put_outbox(item("a", priority=9, size=20))
    assert store.outbox() == [item("a")]


def test_the_lowest_priority_goes_first_then_the_oldest(store: DeviceStore) -> None:
    for each in (item("a", 1), item("b", 0), item("c", 0)):
        store.put_outbox(each)
    assert store.put_outbox(item("d", 0))
    assert [each.id for each in store.outbox()] == ["a", "c", "d"]
    assert store.put_outbox(item("e", 1, size=10 + ITEM_BYTES))
    assert [each.id for each in store.outbox()] == ["a", "e"]
    assert store.drops() == {"outbox_full": 3}


def test_a_newcomer_never_pushes_out_what_matters_more(store: DeviceStore) -> None:
    for each in (item("a", 2), item("b", 2), item("c", 0)):
        store.put_outbox(each)
    assert not store.put_outbox(item("d", 1, size=10 + ITEM_BYTES))
    assert [each.id for each in store.outbox()] == ["a", "b", "c"]
    assert not store.put_outbox(item("e", 9, size=4 * ITEM_BYTES))
    assert store.drops() == {"outbox_full": 2}


def test_old_and_pointless_items_are_dropped_by_reason(tmp_path: Path) -> None:
    hands = Hands()
    store = DeviceStore(tmp_path / "device.db", LIMITS, hands.clocks())
    store.put_outbox(item("a"))
    hands.wait(50.0)
    store.put_outbox(item("b"))
    hands.wait(60.0)
    assert store.expire_outbox() == 1
    assert store.drop_outbox("b", "round_over")
    assert not store.drop_outbox("b", "round_over")
    assert store.drops() == {"outbox_expired": 1, "round_over": 1}
    assert store.outbox_bytes() == 0
    store.close()


@pytest.mark.parametrize("leap", [-50 * 365 * 86_400.0, 50 * 365 * 86_400.0])
def test_a_clock_that_leaps_neither_drops_nor_saves(tmp_path: Path, leap: float) -> None:
    hands = Hands()
    store = DeviceStore(tmp_path / "device.db", LIMITS, hands.clocks())
    store.put_outbox(item("a"))
    hands.wait(60.0)
    hands.wall += leap
    assert store.expire() == 0
    hands.wait(60.0)
    assert store.expire() == 1
    store.close()


@pytest.mark.parametrize(
    ("boot_id", "boot", "wall", "expired"),
    [
        ("first boot", 30.0, 1e9, 0),  # the agent restarted: only the time since boot counts
        ("first boot", 90.0, -1e9, 1),
        ("second boot", -1_000.0, 30.0, 0),  # power was away for a while
        ("second boot", -1_000.0, 90.0, 1),
        ("second boot", -1_000.0, -1e9, 0),  # without a battery the clock begins in 1970
        ("second boot", -1_000.0, 1e9, 0),  # and leaps when the network comes
    ],
)
def test_age_goes_on_over_a_restart_as_far_as_clocks_can_be_believed(
    tmp_path: Path, boot_id: str, boot: float, wall: float, expired: int
) -> None:
    hands = Hands()
    store = DeviceStore(tmp_path / "device.db", LIMITS, hands.clocks())
    store.put_outbox(item("a"))
    hands.wait(20.0)
    store.close()
    hands.boot += boot
    hands.wall += wall
    store = DeviceStore(tmp_path / "device.db", LIMITS, hands.clocks(boot_id))
    assert store.expire() == expired
    if expired == 0:
        hands.wait(101.0)
        assert store.expire() == 1
    store.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=30))
def test_the_outbox_never_exceeds_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "device.db"
    store = DeviceStore(path, StoreLimits(outbox_bytes_max=1_000))
    for number, (priority, size) in enumerate(puts):
        store.put_outbox(item(f"x{number}", priority, size))
        assert store.outbox_bytes() <= 1_000
    assert len(store.outbox()) + store.drops().get("outbox_full", 0) == len(puts)
    store.close()


def test_a_batch_is_one_commit_and_each_of_it_is_judged_alone(store: DeviceStore) -> None:
    kept = store.put_outbox_batch([item(name, kind="exception") for name in "abcd"])
    assert kept == 4  # each when it came; the first made room for the last
    assert [one.id for one in store.outbox()] == ["b", "c", "d"]
    assert store.put_outbox_batch([item("b"), item("e", size=1_000)]) == 1
    assert store.drops() == {"outbox_full": 2}
    assert store.put_outbox_batch([]) == 0


def test_events_go_in_lanes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.db")
    store.put_outbox_batch(
        [
            item("update", 10),
            *(item(f"s{n}", 4, kind="summary") for n in range(3)),
            *(item(f"e{n}", 8, kind="exception") for n in range(3)),
        ]
    )
    first = store.next_batch(2, 1_000)
    assert first is not None
    assert (first.priority, [body[:1] for _, body in first.items]) == (8, [b"e"] * 2)
    assert store.next_batch(2, 1_000) == first  # until it is settled, the same again
    assert store.settle_batch(first) == 2
    second = store.next_batch(2, 1_000)
    assert second is not None and second.items[0][0] > first.items[-1][0]
    assert store.settle_batch(second, "refused_by_server") == 1
    third = store.next_batch(10, 15)
    assert third is not None
    assert (third.priority, len(third.items)) == (4, 1)  # two of them are more than 15 bytes
    store.settle_batch(third)
    rest = store.next_batch(10, 1)
    assert rest is not None and len(rest.items) == 1  # never none, however large
    assert store.drops() == {"refused_by_server": 1}
    assert store.outbox_ids("update") == ["update"]
    assert [one.id for one in store.outbox(kind="summary")] == ["s1", "s2"]
    store.close()


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "device.db")
    seen = []
    for _ in range(3):
        store.put_outbox(item("a", kind="exception"))
        batch = store.next_batch(10, 100)
        assert batch is not None
        seen.append(batch.items[0][0])
        store.settle_batch(batch)
        epoch = store.outbox_epoch()
        store.close()
        store = DeviceStore(tmp_path / "device.db")
        assert store.outbox_epoch() == epoch
    assert seen == sorted(set(seen))
    store.close()
    (tmp_path / "device.db").unlink()
    store = DeviceStore(tmp_path / "device.db")
    assert store.outbox_epoch() != epoch  # another sequence, so another name for it
    store.close()


def test_no_room_is_made_with_what_is_on_its_way(store: DeviceStore) -> None:
    store.put_outbox_batch([item(name, 5, kind="exception") for name in "abc"])
    going = store.next_batch(2, 1_000)
    assert going is not None
    store.put_outbox(item("d", 5, kind="exception"))
    assert [one.id for one in store.outbox()] == ["a", "b", "d"]
    assert store.settle_batch(going) == 2
    assert store.drops() == {"outbox_full": 1}
    assert store.outbox_bytes() == ITEM_BYTES


def test_the_cap_holds_on_the_disk_as_well(tmp_path: Path) -> None:
    limit = 2 * 2**20
    store = DeviceStore(tmp_path / "device.db", StoreLimits(outbox_bytes_max=limit))
    for first in range(0, 30_000, 1_000):
        store.put_outbox_batch(
            [item(f"m{n}", 8, size=50, kind="exception") for n in range(first, first + 1_000)]
        )
    assert limit * 0.9 < store.outbox_bytes() <= limit
    assert store.outbox_count() + store.drops()["outbox_full"] == 30_000
    store.close()
    assert (tmp_path / "device.db").stat().st_size < 1.6 * limit
    assert ROW_BYTES < 200
