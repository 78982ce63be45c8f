"""Updates as payloads, terms, sums by group and the next model: against plain arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import FIGURE_MAX, Algorithm, Weighting
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedrep import FedRep
from hedgerow.algorithms.ifca import Ifca
from hedgerow.algorithms.resource_aware import ResourceAware
from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.layout import Layout, TensorSpec, Vector
from hedgerow.model.widths import leading_blocks
from hedgerow.protocol.learning import Form, Shape, Sums, fitted, named, next_server, seed_of
from hedgerow.protocol.patching import apply_patches, make_patch
from hedgerow.seal.codec import Codec
from hedgerow.seal.quantise import Quantise
from hedgerow.seal.topk import TopK

LAYOUT = Layout(
    (
        TensorSpec("body.weight", (2, 2)),
        TensorSpec("head.weight", (2,)),
        TensorSpec("own", (3,), shared=False),
    )
)
S = 6
HALF = Codec(stages=(TopK(share=0.5),), feedback=True)


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


DELTA = vector(1, -2, 3, -4, 5, -6)


def test_float32_is_the_vector_itself() -> None:
    form = Form.of(FedAvg(), LAYOUT)
    payloads, lost = form.encode({"delta": DELTA}, Codec(), 7, "ana", {})
    assert payloads == (DELTA.tobytes(),)
    assert lost == {}
    np.testing.assert_array_equal(form.decode(payloads, Codec(), 7, "ana")[0], DELTA)


def test_what_a_codec_lost_comes_with_the_next_payload() -> None:
    form = Form.of(FedAvg(), LAYOUT)
    first, lost = form.encode({"delta": DELTA}, HALF, 7, "ana", {})
    (came,) = form.decode(first, HALF, 7, "ana")
    np.testing.assert_array_equal(came, vector(0, 0, 0, -4, 5, -6))
    np.testing.assert_array_equal(lost["delta"], vector(1, -2, 3, 0, 0, 0))
    second, _ = form.encode({"delta": np.zeros(S, np.float32)}, HALF, 8, "ana", lost)
    np.testing.assert_array_equal(form.decode(second, HALF, 8, "ana")[0], vector(1, -2, 3, 0, 0, 0))


def test_only_what_travels_travels() -> None:
    form = Form.of(FedRep(private=("head",)), LAYOUT)
    assert form.size == 4
    assert form.shapes == ((2, 2),)
    payloads, _ = form.encode({"delta": DELTA}, Codec(), 7, "ana", {})
    assert payloads == (DELTA[:4].tobytes(),)


@pytest.mark.parametrize(
    ("payloads", "reason"),
    [
        ((DELTA.tobytes(),), "wrong_shape"),
        ((DELTA.tobytes(),) * 3, "wrong_shape"),
        ((DELTA.tobytes(), b""), "bad_payload"),
        ((DELTA.tobytes(), vector(*[np.inf] * S).tobytes()), "bad_payload"),
    ],
)
def test_payloads_that_are_none_are_named(payloads: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(PeerError) as caught:
        Form.of(Scaffold(), LAYOUT).decode(payloads, Codec(), 7, "ana")
    assert caught.value.reason == reason


def test_figures_are_bounded() -> None:
    class Counting(FedAvg, frozen=True, kw_only=True, tag="counting"):
        figures = ("steps",)

    shape = Shape(Counting(weighting=Weighting(by="equal")), LAYOUT)
    term, weight = shape.term_of([DELTA], [512.0], 10, 0, np.nan)
    assert weight == 1 << 32
    assert term[-1] == 1 << 31  # in units of 1,024
    assert len(term) == S + 1
    for figures, reason in (
        ([], "wrong_shape"),
        ([1.0, 2.0], "wrong_shape"),
        ([np.nan], "not_finite"),
        ([-FIGURE_MAX - 1], "out_of_range"),
    ):
        with pytest.raises(PeerError) as caught:
            shape.term_of([DELTA], figures, 10, 0, np.nan)
        assert caught.value.reason == reason


def test_groups_have_sums_of_their_own() -> None:
    algorithm = Ifca(count=3, weighting=Weighting(by="equal"), warmup=0)
    shape, sums = Shape(algorithm, LAYOUT), Sums()
    server = algorithm.begin(np.zeros(S, np.float32))
    for group, times in ((2, 1.0), (2, 3.0), (0, 5.0)):
        term, weight = shape.term_of([times * DELTA], [], 10, 0, np.nan)
        sums.add(term, weight, group)
    assert sums.terms == 3
    assert sums.groups.keys() == {0, 2}
    sums.groups[1] = ExactSum(S)  # every update of this group was left out as not finite
    after = next_server(shape, server, sums, 5)
    moved = after.model["clusters"] - server.model["clusters"]
    np.testing.assert_allclose(moved, np.stack([5 * DELTA, 0 * DELTA, 2 * DELTA]), atol=1e-6)
    with pytest.raises(PeerError, match="group 3 came of 3"):
        shape.form(3)


def test_widths_are_groups_of_other_sizes() -> None:
    narrow = Layout(
        (
            TensorSpec("body.weight", (1, 2)),
            TensorSpec("head.weight", (1,)),
            TensorSpec("own", (1,), shared=False),
        )
    )
    algorithm = ResourceAware(widths=2, weighting=Weighting(by="equal"))
    shape, sums = Shape(algorithm, LAYOUT, [leading_blocks(LAYOUT, narrow)]), Sums()
    assert (shape.form(0).size, shape.form(1).size) == (6, 3)
    for group, values in ((0, DELTA), (1, vector(3, 4, 7))):
        sums.add(*shape.term_of([values], [], 10, 0, np.nan), group)
    after = next_server(shape, algorithm.begin(np.zeros(S, np.float32)), sums, 2)
    np.testing.assert_allclose(after.weights, vector(2, 1, 3, -4, 6, -6))


def test_a_round_of_nobody_is_refused() -> None:
    algorithm = FedAvg()
    with pytest.raises(UsageError, match="without updates"):
        next_server(Shape(algorithm, LAYOUT), algorithm.begin(DELTA), Sums(), 5)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 8))
def test_neither_order_nor_workers_change_a_bit(order: list[int], cut: int) -> None:
    algorithm = Ifca(count=2)
    shape, rng = Shape(algorithm, LAYOUT), np.random.default_rng(1)
    terms = [
        (*shape.term_of([rng.normal(size=S).astype(np.float32)], [], n + 1, n, 0.5), n % 2)
        for n in range(8)
    ]
    whole, one, other = Sums(), Sums(), Sums()
    for term in terms:
        whole.add(*term)
    for place in order[:cut]:
        one.add(*terms[place])
    for place in order[cut:]:
        other.add(*terms[place])
    one.merge(other)
    assert one.digest() == whole.digest()


def test_a_state_goes_on_where_it_fits() -> None:
    server = Scaffold().begin(DELTA)
    server.kept["velocity"][:] = 4
    assert set(named(server)) == {"model/weights", "model/control", "kept/velocity"}
    again = fitted(Scaffold(), DELTA, named(server))
    np.testing.assert_array_equal(again.kept["velocity"], np.full(S, 4))
    other = fitted(FedAvg(), DELTA, {**named(server), "kept/velocity": np.ones(2, np.float32)})
    assert set(other.model) == {"weights"}
    np.testing.assert_array_equal(other.kept["velocity"], np.zeros(S))  # another shape


def test_seeds_differ_by_name_and_fit_the_wire() -> None:
    found = {seed_of(1, "up", "ana", "delta"), seed_of(1, "up", "ben", "delta"), seed_of(2)}
    assert len(found) == 3
    assert all(0 <= seed <= 2**53 for seed in found)


# Patches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold(), Ifca(count=3)])
def test_patches_make_the_same_bits_on_both_ends(algorithm: Algorithm) -> None:
    codec = Codec(stages=(Quantise(bits=4),), feedback=True)
    rng, rows = np.random.default_rng(2), 1 + sum(algorithm.brings.values())
    held = start = rng.normal(size=rows * S).astype(np.float32)
    wanted, patches = held, []
    for version in (4, 5, 6):
        wanted = wanted + 0.1 * rng.normal(size=rows * S).astype(np.float32)
        data, held = make_patch(codec, 9, version, held, wanted, LAYOUT)
        patches.append(data)
    np.testing.assert_allclose(held, wanted, atol=0.1)
    assert apply_patches(codec, 9, 3, start, patches, LAYOUT).tobytes() == held.tobytes()


def test_a_vector_that_stays_costs_nothing() -> None:
    held = np.arange(2 * S, dtype=np.float32)
    wanted = held.copy()
    wanted[0] += 1
    data, after = make_patch(Codec(), 1, 2, held, wanted, LAYOUT)
    assert len(data) < 4 * S + 8
    np.testing.assert_array_equal(after, wanted)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x92\xc4\x00\xc4\x00", b"\x91\xc4\x01a"])
def test_a_patch_that_is_none_is_named(data: bytes) -> None:
    with pytest.raises(PeerError, match="bad_payload"):
        apply_patches(Codec(), 1, 1, DELTA, [data], LAYOUT)
