"""Each stage by itself: hand numbers, plain twins, sizes and errors as theory has them."""

import math
import tracemalloc
import zlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector
from hedgerow.seal import bits
from hedgerow.seal.bits import (
    golomb_bits,
    golomb_parameter,
    pack,
    pack_positions,
    packed_bytes,
    unpack,
    unpack_positions,
)
from hedgerow.seal.codec import AnyStage, Codec, decode, encode, estimate
from hedgerow.seal.eden import CENTROIDS, Eden
from hedgerow.seal.entropy import Entropy
from hedgerow.seal.float16 import Float16
from hedgerow.seal.low_rank import LowRank
from hedgerow.seal.quantise import Quantise
from hedgerow.seal.random_k import RandomK
from hedgerow.seal.rotation import hadamard, rotated, unrotated
from hedgerow.seal.stage import Reader, Setting, unpack_scale, varint
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK


def normal(size: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def through(stages: tuple[AnyStage, ...], vector: Vector, seed: int = 1) -> Vector:
    codec = Codec(stages=stages)
    return decode(codec, encode(codec, vector, seed), len(vector), seed)


def error(got: Vector, wanted: Vector) -> float:
    """The squared error as a part of the squared norm."""
    return float(np.sum((got - wanted).astype(np.float64) ** 2) / np.sum(wanted**2.0))


# Bits ---------------------------------------------------------------------------------------------


def test_golomb_parameter_by_hand() -> None:
    # ln(φ−1) = −0.4812; ln 0.99 = −0.01005: log₂ 47.88 = 5.58, so b* = 6; and so on.
    assert golomb_parameter(100, 1000) == 3
    assert golomb_parameter(10, 1000) == 6
    assert golomb_parameter(25, 10_000) == 8
    assert golomb_parameter(1, 1000) == 9
    assert golomb_parameter(1000, 1000) == golomb_parameter(0, 5) == 0


def test_golomb_code_by_hand() -> None:
    # 2 of 16: ln(φ−1)/ln(1−1/8) = 3.60, b* = 2. Positions 3 and 9: gaps 3 and 5; remainders 11
    # and 01; quotients 0 and 1: 1, then 01.
    assert golomb_parameter(2, 16) == 2
    data = pack_positions(np.array([3, 9]), 16)
    assert data == bytes([0b11_01_0000, 0b1_01_00000])
    reader = Reader(data + b"more")
    assert unpack_positions(reader, 2, 16).tolist() == [3, 9]
    assert len(reader) == 4


@pytest.mark.parametrize("place", [0, 1])
def test_no_bit_stands_behind_the_remainders_or_the_quotients(place: int) -> None:
    data = bytearray(pack_positions(np.array([3, 9]), 16))
    data[place] |= 1
    with pytest.raises(PeerError, match="bits stand behind"):
        unpack_positions(Reader(bytes(data)), 2, 16)


@given(st.data(), st.integers(1, 3000))
def test_positions_come_back(data: st.DataObject, size: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1), max_size=200))
    positions = np.array(sorted(chosen), np.int64)
    reader = Reader(pack_positions(positions, size) + b"x")
    np.testing.assert_array_equal(unpack_positions(reader, len(positions), size), positions)
    assert len(reader) == 1


def found(data: bytes, count: int, size: int) -> tuple[list[int], int] | str:
    reader = Reader(data)
    try:
        return unpack_positions(reader, count, size).tolist(), len(reader)
    except PeerError as error:
        return str(error)


@given(st.data(), st.integers(1, 400), st.binary(max_size=60))
def test_few_positions_are_what_many_would_be(data: st.DataObject, size: int, bad: bytes) -> None:
    """One by one up to `FEW`, by arrays above: the same bytes, positions and refusals."""
    chosen = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=bits.FEW))
    positions, count = np.array(sorted(chosen), np.int64), len(chosen)
    packed = pack_positions(positions, size)
    few = [found(one, count, size) for one in (packed, packed[:-1], bad, packed + bad)]
    with mock.patch.object(bits, "FEW", 0):
        assert pack_positions(positions, size) == packed
        many = [found(one, count, size) for one in (packed, packed[:-1], bad, packed + bad)]
    assert few == many
    assert few[0] == (positions.tolist(), 0)


