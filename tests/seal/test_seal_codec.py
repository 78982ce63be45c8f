"""Codecs as a whole: orders, hostile bytes, feedback, patches and the choice between them."""

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.seal.choice import LinkQuality, choose, seconds
from hedgerow.seal.codec import (
    AnyStage,
    Codec,
    decode,
    encode,
    encode_with_residual,
    estimate,
    round_trip,
)
from hedgerow.seal.eden import Eden
from hedgerow.seal.entropy import Entropy
from hedgerow.seal.float16 import Float16
from hedgerow.seal.low_rank import LowRank
from hedgerow.seal.patch import apply_patch, make_patch
from hedgerow.seal.quantise import Quantise
from hedgerow.seal.random_k import RandomK
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK

SHAPES = ((8, 3, 3), (8,), (5, 20), (5,), ())
SIZE = 72 + 8 + 100 + 5 + 1
SHORTENERS: list[tuple[AnyStage, ...]] = [
    (),
    (TopK(share=0.1),),
    (RandomK(share=0.3),),
    (LowRank(rank=1),),
    (LowRank(rank=1), TopK(share=0.2)),
    (RandomK(share=0.5), TopK(share=0.2)),
]
QUANTISERS: list[tuple[AnyStage, ...]] = [
    *((), (Float16(),), (Eden(bits=1),), (Eden(bits=3),), (Ternary(),), (Quantise(bits=3),)),
    *((Float16(), Entropy()), (Eden(bits=2), Entropy()), (Quantise(bits=4), Entropy())),
]
CODECS = [
    Codec(stages=(*shorten, *quantise), feedback=feedback)
    for shorten in SHORTENERS
    for quantise in QUANTISERS
    for feedback in (False, True)
]


def normal(size: int = SIZE, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


# Settings -----------------------------------------------------------------------------------------


def test_a_codec_is_data() -> None:
    text = {"stages": [{"name": "topk", "share": 0.01}, {"name": "ternary"}], "feedback": True}
    codec = msgspec.convert(text, Codec)
    assert codec == Codec(stages=(TopK(share=0.01), Ternary()), feedback=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(codec), type=Codec) == codec


@pytest.mark.parametrize(
    "stages",
    [
        (Ternary(), TopK()),
        (Eden(), Float16()),
        (Entropy(), Eden()),
        (Eden(), Entropy(), Entropy()),
        (Entropy(),),
        (TopK(), Entropy()),
        (TopK(), LowRank(), Eden()),
    ],
)
def test_a_wrong_order_is_refused_by_name(stages: tuple[AnyStage, ...]) -> None:
    names = [str(stage.__struct_config__.tag) for stage in stages]
    with pytest.raises(UsageError) as refused:
        Codec(stages=stages)
    assert str(names) in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"stages":[{"name":"eden","bits":5}]}',
        b'{"stages":[{"name":"topk","share":0}]}',
        b'{"stages":[{"name":"zip"}]}',
        b'{"stages":[{"name":"ternary"},{"name":"topk"}]}',
        b'{"stages":[{"name":"quantise","bits":1}]}',
        b'{"steps":[]}',
    ],
)
def test_settings_are_bounded(text: bytes) -> None:
    with pytest.raises((msgspec.ValidationError, UsageError)):
        msgspec.json.decode(text, type=Codec)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_sent(value: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        encode(Codec(), np.array([1, value], np.float32), 0)


def test_low_rank_wants_shapes() -> None:
    with pytest.raises(UsageError, match="shape of every tensor"):
        encode(Codec(stages=(LowRank(),)), normal(), 0)


# Both halves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_comes_back(codec: Codec) -> None:
    x = normal()
    data = encode(codec, x, 3, SHAPES)
    got = decode(codec, data, SIZE, 3, SHAPES)
    assert got.shape == x.shape and got.dtype == np.float32
    assert np.isfinite(got).all()
    assert data == encode(codec, x, 3, SHAPES)
    np.testing.assert_array_equal(got, decode(codec, data, SIZE, 3, SHAPES))
    again, seen = round_trip(codec, x, 3, SHAPES)
    assert again == data and seen.tobytes() == got.tobytes() and seen.dtype == got.dtype
    assert float(np.dot(got, x)) > 0
    assert estimate(codec, SIZE, SHAPES) == pytest.approx(len(data), abs=12, rel=0.1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_every_codec_takes_small_vectors_and_zeros(codec: Codec, size: int) -> None:
    shapes = ((size,),)
    for x in (normal(size), np.zeros(size, np.float32), np.full(size, 3e38, np.float32)):
        data = encode(codec, x, 3, shapes)
        try:
            got = decode(codec, data, size, 3, shapes)
        except PeerError:  # the numbers do not fit float32 any more, which is said and not sent on
            assert np.max(np.abs(x)) > 1e38
        else:
            assert got.shape == x.shape and np.isfinite(got).all()
            assert x.any() or not got.any()


def test_no_stages_is_plain_float32() -> None:
    x = normal()
    assert encode(Codec(), x, 0) == x.astype("<f4").tobytes()
    np.testing.assert_array_equal(decode(Codec(), x.tobytes(), SIZE, 0), x)


def test_the_bits_are_the_same_everywhere() -> None:
    """Written down once, so that another machine or a later NumPy is held to them."""
    x = ((np.arange(24) - 11.5) / 8).astype(np.float32)
    data = encode(Codec(stages=(RandomK(share=0.75), Eden(bits=2))), x, 5)
    got = decode(Codec(stages=(RandomK(share=0.75), Eden(bits=2))), data, 24, 5)
    assert data.hex() == DATA_HEX
    assert got.tobytes().hex()[:64] == DECODED_HEX


DATA_HEX = "6397983f5c97ec9850"
DECODED_HEX = "ae19fcbf00000000a481a8bf88a7d6bf5fdad0bf8d6d35bf34a24cbf00000000"


# Bytes from the network ---------------------------------------------------------------------------


def harmless(codec: Codec, data: bytes) -> bool:
    """Whether `data` gave a vector; the only other thing that may happen is a PeerError."""
    try:
        got = decode(codec, data, SIZE, 3, SHAPES)
    except PeerError:
        return False
    assert got.shape == (SIZE,) and got.dtype == np.float32 and np.isfinite(got).all()
    return True


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CODECS), st.binary(max_size=400))
def test_random_bytes_do_no_harm(codec: Codec, data: bytes) -> None:
    harmless(codec, data)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CODECS), st.data())
