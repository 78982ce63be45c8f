"""Between an algorithm's vectors and the integers that are summed.

One update is one vector: the elements that travel of each of `Algorithm.sends`, one after the
other, then the figures in units of 1,024. Weighting comes before the fixed point, so the sum
(`hedgerow.aggregate.mean`) never sees what the parts mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import Algorithm, Mean, Server
from hedgerow.core.fixed import ONE
from hedgerow.core.layout import Layout, Vector
from hedgerow.model.widths import Submodel

FIGURE_UNIT = 1024.0


def travelling(algorithm: Algorithm, layout: Layout) -> int:
    """Elements of each vector that travel."""
    mask = algorithm.travels(layout)
    return layout.shared_size if mask is None else int(mask.sum())


def term_size(algorithm: Algorithm, layout: Layout) -> int:
    """Elements of one update as it is summed."""
    return len(algorithm.sends) * travelling(algorithm, layout) + len(algorithm.figures)


def joined(
    vectors: Sequence[NDArray[np.float32]], figures: Sequence[NDArray[np.float64] | float]
) -> NDArray[np.float32]:
    """Vectors `[…, n]`, of the elements that travel only, and figures `[…]` as one `[…, m]`."""
    if not figures:
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, -1)
    tail = np.stack([np.asarray(figure, np.float64) for figure in figures], -1) / FIGURE_UNIT
    return np.concatenate([*vectors, tail.astype(np.float32)], -1)


def mean_in_group(
    algorithm: Algorithm, layout: Layout, total: ExactSum, part: Submodel | None = None
) -> Mean:
    """What one group's sum means to the algorithm; `layout` is the whole model's.

    A group that trains a `part` of the model has sums of that part's size (`term_size` of its
    layout). Its mean has 0 elsewhere, and `covers` says where.
    """
    if part is not None:
        return _spread(mean_in_group(algorithm, part.layout, total), part, layout.shared_size)
    flat, size = total.mean(), travelling(algorithm, layout)
    mask = algorithm.travels(layout)
    vectors: dict[str, Vector] = {}
    for place, name in enumerate(algorithm.sends):
        vector = flat[place * size : (place + 1) * size]
        if mask is not None:
            vector, narrow = np.zeros(layout.shared_size, np.float32), vector
            vector[mask] = narrow
        vectors[name] = vector
    tail = flat[len(algorithm.sends) * size :].astype(np.float64) * FIGURE_UNIT
    figures = dict(zip(algorithm.figures, tail.tolist(), strict=True))
    return Mean(vectors, figures, total.weight_total / ONE, total.terms)


def _spread(mean: Mean, part: Submodel, size: int) -> Mean:
    covers = np.zeros(size, np.bool_)
    covers[part.shared_index] = True
    vectors: dict[str, Vector] = {}
    for name, narrow in mean.vectors.items():
        vectors[name] = np.zeros(size, np.float32)
        vectors[name][part.shared_index] = narrow
    return replace(mean, vectors=vectors, covers=covers)


def pack_model(server: Server) -> Vector:
    """All that devices download as one vector, weights first."""
    return np.concatenate([part.reshape(-1) for part in server.model.values()])


def unpack_model(
    algorithm: Algorithm, data: Vector, size: int
) -> Mapping[str, NDArray[np.float32]]:
    """What `pack_model` made: `weights` `[S]` and what the algorithm brings.

    Raises:
        ValueError: `data` has another length than the algorithm's model.
    """
    wanted = size * (1 + sum(algorithm.brings.values()))
    if data.shape != (wanted,):
        raise ValueError(f"a model of {data.size} numbers came, {wanted} were wanted")
    model, start = {"weights": data[:size]}, size
    for name, rows in algorithm.brings.items():
        part = data[start : start + rows * size]
        model[name] = part.reshape(rows, size) if rows > 1 else part
        start += rows * size
    return model