@given(st.integers(1, 8), st.data())
def test_symbols_come_back(bits: int, data: st.DataObject) -> None:
    symbols = data.draw(arrays(np.uint8, st.integers(0, 70), elements=st.integers(0, 2**bits - 1)))
    packed = pack(symbols, bits)
    assert len(packed) == packed_bytes(len(symbols), bits)
    np.testing.assert_array_equal(unpack(memoryview(packed), len(symbols), bits), symbols)
    # A plain twin: all symbols as one long number in binary.
    text = "".join(f"{symbol:0{bits}b}" for symbol in symbols.tolist())
    text += "0" * (-len(text) % 8)
    assert packed == bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    coded = Entropy().encode(symbols, bits)
    assert len(coded) <= len(packed) + 1
    np.testing.assert_array_equal(Entropy().decode(Reader(coded), len(symbols), bits), symbols)


@given(st.integers(0, 2**32 - 1))
def test_counts_come_back(value: int) -> None:
    assert Reader(varint(value)).count(2**32) == value


def test_a_count_has_one_way_to_be_said() -> None:
    with pytest.raises(PeerError, match="a count was wanted"):
        Reader(b"\x85\x00").count(100)


def test_what_inflates_to_more_than_was_wanted_is_not_inflated() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"\x02" + deflater.compress(bytes(30_000_000)) + deflater.flush()
    tracemalloc.start()
    try:
        with pytest.raises(PeerError, match="100 bytes were wanted"):
            Entropy().decode(Reader(bomb), 100, 8)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Rotation -----------------------------------------------------------------------------------------


def test_hadamard_by_hand() -> None:
    got = hadamard(np.array([1, 2, 3, 4], np.float32))
    np.testing.assert_allclose(got, [5, -1, -2, 0])


@given(st.integers(1, 600), st.integers(0, 9))
def test_a_rotation_of_any_length_keeps_the_norm_and_turns_back(size: int, seed: int) -> None:
    x, setting = normal(size, seed), Setting(seed)
    turned = rotated(x, setting)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    np.testing.assert_allclose(unrotated(turned, setting), x, atol=2e-5)


@pytest.mark.parametrize("size", [1024, 1025, 1400, 1536, 1800, 2047])
def test_a_rotation_spreads_a_single_element(size: int) -> None:
    for place in np.linspace(0, size - 1, 12).astype(int):
        x = np.zeros(size, np.float32)
        x[place] = 1.0
        assert np.max(np.abs(rotated(x, Setting(3)))) < 5 * size**-0.5


