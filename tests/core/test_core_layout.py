"""Layouts: where tensors lie in the flat vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec

LAYOUT = Layout(
    tensors=(
        TensorSpec("kernel", (2, 3)),
        TensorSpec("scale", ()),
        TensorSpec("bias", (3,), shared=False),
    )
)

shapes = st.lists(
    st.tuples(st.lists(st.integers(0, 4), max_size=3).map(tuple), st.booleans()), max_size=6
)


def test_shared_tensors_come_first() -> None:
    assert (LAYOUT.size, LAYOUT.shared_size) == (10, 7)
    assert LAYOUT.slices == {"kernel": slice(0, 6), "scale": slice(6, 7), "bias": slice(7, 10)}


def test_tensors_are_views_of_the_vector() -> None:
    vector = np.arange(10, dtype=np.float32)
    tensors = LAYOUT.unflatten(vector)
    assert tensors["kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["bias"].tolist() == [7, 8, 9]
    tensors["scale"][...] = -1
    assert vector[6] == -1


@given(shapes)
def test_flatten_and_unflatten_are_inverse(
    given_shapes: list[tuple[tuple[int, ...], bool]],
) -> None:
    ordered = sorted(given_shapes, key=lambda item: not item[1])
    specs = [TensorSpec(str(i), shape, shared) for i, (shape, shared) in enumerate(ordered)]
    layout = Layout(tensors=tuple(specs))
    vector = np.arange(layout.size, dtype=np.float32)
    again = layout.flatten(layout.unflatten(vector))
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, vector)
    shared = [spec.size for spec in specs if spec.shared]
    assert layout.shared_size == sum(shared)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match=r"shape \(9,\), the layout wants \(10,\)"):
        LAYOUT.unflatten(np.zeros(9, np.float32))
    tensors = LAYOUT.unflatten(np.zeros(10, np.float32))
    with pytest.raises(UsageError, match="do not fit the layout"):
        LAYOUT.flatten({**tensors, "bias": np.zeros(4, np.float32)})
    del tensors["bias"]
    with pytest.raises(UsageError, match="do not fit the layout"):
        LAYOUT.flatten(tensors)


def test_a_layout_has_an_order_and_names() -> None:
    with pytest.raises(UsageError, match="private tensor before a shared one"):
        Layout(tensors=(TensorSpec("a", (1,), shared=False), TensorSpec("b", (1,))))
    with pytest.raises(UsageError, match="names a tensor twice"):
        Layout(tensors=(TensorSpec("a", (1,)), TensorSpec("a", (2,))))
