"""Narrow forms lie in the whole as leading blocks."""

import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.model.widths import file_of, is_width_file, leading_blocks, widest


def layout(*shapes: tuple[int, ...], private: int = 0) -> Layout:
    count = len(shapes)
    return Layout(
        tuple(TensorSpec(f"t{i}", shape, i < count - private) for i, shape in enumerate(shapes))
    )


def test_a_block_of_each_dimension() -> None:
    whole, narrow = layout((2, 3, 2), (4,), private=1), layout((1, 2, 2), (3,), private=1)
    part = leading_blocks(whole, narrow)
    assert part.index.tolist() == [0, 1, 2, 3, 12, 13, 14]
    assert part.shared_index.tolist() == [0, 1, 2, 3]
    tensors = whole.unflatten(np.arange(16, dtype=np.float32))
    blocks = narrow.unflatten(np.arange(16, dtype=np.float32)[part.index])
    assert np.array_equal(blocks["t0"], tensors["t0"][:1, :2])


def test_the_whole_is_a_block_of_itself() -> None:
    whole = layout((2, 3), (5,))
    assert leading_blocks(whole, whole).index.tolist() == list(range(11))


@pytest.mark.parametrize(
    "narrow",
    [layout((2, 4)), layout((2,)), layout((0, 3)), layout((2, 3), (1,)), layout((2, 3), private=1)],
)
def test_what_is_no_block_is_refused(narrow: Layout) -> None:
    with pytest.raises(UsageError):
        leading_blocks(layout((2, 3)), narrow)


@pytest.mark.parametrize(
    ("capacity", "number"), [(2.0, 0), (1.0, 0), (0.99, 1), (0.4, 1), (0.39, 2), (0.0, 2)]
)
def test_a_device_takes_the_widest_it_can_afford(capacity: float, number: int) -> None:
    assert widest([100, 40, 10], capacity) == number


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("train.0.5.onnx", True),
        ("infer.0.0625.onnx", True),
        ("train.1.onnx", False),
        ("train.0.12345.onnx", False),
        ("other.0.5.onnx", False),
        ("../train.0.5.onnx", False),
        ("train.0.5.onnx\n", False),
    ],
)
def test_names_of_their_files(name: str, fits: bool) -> None:
    assert is_width_file(name) == fits
    assert file_of("train", 0.5) == "train.0.5.onnx"
