import asyncio
import json
import multiprocessing
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.io.egress import Appender, EgressLimits, EgressReader, EgressRecord, verify_file
from hedgerow.io.egress.files import day_of
from hedgerow.io.keys import Identity
from hedgerow.ledger.chain import Left, Sum, encode

DAY = 86_400.0


@pytest.fixture
def identity() -> Identity:
    return Identity.create()


@pytest.fixture
def record(tmp_path: Path, identity: Identity) -> Iterator[EgressRecord]:
    made = EgressRecord(tmp_path / "egress", identity)
    yield made
    made.close()


def leave(record: Appender, count: int = 1, kind: str = "report", size: int = 100) -> None:
    for _ in range(count):
        record.left(to="nats://hub:4222", kind=kind, purpose="what it decides", size=size)


def export(record: EgressReader, path: Path) -> Path:
    path.write_bytes(b"".join(record.export()))
    return path


def test_what_left_is_listed_newest_first(record: EgressRecord) -> None:
    leave(record, 2)
    record.left(to="hub", kind="update", purpose="learned", size=7, digest=b"\x01" * 32)
    newest, before, _ = record.entries()
    assert (newest.number, newest.kind, newest.size, newest.to) == (3, "update", 7, "hub")
    assert newest.digest == "01" * 32
    assert newest.hash == record.totals().head
    assert before.purpose == "what it decides"
    assert [one.number for one in record.entries(1, before=3)] == [2]
    assert [one.kind for one in record.entries(kind="update")] == ["update"]
    assert record.entries(kind="alert") == []


def test_sums_are_by_class_and_by_day(record: EgressRecord) -> None:
    leave(record, 3)
    leave(record, 2, kind="update", size=1_000)
    totals = record.totals()
    assert (totals.messages, totals.bytes) == (5, 2_300)
    assert totals.kinds == {"report": Sum(3, 300), "update": Sum(2, 2_000)}
    (day,) = totals.days
    assert totals.days[day] == totals.kinds


def test_a_signed_record_proves_itself_anywhere(
    record: EgressRecord, identity: Identity, tmp_path: Path
) -> None:
    leave(record, 10)
    exported = export(record, tmp_path / "record.jsonl")
    result = verify_file(exported, identity.public)
    assert (result.good, result.messages, result.device) == (True, 10, identity.public)
    assert record.verify() == result
    assert not verify_file(exported, Identity.create().public).good


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"size":100', b'"size":1'), (b"hub", b"pub"), (b'"line":"left"', b'"line":"l"')],
)
def test_one_changed_byte_shows(
    record: EgressRecord, tmp_path: Path, old: bytes, new: bytes
) -> None:
    leave(record, 10)
    exported = export(record, tmp_path / "record.jsonl")
    exported.write_bytes(exported.read_bytes().replace(old, new, 1))
    result = verify_file(exported)
    assert not result.good
    assert result.why


def test_a_record_cut_at_its_end_shows_against_an_older_export(
    record: EgressRecord, tmp_path: Path
) -> None:
    leave(record, 3)
    before = export(record, tmp_path / "before.jsonl")
    leave(record, 3)
    older = export(record, tmp_path / "older.jsonl")
    leave(record, 3)
    newer = export(record, tmp_path / "newer.jsonl")
    assert verify_file(newer, since=older).good
    assert not verify_file(before, since=older).good
    older.write_bytes(older.read_bytes()[:-10])
    with pytest.raises(UsageError, match="not good itself"):
        verify_file(newer, since=older)


def test_a_record_goes_on_after_a_restart(tmp_path: Path, identity: Identity) -> None:
    for _ in range(3):
        record = EgressRecord(tmp_path / "egress", identity)
        leave(record, 5)
        record.close()
    reader = EgressRecord.reading(tmp_path / "egress")
    assert reader.totals().messages == 15
    assert (reader.verify().good, reader.verify().messages) == (True, 15)