def test_damaged_bytes_do_no_harm(codec: Codec, data: st.DataObject) -> None:
    whole = encode(codec, normal(), 3, SHAPES)
    assert harmless(codec, whole)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert not harmless(codec, whole[:cut])
    assert not harmless(codec, whole + b"\x00")
    flipped = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    harmless(codec, bytes(flipped))


def test_a_bomb_is_not_blown_up() -> None:
    codec = Codec(stages=(Quantise(bits=8), Entropy()))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflater.compress(bytes(50_000_000)) + deflater.flush()
    for way in (1, 2):
        with pytest.raises(PeerError, match="wanted from DEFLATE"):
            decode(codec, b"\x00\x00\x80\x3f" + bytes([way]) + bomb, SIZE, 0)


def test_a_count_beyond_the_vector_is_refused() -> None:
    with pytest.raises(PeerError, match="at most 19"):
        decode(
            Codec(stages=(TopK(share=0.1), Ternary())), b"\xff\xff\xff\xff\x0f" + bytes(99), SIZE, 0
        )


# Feedback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stages",
    [
        (TopK(share=0.05), Ternary()),
        (TopK(share=0.05), Quantise(bits=4)),
        (RandomK(share=0.1),),
        (RandomK(share=0.3), Eden(bits=1)),
        (Eden(bits=1),),
        (Ternary(),),
        (LowRank(rank=1), Eden(bits=3)),
        (Quantise(bits=2), Entropy()),
    ],
)
def test_with_feedback_nothing_is_lost_for_long(stages: tuple[AnyStage, ...]) -> None:
    """The sum of what arrives stays within a bounded residual of the sum of what was sent."""
    codec, rounds = Codec(stages=stages, feedback=True), 300
    target = normal(seed=8)
    residual, arrived = np.zeros(SIZE, np.float32), np.zeros(SIZE)
    for number in range(rounds):
        data, residual = encode_with_residual(codec, target, residual, number, SHAPES)
        arrived += decode(codec, data, SIZE, number, SHAPES)
    np.testing.assert_allclose(arrived + residual, rounds * target, atol=0.05)
    assert np.linalg.norm(arrived / rounds - target) < 0.25 * np.linalg.norm(target)