# Eden ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_centroids_are_those_of_lloyd_and_max(bits: int) -> None:
    points = CENTROIDS[bits].astype(float)
    edges = [-math.inf, *((points[1:] + points[:-1]) / 2), math.inf]
    for point, low, high in zip(points, edges[:-1], edges[1:], strict=True):
        density = [math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
        mass = (math.erf(high / 2**0.5) - math.erf(low / 2**0.5)) / 2
        assert point == pytest.approx((density[0] - density[1]) / mass, abs=2e-6)


@pytest.mark.parametrize(("bits", "wanted"), [(1, 0.571), (2, 0.133), (3, 0.0358), (4, 0.0096)])
@pytest.mark.parametrize("size", [8192, 12_775])
def test_the_error_of_eden(bits: int, wanted: float, size: int) -> None:
    x = normal(size) * np.random.default_rng(1).exponential(1, size).astype(np.float32)
    x[: size // 10] *= 5  # a layer that changes more than the others
    errors = [error(through((Eden(bits=bits),), x, seed), x) for seed in range(8)]
    assert np.mean(errors) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_eden_with_feedback_has_the_least_error(bits: int) -> None:
    x, codec = normal(4096), Codec(stages=(Eden(bits=bits),), feedback=True)
    got = decode(codec, encode(codec, x, 5), len(x), 5)
    assert error(got, x) == pytest.approx([0.3634, 0.1175, 0.03455, 0.0095][bits - 1], rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_eden_of_nothing_and_of_one(bits: int) -> None:
    stages = (Eden(bits=bits),)
    assert not through(stages, np.zeros(9, np.float32)).any()
    one = np.array([-3.5], np.float32)
    np.testing.assert_allclose(through(stages, one), one, rtol=1e-6)


# On average right ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stages",
    [
        (Eden(bits=1),),
        (Eden(bits=2), Entropy()),
        (RandomK(share=0.25),),
        (Quantise(bits=2),),
        (Quantise(bits=4), Entropy()),
        (RandomK(share=0.5), Eden(bits=2)),
    ],
)
def test_the_mean_of_many_is_right(stages: tuple[AnyStage, ...]) -> None:
    x, times = normal(100), 500
    one = error(through(stages, x, 0), x)
    mean = np.mean([through(stages, x, seed) for seed in range(times)], axis=0)
    # The error of the mean of n independent, unbiased messages is that of one over n.
    assert error(mean.astype(np.float32), x) < 3 * one / times + 2e-6


def test_eden_is_unbiased_between_devices_too() -> None:
    xs = [normal(2048, seed) + 1 for seed in range(60)]
    truth = np.mean(xs, axis=0)
    got = np.mean([through((Eden(bits=1),), x, seed) for seed, x in enumerate(xs)], axis=0)
    norms = sum(float(np.sum(x**2.0)) for x in xs) / 60**2
    assert np.sum((got - truth) ** 2.0) == pytest.approx(0.571 * norms, rel=0.1)


# Bounds -------------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6, width=32)
vectors = arrays(np.float32, st.integers(1, 80), elements=finite)


@given(vectors)
def test_float16_is_right_to_a_part_in_2048(x: Vector) -> None:
    clipped = np.clip(x, -65504, 65504)
    got = through((Float16(),), x)
    assert np.all(np.abs(got - clipped) <= np.abs(clipped) * 2**-11 + 2**-25)


@given(vectors, st.integers(2, 8))
def test_quantise_is_right_to_one_step(x: Vector, bits: int) -> None:
    step = float(np.max(np.abs(x))) / (2 ** (bits - 1) - 1)
    assert np.all(np.abs(through((Quantise(bits=bits),), x) - x) <= step * 1.0001 + 1e-37)


@given(vectors, st.floats(0.01, 1))
def test_topk_keeps_the_largest(x: Vector, share: float) -> None:
    got = through((TopK(share=share),), x)
    kept = got != 0
    np.testing.assert_array_equal(got[kept], x[kept])
    count = max(1, round(share * len(x)))
    assert np.sum(kept) == min(count, np.sum(x != 0))
    lost = np.sum(np.sort(np.abs(x).astype(np.float64))[: len(x) - count])
    assert np.sum(np.abs(x - got).astype(np.float64)) == pytest.approx(lost, rel=1e-6)


def test_stc_by_hand() -> None:
    x = np.array([0.5, -4, 0.25, 0, 2, -0.125, 3, 1], np.float32)
    got = through((TopK(share=0.375), Ternary()), x)
    assert got.tolist() == [0, -3, 0, 0, 3, 0, 3, 0]


@given(vectors)
def test_ternary_without_topk_is_a_scaled_sign(x: Vector) -> None:
    mean = np.float32(np.mean(np.abs(x), dtype=np.float64))
    np.testing.assert_array_equal(through((Ternary(),), x), np.where(x > 0, mean, -mean))


def test_random_k_by_hand() -> None:
    x = np.arange(1, 9, dtype=np.float32)
    got = through((RandomK(share=0.5),), x)
    kept = np.flatnonzero(got)
    assert len(kept) == 4
    np.testing.assert_array_equal(got[kept], 2 * x[kept])
    codec = Codec(stages=(RandomK(share=0.5),), feedback=True)
    carried = decode(codec, encode(codec, x, 1), 8, 1)
    np.testing.assert_array_equal(np.flatnonzero(carried), kept)
    np.testing.assert_array_equal(carried[kept], x[kept])


def test_random_k_chooses_every_element_alike() -> None:
    x = np.ones(40, np.float32)
    hits = sum((through((RandomK(share=0.25),), x, seed) != 0).astype(int) for seed in range(2000))
    assert np.all(np.abs(np.asarray(hits) / 2000 - 0.25) < 0.05)


def test_low_rank_finds_what_is_of_low_rank() -> None:
    left, right, bias = normal(30, 1).reshape(10, 3), normal(60, 2).reshape(3, 20), normal(10, 3)
    x = np.concatenate([(left @ right).reshape(-1), bias])
    shapes = ((10, 4, 5), (10,))
    codec = Codec(stages=(LowRank(rank=3),))
    data = encode(codec, x, 4, shapes)
    assert len(data) == 4 * (3 * (10 + 20) + 10) == estimate(codec, len(x), shapes)
    np.testing.assert_allclose(decode(codec, data, len(x), 4, shapes), x, atol=1e-4)


def test_low_rank_comes_close_to_the_best_there_is() -> None:
    matrix = normal(40 * 60).reshape(40, 60)
    matrix[:, 0] *= 20
    values = np.linalg.svd(matrix, compute_uv=False) ** 2
    codec, x = Codec(stages=(LowRank(rank=2),)), matrix.reshape(-1)
    got = decode(codec, encode(codec, x, 4, ((40, 60),)), x.size, 4, ((40, 60),))
    assert error(got, x) < 1.2 * float(values[2:].sum() / values.sum())


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "ratio"), [(0.1, 56), (0.01, 351), (0.0025, 1152), (0.001, 2561)]
)
def test_stc_is_as_small_as_its_paper_says(share: float, ratio: float) -> None:
    size = 200_000
    codec = Codec(stages=(TopK(share=share), Ternary()), feedback=True)
    data = encode(codec, normal(size), 0)
    assert 4 * size / len(data) == pytest.approx(ratio, rel=0.1)
    assert len(data) == pytest.approx(estimate(codec, size), rel=0.01)
    assert 32 / (share * (golomb_bits(share) + 1)) == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize(
    ("stages", "bits"),
    [
        ((), 32.0),
        ((Float16(),), 16.0),
        ((Eden(bits=1),), 1.0),
        ((Eden(bits=3),), 3.0),
        ((Quantise(bits=5),), 5.0),
        ((RandomK(share=0.1), Eden(bits=4)), 0.4),
        ((TopK(share=0.1), Quantise(bits=4)), 0.1 * (golomb_bits(0.1) + 4)),
    ],
)
def test_sizes_are_what_the_stages_say(stages: tuple[AnyStage, ...], bits: float) -> None:
    size = 50_000
    codec, data = Codec(stages=stages), encode(Codec(stages=stages), normal(size), 0)
    assert len(data) == pytest.approx(bits * size / 8, rel=0.01)
    assert len(data) == pytest.approx(estimate(codec, size), rel=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_entropy_coding_of_eden_is_near_its_entropy(bits: int) -> None:
    codec = Codec(stages=(Eden(bits=bits), Entropy()))
    data = encode(codec, normal(65_536), 0)
    assert estimate(codec, 65_536) < len(data) < 1.015 * estimate(codec, 65_536)


def test_entropy_coding_of_even_levels_is_near_their_entropy() -> None:
    x = normal(50_000) * np.random.default_rng(1).exponential(1, 50_000).astype(np.float32)
    codec = Codec(stages=(Quantise(bits=6), Entropy()))
    symbols = Quantise(bits=6).quantise(x, Setting(0))[1]
    share = np.bincount(symbols)[np.bincount(symbols) > 0] / len(symbols)
    wanted = -float(np.sum(share * np.log2(share))) * len(x) / 8
    assert len(encode(codec, x, 0)) < 1.05 * wanted
    assert unpack_scale(memoryview(encode(codec, x, 0)[:4])) > 0
