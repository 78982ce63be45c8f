"""Sensor Measurement Lists, with the examples of RFC 8428."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io.senml import Record, decode, encode_cbor, encode_json

BASE = "urn:dev:ow:10e2073a0108006:"
BEGAN = 1.276020076001e9

RFC_8428_FIGURE_1 = bytes.fromhex(  # section 6
    "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a"
    "22fb41d303a15b001062236141200500"
    "67766f6c7461676501615602fb405e06"
    "6666666666a3006763757272656e7406"
    "2402fb3ff3333333333333a300676375"
    "7272656e74062302fb3ff4cccccccccc"
    "cda3006763757272656e74062202fb3f"
    "f6666666666666a3006763757272656e"
    "74062102f93e00a3006763757272656e"
    "74062002fb3ff999999999999aa30067"
    "63757272656e74060002fb3ffb333333"
    "333333"
)
RFC_8428_5_1_2 = json.dumps(
    [
        {"bn": BASE, "bt": BEGAN, "bu": "A", "bver": 5, "n": "voltage", "u": "V", "v": 120.1},
        *({"n": "current", "t": at - 6, "v": value} for at, value in enumerate((1.2, 1.3), 1)),
        {"n": "current", "v": 1.7},
    ]
).encode()


def test_the_example_in_json_resolves() -> None:
    assert decode(RFC_8428_5_1_2, 0) == [
        Record(BASE + "voltage", 120.1, BEGAN, "V"),
        Record(BASE + "current", 1.2, BEGAN - 5, "A"),
        Record(BASE + "current", 1.3, BEGAN - 4, "A"),
        Record(BASE + "current", 1.7, BEGAN, "A"),
    ]


def test_the_example_in_cbor_resolves() -> None:
    records = decode(RFC_8428_FIGURE_1, 0)
    assert records[0] == Record(BASE + "voltage", 120.1, BEGAN, "V")
    assert [record.value for record in records[1:]] == [1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    assert [record.time_seconds - BEGAN for record in records[1:]] == [-5, -4, -3, -2, -1, 0]


def test_times_below_2_to_the_28_are_relative_to_now() -> None:
    pack = b'[{"n":"a","v":1},{"n":"a","t":-10,"v":2},{"n":"a","t":60,"v":3}]'
    assert [record.time_seconds for record in decode(pack, 1.7e9)] == [
        1.7e9,
        1.7e9 - 10,
        1.7e9 + 60,
    ]


def test_every_kind_of_value_comes_through() -> None:
    pack = [
        {"bn": "dev-", "bv": 10, "bs": 100, "n": "sum", "s": 5, "v": 2.5},
        {"n": "text", "vs": "open"},
        {"n": "flag", "vb": False},
        {"n": "data", "vd": "_wA"},
        {"n": "base"},
    ]
    records = decode(json.dumps(pack).encode(), 1.7e9)
    assert [record.value for record in records] == [12.5, "open", False, b"\xff\x00", 10.0]
    assert records[0].sum == 105


@pytest.mark.parametrize(
    ("pack", "says"),
    [
        ({}, "no SenML pack"),
        ([5], "no SenML pack"),
        ([{"v": 1}], "the name ''"),
        ([{"n": "-a", "v": 1}], "the name '-a'"),
        ([{"n": "a"}], "neither a value nor a sum"),
        ([{"n": "a", "v": 1, "vs": "x"}], "v and vs"),
        ([{"n": "a", "v": "1"}], "no number"),
        ([{"n": "a", "v": True}], "no number"),
        ([{"n": "a", "vb": 1}], "true or false"),
        ([{"n": "a", "vd": "*"}], "base64url"),
        ([{"n": "a", "v": 1, "new_": 1}], "must be understood"),
        ([{"n": "a", "v": 1, "bver": 11}], "version 11"),
        ([{"n": 5, "v": 1}], "no text"),
        ([{"n": "a", "v": 10**4200}], "not a finite number"),
    ],
)
def test_what_is_no_pack_is_refused(pack: Any, says: str) -> None:
    with pytest.raises(PeerError, match=says):
        decode(json.dumps(pack).encode(), 0)


HUGE = b'[{"n":"a","v":1' + b"0" * 9000 + b"}]"


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"[{]", b"[" * 100_000, HUGE),
        *(b"\x81", b"\x9f", b"\x81\x05", b"\x9b" + b"\xff" * 8, b"\x81" * 100_000),
    ],
    ids=lambda payload: repr(payload[:8]),
)
def test_bytes_that_are_nothing_are_refused(payload: bytes) -> None:
    with pytest.raises(PeerError, match="senml"):
        decode(payload, 0)


NAMES = st.text("abcXYZ019-:./_", max_size=20).map(lambda text: f"n{text}")
VALUES = st.floats(-1e300, 1e300) | st.booleans() | st.text(max_size=20) | st.binary(max_size=20)
RECORDS = st.builds(
    Record,
    NAMES,
    VALUES,
    st.floats(2**28, 2**40),
    st.sampled_from(["", "V", "Cel"]),
    st.none() | st.floats(-1e9, 1e9),
)


@given(st.lists(RECORDS, min_size=1, max_size=10))
def test_what_is_encoded_decodes_to_the_same(records: list[Record]) -> None:
    assert decode(encode_json(records), 0) == records
    assert decode(encode_cbor(records, "n"), 0) == records


def test_a_base_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="does not begin"):
        encode_json([Record("a:x", 1.0)], "b:")


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_nothing_else(payload: bytes) -> None:
    for prefix in (b"", b"\x81", b"\x82\xa2\x00\x61a\x02"):
        with contextlib.suppress(PeerError):
            decode(prefix + payload, 0)


def shared(depth: int) -> bytes:
    """Nested pairs in which the second refers to the first (tags 28 and 29): 2^depth leaves."""
    return b"\xd8\x1c" + (
        b"\x82" + shared(depth - 1) + b"\xd8\x1d" + bytes([0x18, depth]) if depth else b"\x80"
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"\x81\xa1" + shared(200) + b"\x01",  # as a key, whose hash would take for ever
        b"\x81\xa1\x02" + shared(200),  # as a value, which would be written into a message
        b"\x81\xa1\x02\xd8\x1c\x80",
        b"\x81\xa1\x02\xd9\x01\x00\x61a",  # a namespace of strings
        b"\x81\xa1\x02\xd8\x23\x61a",  # a regular expression
        b"\x81\xa1\x02\xda\x00\x01\x86\xa0\x00",  # a tag that nobody knows
        b"\x81" * 100_000 + b"\x00",
        b"\x81\xa2\x00\x61a\x02" + b"\x99\xff\xff" + b"\x00" * 65_535,
    ],
)
def test_a_few_bytes_of_cbor_do_not_become_a_billion(payload: bytes) -> None:
    with pytest.raises(PeerError) as told:
        decode(payload, 0)
    assert len(str(told.value)) < 300


def test_decimal_fractions_and_big_numbers_are_values() -> None:
    assert decode(b"\x81\xa2\x00\x61a\x02\xc4\x82\x21\x19\x6a\xb3", 0)[0].value == 273.15
    assert decode(b"\x81\xa2\x00\x61a\x02\xc2\x49\x01" + bytes(8), 0)[0].value == 2.0**64
