"""The flat vector of a model and where each tensor lies in it.

Shared tensors come first, private ones last, so that the part that travels is always
`weights[: layout.shared_size]`.
"""

import math
from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

Vector = NDArray[np.float32]
"""A flat float32 vector; shape `[P]` unless said otherwise."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of a model: its name, shape, and whether it is shared with the fleet."""

    name: str
    shape: tuple[int, ...]
    shared: bool = True

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The tensors of a model in the order they lie in the flat vector."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise UsageError(
                f"layout names a tensor twice: {sorted(names)}; give each its own name"
            )
        flags = [tensor.shared for tensor in self.tensors]
        if flags != sorted(flags, reverse=True):
            raise UsageError(
                "layout has a private tensor before a shared one; put shared tensors first"
            )

    @cached_property
    def size(self) -> int:
        """P: elements of the whole vector, shared and private."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def shared_size(self) -> int:
        """Elements of the leading part that travels."""
        return sum(tensor.size for tensor in self.tensors if tensor.shared)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the flat vector."""
        out: dict[str, slice] = {}
        start = 0
        for tensor in self.tensors:
            out[tensor.name] = slice(start, start + tensor.size)
            start += tensor.size
        return out

    def flatten(self, tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
        """Tensors by name into one vector `[P]`.

        Raises:
            UsageError: a tensor is missing, unknown or of the wrong shape.
        """
        wanted = {tensor.name: tensor.shape for tensor in self.tensors}
        got = {name: tuple(array.shape) for name, array in tensors.items()}
        if got != wanted:
            raise UsageError(f"tensors do not fit the layout: got {got}, wanted {wanted}")
        if not self.tensors:
            return np.zeros(0, np.float32)
        parts = [np.asarray(tensors[t.name], np.float32).reshape(-1) for t in self.tensors]
        return np.concatenate(parts)

    def unflatten(self, vector: Vector) -> dict[str, NDArray[np.float32]]:
        """One vector `[P]` into views by tensor name.

        Raises:
            UsageError: the vector has another length than `size`.
        """
        if vector.shape != (self.size,):
            raise UsageError(f"vector has shape {vector.shape}, the layout wants ({self.size},)")
        return {t.name: vector[self.slices[t.name]].reshape(t.shape) for t in self.tensors}