def descended(codec: Codec) -> float:
    """How far ½‖w − w*‖² on five devices of different optima ends from w*, as a part of ‖w*‖."""
    rng, size = np.random.default_rng(2), 200
    optima = rng.standard_normal((5, size)).astype(np.float32) + normal(size)
    w, residuals = np.zeros(size, np.float32), np.zeros((5, size), np.float32)
    for number in range(300):
        total = np.zeros(size, np.float32)
        for device in range(5):
            step = np.float32(0.05) * (optima[device] - w)
            data, residuals[device] = encode_with_residual(codec, step, residuals[device], number)
            total += decode(codec, data, size, number)
        w += total / np.float32(5)
    middle = optima.mean(0)
    return float(np.linalg.norm(w - middle) / np.linalg.norm(middle))


def test_descent_arrives_with_feedback_and_not_without() -> None:
    stages = (TopK(share=0.05), Ternary())
    assert descended(Codec(stages=stages, feedback=True)) < 0.25
    assert descended(Codec(stages=stages)) > 0.4


def test_a_part_of_what_was_lost_is_carried() -> None:
    stages, zeros = (TopK(share=0.1),), np.zeros(SIZE, np.float32)
    data, whole = encode_with_residual(Codec(stages=stages, feedback=True), normal(), zeros, 1)
    half = Codec(stages=stages, feedback=True, carry=0.5)
    again, part = encode_with_residual(half, normal(), zeros, 1)
    assert data == again
    np.testing.assert_array_equal(part, whole / 2)


def test_without_feedback_there_is_no_residual() -> None:
    codec = Codec(stages=(Eden(bits=1),))
    data, residual = encode_with_residual(codec, normal(), normal(seed=1), 4)
    assert data == encode(codec, normal(), 4)
    assert not residual.any()


# Patches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stages",
    [(), (TopK(share=0.1), Ternary()), (Eden(bits=2), Entropy()), (LowRank(rank=1), Eden(bits=4))],
)
def test_a_device_holds_what_the_server_thinks(stages: tuple[AnyStage, ...]) -> None:
    codec = Codec(stages=stages, feedback=True)
    wanted = normal()
    held = on_device = wanted.copy()
    for number in range(60):
        if number < 10:
            wanted = wanted + np.float32(0.1) * normal(seed=number)
        patch, held = make_patch(codec, held, wanted, number, SHAPES)
        on_device = apply_patch(codec, on_device, patch, number, SHAPES)
        np.testing.assert_array_equal(held, on_device)
    # The model stood still for fifty patches, so what the codec lost has come after it.
    assert np.linalg.norm(wanted - held) < 0.01 * np.linalg.norm(wanted)


def test_a_patch_between_different_models_is_refused() -> None:
    with pytest.raises(UsageError, match="patch from shape"):
        make_patch(Codec(), normal(3), normal(4), 0)


# Choice -------------------------------------------------------------------------------------------

OFFERED = [
    Codec(),
    Codec(stages=(Float16(),)),
    Codec(stages=(Eden(bits=4),)),
    Codec(stages=(TopK(share=0.01), Ternary()), feedback=True),
]


@pytest.mark.parametrize(
    ("link", "budget", "index"),
    [
        (LinkQuality(1e6), 1.0, 0),  # 400,400 B in 0.4 s
        (LinkQuality(1e6, loss=0.7), 1.0, 1),  # 300 kB/s are left: 1.3 s, then 0.67 s
        (LinkQuality(1e5), 1.0, 2),  # 2 s, then 0.5 s
        (LinkQuality(1e3), 1.0, 3),  # none but the last, and that in 1.5 s
        (LinkQuality(1e6, metered=True), 1.0, 3),
        (LinkQuality(), 1.0, 3),
    ],
)
def test_the_choice_by_hand(link: LinkQuality, budget: float, index: int) -> None:
    assert choose(OFFERED, 100_000, link, budget) == index


@given(
    st.floats(1, 1e9),
    st.floats(1, 1e9),
    st.floats(0.01, 1e4),
    st.integers(1, 10**7),
)
def test_a_better_link_never_gets_a_worse_codec(
    one: float, other: float, budget: float, size: int
) -> None:
    slow, fast = LinkQuality(min(one, other)), LinkQuality(max(one, other))
    first = choose(OFFERED, size, fast, budget)
    second = choose(OFFERED, size, slow, budget)
    assert estimate(OFFERED[first], size) >= estimate(OFFERED[second], size)
    if seconds(OFFERED[first], size, fast) > budget:
        assert first == choose(OFFERED, size, LinkQuality(metered=True), budget)


def test_nothing_offered_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        choose([], 5, LinkQuality(), 1.0)