def test_the_files_are_for_their_owner_alone(record: EgressRecord, tmp_path: Path) -> None:
    leave(record)
    record.sign()
    for path in (tmp_path / "egress").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_oldest_entries_go_and_the_sums_stay(tmp_path: Path, identity: Identity) -> None:
    limits = EgressLimits(bytes_max=12_000, segment_bytes=2_000)
    record = EgressRecord(tmp_path / "egress", identity, limits)
    for _ in range(40):
        leave(record, 5)
        record.sign()
        assert record.bytes() <= limits.bytes_max + 3_000  # the next file, not yet closed
    result = record.verify()
    assert result.good and result.first > 0
    assert 20 < result.messages < 200
    assert record.totals().messages == 200
    assert len(record.entries(1_000)) == result.messages
    record.close()
    assert EgressReader(tmp_path / "egress").totals().bytes == 20_000


def test_what_the_owner_erased_is_gone_and_the_chain_goes_on(
    record: EgressRecord, tmp_path: Path
) -> None:
    leave(record, 5, kind="secret")
    older = export(record, tmp_path / "older.jsonl")
    record.erase()
    assert (record.totals().messages, record.entries()) == (0, [])
    leave(record, 2)
    newer = export(record, tmp_path / "newer.jsonl")
    assert verify_file(newer, since=older).good
    assert verify_file(newer).first == 6
    kept = b"".join(path.read_bytes() for path in (tmp_path / "egress").iterdir())
    assert b"secret" not in kept
    assert b"its owner erased what was before" in kept


def test_a_line_that_power_cut_in_two_is_cut_off_and_said(
    tmp_path: Path, identity: Identity
) -> None:
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record, 3)
    record.close()
    with (tmp_path / "egress" / "record.jsonl").open("ab") as file:
        file.write(b'{"line":"left","time":1.0,"to":"hu')
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record)
    result = record.verify()
    assert (result.good, result.messages, result.gaps) == (True, 4, 1)
    assert "power was lost" in record.entries(kind="gap")[0].purpose
    record.close()


def test_power_lost_between_two_files_leaves_one_record(tmp_path: Path, identity: Identity) -> None:
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record, 3)
    record.close()
    current = tmp_path / "egress" / "record.jsonl"
    os.link(current, tmp_path / "egress" / "record-00000001.jsonl")
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record)
    assert (record.verify().good, record.verify().messages) == (True, 4)
    record.close()


def test_a_record_changed_while_the_device_was_off_stays_bad(
    tmp_path: Path, identity: Identity
) -> None:
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record, 3)
    record.close()
    current = tmp_path / "egress" / "record.jsonl"
    current.write_bytes(current.read_bytes().replace(b'"size":100', b'"size":9', 1))
    record = EgressRecord(tmp_path / "egress", identity)
    leave(record, 3)
    assert not record.verify().good
    assert record.totals().faults == 1
    record.close()


