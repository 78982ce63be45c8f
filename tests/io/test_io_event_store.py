from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.event_store import EPOCHS_MAX, RECENT_MAX, EventStore, RecentEvent

MILL = "U" + "A" * 55
FAN = "U" + "B" * 55


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CoordinatorStore]:
    url = f"sqlite:///{tmp_path / 'coordinator.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
        engine.dispose()
    opened = CoordinatorStore(url)
    yield opened
    opened.close()


def test_the_last_number_of_each_lane_is_remembered(store: CoordinatorStore) -> None:
    events = EventStore(store)
    assert events.last_number(MILL, b"epoch..1", 8) == 0
    events.set_last_number(MILL, b"epoch..1", 8, 7, 1)
    events.set_last_number(MILL, b"epoch..1", 4, 3, 2)
    events.set_last_number(MILL, b"epoch..1", 8, 9, 3)
    assert events.last_number(MILL, b"epoch..1", 8) == 9
    assert events.last_number(MILL, b"epoch..1", 4) == 3
    assert events.last_number(FAN, b"epoch..1", 8) == 0
    assert EventStore(store).last_number(MILL, b"epoch..1", 8) == 9


def test_of_a_device_that_begins_anew_for_ever_little_is_remembered(
    store: CoordinatorStore,
) -> None:
    events = EventStore(store)
    events.set_last_number(FAN, b"epoch..1", 8, 7, 1)
    for number in range(10):
        events.set_last_number(MILL, f"epoch.{number:02}".encode(), 8, 1, 10 + number)
    known = [events.last_number(MILL, f"epoch.{n:02}".encode(), 8) for n in range(10)]
    assert known == [0] * (10 - EPOCHS_MAX) + [1] * EPOCHS_MAX
    assert events.last_number(FAN, b"epoch..1", 8) == 7


def test_sums_are_by_day_and_kind(store: CoordinatorStore) -> None:
    events = EventStore(store)
    events.add(MILL, "2026-11-22", "exception", 2)
    events.add(MILL, "2026-11-22", "exception", 3)
    events.add(FAN, "2026-11-22", "exception", 1)
    events.add(FAN, "2026-11-23", "summary", 1)
    assert events.sums() == {("2026-11-22", "exception"): 6, ("2026-11-23", "summary"): 1}
    assert events.sums(MILL) == {("2026-11-22", "exception"): 5}
    events.add(FAN, "2026-11-24", "summary", 1, oldest_day="2026-11-23")
    assert set(events.sums()) == {("2026-11-23", "summary"), ("2026-11-24", "summary")}


def test_the_newest_events_are_kept_and_only_those(store: CoordinatorStore) -> None:
    events = EventStore(store)
    events.keep_recent([RecentEvent(MILL, b"first")])
    events.keep_recent(RecentEvent(MILL, str(n).encode()) for n in range(RECENT_MAX + 5))
    again = EventStore(store)
    again.keep_recent([RecentEvent(FAN, b"last")])
    again.keep_recent([])
    recent = again.recent(RECENT_MAX + 100)
    assert len(recent) == RECENT_MAX
    assert recent[0] == (FAN, b"last")
    assert recent[-1] == (MILL, b"6")


def test_what_is_counted_and_the_place_are_one_transaction(store: CoordinatorStore) -> None:
    events = EventStore(store)
    assert events.next_sequence() == 1

    def fail_in_the_middle() -> None:
        with store.transaction():
            events.set_last_number(MILL, b"epoch..1", 8, 7, 1)
            events.add(MILL, "2026-11-22", "exception", 2)
            events.set_next_sequence(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert (events.next_sequence(), events.last_number(MILL, b"epoch..1", 8)) == (1, 0)
    assert events.sums() == {}
