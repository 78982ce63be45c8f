"""Narrower forms of one model, for devices that cannot afford the whole.

HeteroFL (Diao, Ding, Tarokh, 2021): every tensor of a narrow model is the leading block of the
whole model's tensor of that name, so that what it learns fits back in place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout

WIDTHS_MAX = 15
"""Most widths a bundle may have beside the whole model."""
_FILE = re.compile(r"(infer|train)\.0\.\d{1,4}\.onnx")


class Width(msgspec.Struct, frozen=True, kw_only=True):
    """One narrower form: its `width`, a share of the whole model's channels, and its tensors."""

    width: float
    layout: Layout


@dataclass(frozen=True)
class Submodel:
    """The tensors of a narrow form, and where each of its P' elements lies in the whole, `[P']`."""

    layout: Layout
    index: NDArray[np.int64]

    @property
    def shared_index(self) -> NDArray[np.int64]:
        """Where the elements that travel lie among those of the whole that do, `[S']`."""
        index: NDArray[np.int64] = self.index[: self.layout.shared_size]
        return index


def file_of(kind: str, width: float) -> str:
    """`train.0.5.onnx` for `("train", 0.5)`."""
    return f"{kind}.{width:.4g}.onnx"


def is_width_file(name: str) -> bool:
    """Whether a bundle may hold a file of that name as a graph of some width."""
    return _FILE.fullmatch(name) is not None


def leading_blocks(whole: Layout, narrow: Layout) -> Submodel:
    """Where the tensors of `narrow` lie in `whole`.

    Raises:
        UsageError: the tensors are others, or one is no leading block.
    """
    names = [(tensor.name, tensor.shared) for tensor in whole.tensors]
    got = [(tensor.name, tensor.shared) for tensor in narrow.tensors]
    if got != names:
        raise UsageError(f"a narrow model has the tensors {got}, the whole one {names}")
    parts = [np.zeros(0, np.int64)]
    for tensor, block in zip(whole.tensors, narrow.tensors, strict=True):
        fits = len(block.shape) == len(tensor.shape) and all(
            0 < small <= large for small, large in zip(block.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"tensor {tensor.name!r} is {block.shape} in a narrow model and {tensor.shape} in "
                "the whole one; wanted a leading block of it"
            )
        places = np.arange(tensor.size).reshape(tensor.shape)
        corner = places[tuple(slice(size) for size in block.shape)]
        parts.append(corner.reshape(-1) + whole.slices[tensor.name].start)
    return Submodel(narrow, np.concatenate(parts).astype(np.int64))


def widest(sizes: Sequence[int], capacity: float) -> int:
    """Which of the widths of `sizes` parameters, the whole model first, a device takes that can
    afford `capacity` of the whole (1: all of it): the largest that fits, or else the smallest.
    """
    fitting = [place for place, size in enumerate(sizes) if size <= capacity * sizes[0]]
    candidates = fitting or range(len(sizes))
    return (max if fitting else min)(candidates, key=lambda place: sizes[place])