def test_many_threads_write_one_record(record: EgressRecord) -> None:
    threads = [threading.Thread(target=leave, args=(record, 200)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        record.sign()
        record.totals()
        record.entries(5)
    for thread in threads:
        thread.join()
    result = record.verify()
    assert (result.good, result.messages) == (True, 800)


def test_another_process_adds_lines_over_a_change_of_files(
    tmp_path: Path, identity: Identity
) -> None:
    limits = EgressLimits(segment_bytes=2_000)
    record = EgressRecord(tmp_path / "egress", identity, limits)
    context = multiprocessing.get_context("spawn")
    said, say = context.Pipe(duplex=False)
    other = context.Process(target=_leave_for_ever, args=(tmp_path / "egress", say))
    other.start()
    added = 0
    while added < 300:
        added = said.recv()
        leave(record)
        record.sign()
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    while said.poll():
        added = said.recv()
    result = record.verify()
    assert result.good
    assert result.kinds["other"].messages in (added, added + 1)  # killed before it could say
    assert len(list((tmp_path / "egress").iterdir())) > 5
    record.close()


def _leave_for_ever(directory: Path, say: Connection) -> None:
    record = Appender(directory)
    number = 0
    while True:
        leave(record, kind="other")
        number += 1
        say.send(number)


def test_it_is_signed_within_a_second_or_so(
    record: EgressRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.io.egress.SIGN_SECONDS", 0.01)

    async def scene() -> None:
        keeping = asyncio.create_task(record.keep())
        leave(record, 3)
        async with asyncio.timeout(10):
            while record.totals().signed_entries < 4:
                await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(scene())


def test_a_new_file_is_signed_as_soon_as_the_first(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.io.egress.SIGN_SECONDS", 0.01)
    record = EgressRecord(tmp_path / "egress", identity, EgressLimits(segment_bytes=2_000))

    async def scene() -> None:
        leave(record, 20)
        record.sign()  # beyond 2,000 bytes: what comes next is in a new file
        keeping = asyncio.create_task(record.keep())
        leave(record)
        path = tmp_path / "egress" / "record.jsonl"
        async with asyncio.timeout(10):
            while b"checkpoint" not in path.read_bytes():  # asking the record would wake it
                await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(scene())
    record.close()


def test_what_leaves_after_the_end_harms_nobody(tmp_path: Path, identity: Identity) -> None:
    record = EgressRecord(tmp_path / "egress", identity)
    record.close()
    others = (tmp_path / "others").open("wb")  # takes the number that the record's file had
    leave(record)
    record.sign()
    record.close()
    others.write(b"mine")
    others.close()
    assert (tmp_path / "others").read_bytes() == b"mine"
    assert record.unwritten == 1


def test_a_record_that_somebody_removed_stops_nothing(
    record: EgressRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (tmp_path / "egress").iterdir():
        path.unlink()
    leave(record, 3)
    record.sign()
    assert record.unwritten == 3
    assert "not signed now" in caplog.text


def test_there_must_be_a_record_to_read(tmp_path: Path) -> None:
    for what in (EgressReader, Appender):
        with pytest.raises(UsageError, match="no egress record"):
            what(tmp_path / "none")


def test_lines_are_json_that_anybody_can_read(record: EgressRecord, tmp_path: Path) -> None:
    leave(record)
    exported = export(record, tmp_path / "record.jsonl")
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    assert [line["line"] for line in lines] == ["segment", "left", "checkpoint"]
    assert lines[1]["purpose"] == "what it decides"


def test_a_year_of_sums_of_many_kinds_still_begins_a_file(
    tmp_path: Path, identity: Identity
) -> None:
    clock = [0.0]
    directory = tmp_path / "egress"
    record = EgressRecord(directory, identity, EgressLimits(segment_bytes=1000), lambda: clock[0])
    kinds = [f"a class with a long name number {number}" for number in range(40)]
    lines = [
        encode(Left(time=day * DAY, to="hub", kind=kind, purpose="", size=10**9)) + b"\n"
        for day in range(400)
        for kind in kinds
    ]
    with (directory / "record.jsonl").open("ab") as file:
        file.write(b"".join(lines))
    record.sign()
    leave(record)
    record.sign()
    totals = record.totals()
    assert (totals.faults, totals.messages) == (0, 400 * 40 + 1)
    assert 100 < len(totals.days) < 400
    assert max(totals.days) in {day_of(399 * DAY), day_of(time.time())}
    assert record.verify().good
    # The next file is begun after its own share of lines, not because of how long its first is.
    assert len(list(directory.glob("record-*.jsonl"))) == 1
    record.close()


def test_an_erasure_that_was_cut_short_is_finished_at_the_next_start(
    record: EgressRecord, tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(record, 5)

    def dies(path: Path, missing_ok: bool = False) -> None:
        raise OSError("power lost")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(HedgerowError):
            record.erase()
    assert list(record.directory.glob("record-*.jsonl"))
    record.close()
    again = EgressRecord(tmp_path / "egress", identity)
    assert not list(record.directory.glob("record-*.jsonl"))
    assert again.totals().messages == 0
    assert again.verify().good
    again.close()
