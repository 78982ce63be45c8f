import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from hedgerow.ledger import note
from hedgerow.ledger.chain import (
    EMPTY,
    Gap,
    Left,
    Segment,
    Signed,
    Sum,
    Verified,
    Verifier,
    encode,
    link,
    origin_of,
    verify_lines,
)

SIGNING = SigningKey(bytes(range(32)))
KEY = bytes(SIGNING.verify_key)
ME = "UME"


def verify(device: str, data: bytes, signature: bytes) -> bool:
    return signature == bytes(SIGNING.sign(data).signature)


def checkpoint(size: int, head: bytes, device: str = ME) -> bytes:
    point = note.Checkpoint(origin_of(device), size, head, 100.0)
    made = note.signed(point, KEY, lambda data: bytes(SIGNING.sign(data).signature))
    return encode(Signed(note=made))


def left(number: int, kind: str = "update") -> bytes:
    return encode(Left(time=float(number), to="hub", kind=kind, purpose="learned", size=10))


def record(entries: int, every: int = 3) -> list[bytes]:
    """A record with a checkpoint after every so many entries and at its end."""
    lines = [encode(Segment(device=ME, first=0, previous=EMPTY.hex(), time=0.0))]
    head = link(EMPTY, lines[0])
    for number in range(1, entries):
        line = left(number)
        lines.append(line)
        head = link(head, line)
        if number % every == 0 or number == entries - 1:
            lines.append(checkpoint(number + 1, head))
    return lines


def checked(lines: list[bytes], known: dict[int, bytes] | None = None) -> Verified:
    return verify_lines(lines, Verifier(verify, lambda device: KEY, known=known))


def test_the_chain_is_a_hash_of_hashes() -> None:
    first = hashlib.sha256(bytes(32) + b"one").digest()
    assert link(EMPTY, b"one") == first
    assert link(first, b"two") == hashlib.sha256(first + b"two").digest()


def test_a_good_record_says_what_is_in_it() -> None:
    result = checked(record(8))
    assert result.good
    assert (result.entries, result.messages, result.bytes) == (8, 7, 70)
    assert (result.device, result.first, result.checkpoints) == (ME, 0, 3)
    assert result.kinds == {"update": Sum(7, 70)}
    assert result.signed_seconds == 100.0


def test_a_gap_says_itself_what_is_missing() -> None:
    lines = record(2)[:-1]
    lines.append(encode(Gap(time=2.0, since=1.0, messages=3, bytes=30, why="the disk was full")))
    head = EMPTY
    for line in lines:
        head = link(head, line)
    result = checked([*lines, checkpoint(3, head)])
    assert (result.good, result.gaps, result.messages, result.bytes) == (True, 1, 4, 40)


@given(st.data())
def test_any_change_of_a_signed_record_shows(data: st.DataObject) -> None:
    lines = record(8)
    place = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["byte", "removed", "doubled", "swapped"]))
    changed = list(lines)
    if kind == "byte":
        line = bytearray(lines[place])
        line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
        changed[place] = bytes(line)
    elif kind == "removed":
        del changed[place]
    elif kind == "doubled":
        changed.insert(place, lines[place])
    else:
        changed[place - 1], changed[place] = changed[place], changed[place - 1]
    # Checkpoints vouch for entries; one more or one fewer of them takes nothing away.
    if _entries(changed) == _entries(lines) and changed[-1] == lines[-1]:
        return
    result = checked(changed)
    assert not result.good
    assert result.why


def _entries(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if not line.startswith(b'{"line":"checkpoint"')]


def test_what_nobody_signed_is_not_good() -> None:
    result = checked([*record(5), left(5), left(6)])
    assert (result.good, result.bad) == (False, 5)
    assert result.why == "the last 2 entries are not signed"


def test_a_shortened_record_goes_on_from_what_its_segment_says() -> None:
    lines = record(5)
    head = EMPTY
    for line in _entries(lines):
        head = link(head, line)
    segment = encode(Segment(device=ME, first=5, previous=head.hex(), time=9.0))
    tail = [segment, checkpoint(6, link(head, segment))]
    assert checked([*lines, *tail]).entries == 6
    alone = checked(tail)
    assert (alone.good, alone.first, alone.entries) == (True, 5, 1)
    assert checked(tail, {5: head}).good
    assert "nothing shows" in checked(tail, {4: head}).why
    assert not checked([*lines[:-3], *tail]).good


def test_an_older_export_must_be_the_beginning_of_a_newer_one() -> None:
    older = checked(record(5, every=4))
    known = {older.entries: bytes.fromhex(older.head)}
    assert checked(record(9, every=4), dict(known)).good
    rewritten = record(9, every=4)
    rewritten[2] = left(77)
    head, lines = EMPTY, list[bytes]()
    for line in _entries(rewritten):  # signed anew by whoever has the key
        head = link(head, line)
        lines.append(line)
    lines.append(checkpoint(9, head))
    assert checked(lines).good
    result = checked(lines, dict(known))
    assert (result.good, result.bad) == (False, 5)
    assert "others than those known" in result.why
    assert "does not reach entry 5" in checked(record(3), dict(known)).why


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "nothing in it"),
        ([left(1)], "begins with a segment"),
        ([b"{}"], "not a line"),
        ([b"\xff\xfe"], "not a line"),
        ([b"[" * 5_000], "not a line"),
        ([b'{"line":"left"' + b" " * 600_000], "at most"),
        ([encode(Segment(device=ME, first=0, previous="ff" * 32, time=0.0))], "cannot be"),
        ([encode(Segment(device=ME, first=3, previous="no", time=0.0))], "hexadecimal"),
    ],
)
def test_what_is_no_record_is_refused(lines: list[bytes], why: str) -> None:
    result = checked(lines)
    assert not result.good
    assert why in result.why


def test_the_record_of_another_device_is_not_this_one() -> None:
    verifier = Verifier(verify, lambda device: KEY, device="UYOU")
    assert "the record of UME" in verify_lines(record(3), verifier).why
    lines = record(3)[:-1]
    head = EMPTY
    for line in lines:
        head = link(head, line)
    lines.append(checkpoint(3, head, device="UYOU"))
    assert not checked(lines).good


def test_a_line_may_have_fields_of_later_versions() -> None:
    lines = record(2)[:1]
    line = json.dumps(json.loads(left(1)) | {"later": 1}).encode()
    head = link(link(EMPTY, lines[0]), line)
    assert checked([*lines, line, checkpoint(2, head)]).good
