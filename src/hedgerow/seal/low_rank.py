"""Each matrix of the model as a product of two thin ones.

PowerSGD: practical low-rank gradient compression for distributed optimization (Vogels, Karimireddy,
Jaggi, 2019): subspace iteration from a random start, here two turns of it, with singular values
shared evenly between the two factors so that one scale fits both. Tensors of one dimension, and
matrices too small to gain, travel whole.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.seal.stage import Opened, Reader, Setting, Shapes, Shrinker, Shrunk

TURNS = 2


class LowRank(Shrinker, frozen=True, tag="low_rank"):
    """Settings: the `rank` of the product."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2

    def shrink(self, vector: Vector, setting: Setting) -> Shrunk:
        """Left factors by columns, right factors by columns, tensor after tensor."""
        parts: list[Vector] = []
        start = 0
        for index, (rows, columns, rank) in enumerate(self._matrices(len(vector), setting.shapes)):
            tensor = vector[start : start + rows * columns]
            start += rows * columns
            if rank == 0:
                parts.append(tensor)
                continue
            words = setting.raw(f"low_rank {index}", rank * columns)
            left, right = factors(tensor.reshape(rows, columns), rank, words)
            parts += [left.T.reshape(-1), right.T.reshape(-1)]
        opened = self.open(Reader(b""), len(vector), setting)
        return Shrunk(np.concatenate(parts), b"", opened.restore)

    def open(self, reader: Reader, size: int, setting: Setting) -> Opened:
        """Multiplies out, one column of each factor at a time."""
        matrices = self._matrices(size, setting.shapes)

        def restore(short: Vector) -> Vector:
            out = np.zeros(size, np.float32)
            start = taken = 0
            for rows, columns, rank in matrices:
                place = out[start : start + rows * columns]
                start += rows * columns
                if rank == 0:
                    place[:] = short[taken : taken + len(place)]
                    taken += len(place)
                    continue
                left = short[taken : taken + rank * rows].reshape(rank, rows)
                taken += left.size
                right = short[taken : taken + rank * columns].reshape(rank, columns)
                taken += right.size
                matrix = place.reshape(rows, columns)
                for one, other in zip(left, right, strict=True):  # no BLAS: the same bits anywhere
                    matrix += one[:, None] * other[None, :]
            return out

        return Opened(self.estimate(size, setting.shapes)[0], restore)

    def estimate(self, size: int, shapes: Shapes) -> tuple[int, float]:
        """The two factors of every matrix."""
        sizes = (
            rank * (rows + columns) if rank else rows * columns
            for rows, columns, rank in self._matrices(size, shapes)
        )
        return sum(sizes), 0.0

    def _matrices(self, size: int, shapes: Shapes) -> list[tuple[int, int, int]]:
        """Rows, columns and rank of each tensor; rank 0: it travels whole."""
        if sum(math.prod(shape) for shape in shapes) != size:
            raise UsageError(
                f"low_rank was given shapes {[*shapes]} for {size} elements; give the shape of "
                "every tensor of the vector, in order"
            )
        out = []
        for shape in shapes:
            rows = shape[0] if shape else 1
            columns = math.prod(shape[1:])
            gains = self.rank * (rows + columns) < rows * columns
            out.append((rows, columns, self.rank if gains else 0))
        return out


def factors(
    matrix: NDArray[np.float32], rank: int, words: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Thin `left [rows, rank]` and `right [columns, rank]` with `left @ right.T ≈ matrix`."""
    wide = matrix.astype(np.float64)
    start = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    right = start.reshape(matrix.shape[1], rank)
    for _ in range(TURNS):
        left = np.linalg.qr(wide @ right)[0]
        right = wide.T @ left
    norms = np.sqrt(np.linalg.norm(right, axis=0))
    safe = np.where(norms > 0, norms, 1.0)
    return (left * norms).astype(np.float32), (right / safe).astype(np.float32)
