import math
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hedgerow.core.errors import UsageError
from hedgerow.io.coordinator_store import CoordinatorStore, DeviceRow, ModelRow, RoundRow


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/coordinator.db"
        return
    found: str = request.getfixturevalue("postgresql_url")
    yield found
    engine = sa.create_engine(found)
    with engine.begin() as connection:
        for table in ("schema_version", "devices", "rounds", "models", "settled", "facts"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))
    engine.dispose()


@pytest.fixture
def store(url: str) -> Iterator[CoordinatorStore]:
    opened = CoordinatorStore(url)
    yield opened
    opened.close()


def test_devices_enrol_once_and_come_back_in_order(store: CoordinatorStore) -> None:
    assert store.add_device(DeviceRow("UB", "second", 20.5))
    assert store.add_device(DeviceRow("UA", "first", 10.25))
    assert not store.add_device(DeviceRow("UB", "impostor", 30.0))
    assert store.devices() == [DeviceRow("UA", "first", 10.25), DeviceRow("UB", "second", 20.5)]
    assert store.device("UC") is None
    assert store.set_revoked("UA", True)
    assert not store.set_revoked("UC", True)
    assert store.device("UA") == DeviceRow("UA", "first", 10.25, revoked=True)


def test_the_last_settled_round_of_each_device_is_kept(store: CoordinatorStore) -> None:
    assert store.settled() == {}
    store.set_settled({"UA": 3, "UB": 2**40})
    store.set_settled({"UB": 7, "UC": 1})
    store.set_settled({})
    assert store.settled() == {"UA": 3, "UB": 7, "UC": 1}


def test_the_newest_models_come_first(store: CoordinatorStore) -> None:
    rows = [ModelRow(version, f"{version:064x}", version, 0.5) for version in (1, 2, 3)]
    for row in rows:
        store.add_model(row, b"w")
    assert store.models(2) == rows[:0:-1]
    assert store.models(9) == rows[::-1]


def test_a_round_is_kept_as_it_last_stood(store: CoordinatorStore) -> None:
    opened = RoundRow(7, "open", ("UA", "UB"), "ab" * 32, 2**40, 1000.5)
    closed = RoundRow(
        7, "closed", ("UA",), "ab" * 32, 2**40, 1000.5, 1002.0, "quorum", {"loss": 0.25, "n": 2.0}
    )
    store.put_round(opened)
    assert store.round(7) == opened
    store.put_round(closed)
    store.put_round(RoundRow(8, "open", (), "cd" * 32, 1, 1003.0))
    assert store.round(7) == closed
    assert [row.number for row in store.rounds(1)] == [8]
    assert store.last_round() == store.round(8)
    assert store.round(9) is None


def test_a_metric_that_is_no_number_does_not_stop_the_round(store: CoordinatorStore) -> None:
    store.put_round(RoundRow(1, "closed", (), "", 1, 0.0, metrics={"a": math.inf, "b": 0.0}))
    kept = store.round(1)
    assert kept is not None
    assert math.isnan(kept.metrics["a"])
    assert kept.metrics["b"] == 0.0


def test_a_model_version_is_written_once(store: CoordinatorStore) -> None:
    first = ModelRow(1, "ab" * 32, 0, 5.0)
    store.add_model(first, b"\x00weights\xff")
    store.add_model(first, b"ignored")
    assert store.model_weights(1) == b"\x00weights\xff"
    with pytest.raises(UsageError, match="written once"):
        store.add_model(ModelRow(1, "cd" * 32, 0, 5.0), b"other")
    store.add_model(ModelRow(2, "cd" * 32, 1, 6.0), b"two")
    assert store.last_model() == ModelRow(2, "cd" * 32, 1, 6.0)
    assert store.forget_weights(2) == 1
    assert store.model(1) == first
    assert store.model_weights(1) is None
    assert store.model_weights(2) == b"two"


def test_old_rounds_go_with_their_models_and_the_newest_model_stays(
    store: CoordinatorStore,
) -> None:
    for number in range(1, 7):
        store.put_round(RoundRow(number, "closed", ("UA",), "", 1, 0.0))
    for version, number in enumerate((0, 1, 2, 3)):  # rounds 4 to 6 gave none
        store.add_model(ModelRow(version, "ab" * 32, number, 0.0), b"weights")
    assert store.forget_rounds(3) == 2
    assert [row.number for row in store.rounds()] == [6, 5, 4, 3]
    assert [store.model(version) is None for version in range(4)] == [True, True, True, False]
    assert store.forget_rounds(6) == 3
    assert store.last_model() == ModelRow(3, "ab" * 32, 3, 0.0)
    assert store.model_weights(3) == b"weights"
    assert store.forget_rounds(-10) == 0


def test_a_failing_transaction_leaves_nothing(store: CoordinatorStore) -> None:
    store.set_fact("round", b"1")

    def fail_in_the_middle() -> None:
        with store.transaction():
            store.set_fact("round", b"2")
            store.add_device(DeviceRow("UA", "first", 1.0))
            with store.transaction():
                store.add_model(ModelRow(1, "", 0, 0.0), b"")
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert store.fact("round") == b"1"
    assert store.devices() == []
    assert store.last_model() is None


def test_everything_is_there_after_reopening(url: str) -> None:
    first = CoordinatorStore(url)
    first.set_fact("empty", b"")
    first.put_round(RoundRow(1, "open", ("UA",), "", 1, 0.0))
    first.close()
    second = CoordinatorStore(url)
    assert second.fact("empty") == b""
    assert second.last_round() == RoundRow(1, "open", ("UA",), "", 1, 0.0)
    second.set_fact("empty", None)
    assert second.fact("empty") is None
    second.close()


def test_a_newer_layout_is_refused(url: str) -> None:
    CoordinatorStore(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE schema_version SET version = 99"))
    engine.dispose()
    with pytest.raises(UsageError, match="layout 99"):
        CoordinatorStore(url)


@pytest.mark.parametrize(
    "wrong",
    ["nonsense", "sqlite:////nowhere/at/all.db", "postgresql+psycopg://x@/x?host=/nowhere"],
)
def test_a_wrong_url_says_what_to_do(wrong: str) -> None:
    with pytest.raises(UsageError, match="coordinator store"):
        CoordinatorStore(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "mysql+nodriver://ann:secret@host/name",
        "mysql+mysqldb://ann:secret@host/name",
        "postgresql+psycopg://ann:x@y:secret@host/name",
        "postgresql+psycopg://ann:secret@x/x?host=/nowhere&password=secret",
        "secret",
    ],
)
def test_a_password_in_the_url_is_not_shown(wrong: str) -> None:
    with pytest.raises(UsageError, match="coordinator store") as caught:
        CoordinatorStore(wrong)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or "secret" not in str(caught.value.__context__)


def test_nobody_else_reads_a_file_it_makes(tmp_path: Path) -> None:
    store = CoordinatorStore(f"sqlite:///{tmp_path}/coordinator.db")
    store.set_fact("a", b"1")
    for name in ("coordinator.db", "coordinator.db-wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    store.close()


def test_a_database_in_memory_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://", "sqlite:///:memory:"):
        CoordinatorStore(url).close()
    assert list(tmp_path.iterdir()) == []
