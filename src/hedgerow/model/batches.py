"""Which samples each client takes in which step, and their way into the graph's buffers.

A client's order depends on its key alone. Clients with equally many samples step through them in
the same way, so they form a block that is drawn and gathered in a few calls however many they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.streams import Keys, permutations, subkeys
from hedgerow.model.samples import Samples, Views

JOIN_BYTES_MAX = 16 * 1024
"""A batch of one client that is larger is gathered by itself: copying it into a common array first
would cost more than the calls it saves."""

_DRAWN_MAX = 1 << 19
"""Numbers that the orders of one block's clients take in all epochs."""


def batch_of(samples: int, batch: int) -> int:
    """The graph's B for a client: its samples if a batch is not full, rounded up a little, so that
    few different sizes occur. It depends on no other client, as the last bits of a step do on it.
    """
    if samples >= batch:
        return batch
    grain = max(1, 1 << max(0, samples.bit_length() - 3))
    return min(batch, -(-samples // grain) * grain)


def steps_of(samples: int, batch: int, epochs: float) -> int:
    """Steps in `epochs` passes over a client's samples."""
    size = min(batch, samples)
    full, rest = divmod(round(epochs * samples), samples)
    return full * -(-samples // size) + -(-rest // size)


class Block:
    """Clients with equally many samples, which take the same batches: some rows of the buffers."""

    def __init__(
        self, source: Views, keys: Keys, low: int, samples: int, batch: int, epochs: float
    ) -> None:
        """They are rows from `low` on."""
        self.source = source
        self.low, self.high = low, low + len(keys)
        self.steps = steps_of(samples, batch, epochs)
        self._keys = keys
        self._samples = samples
        self._size = min(batch, samples)
        self._total = round(epochs * samples)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def rows(self, step: int, low: int, high: int) -> NDArray[np.int64]:
        """Rows of the source for a step of the clients from row `low` to `high`, `[m, count]`."""
        first, last = self._span(step)
        epoch, start = divmod(first, self._samples)
        order = self._orders.get(epoch)
        if order is None:
            if high - low == self.high - self.low:
                self._orders.clear()  # all of them go on together
            order = permutations(subkeys(self._keys, epoch), self._samples)
            order += self.source.offsets[:, None]
            self._orders[epoch] = order
        return order[low - self.low : high - self.low, start : start + last - first]

    def seen(self, steps: int) -> int:
        """How many samples a client has seen after so many steps."""
        return self._span(steps)[0]

    def _span(self, step: int) -> tuple[int, int]:
        """Where among all the samples it sees those of a step begin and end."""
        epoch, place = divmod(step, -(-self._samples // self._size))
        begun = epoch * self._samples
        first = min(begun + place * self._size, self._total)
        return first, min(first + self._size, begun + self._samples, self._total)


class Cut(NamedTuple):
    """Some clients of a block, who are rows `low` to `high` of the buffers now."""

    block: Block
    low: int
    high: int
    begins: int
    """The row that is row 0 now."""

    def rows(self, step: int) -> NDArray[np.int64]:
        """Rows of the source for a step, `[m, count]`."""
        return self.block.rows(step, self.low + self.begins, self.high + self.begins)


def cuts_of(blocks: Sequence[Block], low: int, high: int) -> list[Cut]:
    """What of `blocks`, which are in order, lies in the rows from `low` to `high`."""
    return [
        Cut(block, max(block.low, low) - low, min(block.high, high) - low, low)
        for block in blocks
        if block.low < high and block.high > low
    ]


def blocks_of(
    clients: Sequence[Samples],
    sizes: NDArray[np.int64],
    keys: Keys,
    batch: int,
    epochs: float,
    row_bytes: int,
    kind: np.dtype[np.generic],
) -> list[Block]:
    """Blocks of `clients`, which are sorted by their number of samples, `sizes`; `row_bytes` each;
    their targets as `kind`, the graph's type.
    """
    blocks: list[Block] = []
    edges = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    for start, high in pairwise(edges):
        samples, low = int(sizes[start]), start
        joins = row_bytes * min(batch, samples) <= JOIN_BYTES_MAX
        most = max(1, _DRAWN_MAX // (samples * max(1, math.ceil(epochs))))
        for source in _sources(clients[start:high], joins, kind):
            for first in range(0, len(source), most):
                part = source[first : first + most] if len(source) > most else source
                own = keys[low : low + len(part)]
                blocks.append(Block(part, own, low, samples, batch, epochs))
                low += len(part)
    return blocks


def _sources(group: Sequence[Samples], joins: bool, kind: np.dtype[np.generic]) -> Sequence[Views]:
    """Where equally many samples each of some clients lie, in order."""
    if isinstance(group, Views) and (group.whole.y is None or group.whole.y.dtype == kind):
        return [group]
    if len(group) == 1 or not joins:
        return [_joined([client], kind) for client in group]
    return [_joined(group, kind)]


def _joined(group: Sequence[Samples], kind: np.dtype[np.generic]) -> Views:
    """Clients' samples in common arrays; those of one client where they are, if they lie well."""
    x = np.concatenate([client.x for client in group]) if len(group) > 1 else group[0].x
    y = weight = None
    if any(client.y is not None for client in group):
        y = np.concatenate([_targets(client, kind) for client in group])
    if any(client.weight is not None for client in group):
        weight = np.concatenate([_weights(client) for client in group])
    count = len(group[0].x)
    offsets = np.arange(len(group), dtype=np.int64) * count
    return Views(Samples(np.ascontiguousarray(x), y, weight), offsets, np.full(len(group), count))


def _targets(client: Samples, kind: np.dtype[np.generic]) -> NDArray[np.generic]:
    return client.x if client.y is None else client.y.astype(kind, copy=False)


def _weights(client: Samples) -> NDArray[np.float32]:
    return np.ones(len(client.x), np.float32) if client.weight is None else client.weight
