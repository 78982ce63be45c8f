"""A client's samples: what it learns from, or what it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """`x` f32 `[n, *shape]` as the model takes it and `y`: `[n]` int64 for classification,
    `[n, size]` f32 for regression, None for reconstruction. `weight [n]` f32: what each sample
    counts (None: 1).
    """

    x: NDArray[np.float32]
    y: NDArray[np.generic] | None
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Views(Sequence[Samples]):
    """Many clients' samples as rows of common arrays: client k's are the `counts[k]` rows of
    `whole` from `offsets[k]` on. Where a million clients are, nobody has to touch each one.
    """

    whole: Samples
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, place: int) -> Samples: ...
    @overload
    def __getitem__(self, place: slice | NDArray[np.int64]) -> Views: ...
    def __getitem__(self, place: int | slice | NDArray[np.int64]) -> Samples | Views:
        if not isinstance(place, int):
            return Views(self.whole, self.offsets[place], self.counts[place])
        start, whole = self.offsets[place], self.whole
        own = slice(start, start + self.counts[place])
        return Samples(
            whole.x[own],
            None if whole.y is None else whole.y[own],
            None if whole.weight is None else whole.weight[own],
        )


def sizes_of(clients: Sequence[Samples]) -> NDArray[np.int64]:
    """How many samples each of `clients` has, `[K]`."""
    if isinstance(clients, Views):
        return clients.counts
    return np.array([len(client.x) for client in clients], np.int64)
