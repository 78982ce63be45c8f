"""The data of a simulated fleet: each client's samples, seen cheaply and only when asked for.

`FederatedData` is all that the engine wants. `ArrayData` is the usual one: a few large arrays and
a `Partition`. The others wrap a `FederatedData`: `Subset` (some of the clients), `Repeated` (more
clients than there are), `FeatureSkew` (every client's sensor differs), `LabelDrift` and
`FeatureDrift` (what a client sees moves with the round).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.model.samples import Samples, Views
from hedgerow.sim.partition import Partition


class FederatedData(Protocol):
    """Many clients' data. Everything is the same however often and in whatever order it is asked.

    Safe to read from several threads at once.
    """

    @property
    def counts(self) -> NDArray[np.int64]:
        """Training samples of each client, `[clients]`."""

    @property
    def test(self) -> Samples | None:
        """Test data of no client's in particular, where there is some."""

    @property
    def names(self) -> Sequence[str] | None:
        """What the clients are called, where they have names."""

    @property
    def classes(self) -> int:
        """How many labels there are; 0 where `y` is no label."""

    def __len__(self) -> int:
        """How many clients there are."""

    def samples(self, client: int, round: int = 0) -> Samples:
        """What `client` (0 to `len − 1`) learns from in `round`. Not to be written to."""

    def held_out(self, client: int) -> Samples | None:
        """What the client's own model is measured on, where there is something."""


@runtime_checkable
class Viewed(Protocol):
    """Data that can give many clients' samples at once, which is faster."""

    def views(self, clients: NDArray[np.int64], round: int = 0) -> Views:
        """What `clients [K]` learn from in `round`, in order."""


class ArrayData:
    """Arrays and who holds which of their rows.

        x, y = np.load("x.npy"), np.load("y.npy")        # [n, *shape] float32, [n] int64
        data = ArrayData(x, y, dirichlet(y, 100, rng, alpha=0.1), test=Samples(x_test, y_test))

    The rows are put in the clients' order once, so that a client's samples are a view.
    """

    def __init__(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.generic] | None,
        partition: Partition | Sequence[NDArray[np.int64]],
        *,
        test: Samples | None = None,
        held_out: tuple[Samples, Partition] | None = None,
        names: Sequence[str] | None = None,
        classes: int | None = None,
        weight: NDArray[np.float32] | None = None,
    ) -> None:
        """Take `x [n, *shape]` f32, `y [n]` int64 labels or `[n, size]` f32 values, or None.

        `partition` says which rows each client holds; a list of arrays of row numbers will do.
        `held_out` is another set of samples and who is measured on which rows of it. `classes` is
        the number of labels (None: one more than the largest). `weight [n]`: what samples count.

        Raises:
            UsageError: the shapes, types or row numbers do not go together.
        """
        if not isinstance(partition, Partition):
            partition = Partition.of(partition)
        whole = Samples(x, y, weight)
        _check(whole, partition, "the training data")
        if held_out is not None:
            _check(*held_out, "the held-out data")
            if len(held_out[1]) != len(partition):
                raise UsageError(
                    f"held-out rows are for {len(held_out[1])} clients, training rows for "
                    f"{len(partition)}; wanted one for each client"
                )
        if names is not None and len(names) != len(partition):
            raise UsageError(f"{len(names)} names for {len(partition)} clients; wanted one each")
        order = partition.order
        in_order = len(order) == len(x) and bool(np.all(order == np.arange(len(order))))
        self._all = whole if in_order else rows_of(whole, order)
        self._offsets = partition.offsets
        self._held_out = held_out
        self.counts: NDArray[np.int64] = partition.counts
        self.counts.flags.writeable = False
        self.test = test
        self.names = names
        self.classes = _classes(y) if classes is None else classes

    def __len__(self) -> int:
        return len(self.counts)

    def samples(self, client: int, round: int = 0) -> Samples:
        """The client's rows, as views; the same in every round."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client}; wanted 0 to {len(self) - 1}")
        return self.views(np.array([client]))[0]

    def views(self, clients: NDArray[np.int64], round: int = 0) -> Views:
        """Several clients' rows at once."""
        return Views(self._all, self._offsets[clients], self.counts[clients])

    def held_out(self, client: int) -> Samples | None:
        """The client's own held-out rows (a copy), or None where it has none."""
        if self._held_out is None:
            return None
        held, partition = self._held_out
        own = partition[client]
        return rows_of(held, own) if len(own) else None


class Subset:
    """Some clients of another data set, in the order given; its test data stays as it is."""

    def __init__(self, data: FederatedData, clients: Sequence[int]) -> None:
        """Raises UsageError for a client that is not there."""
        wrong = [client for client in clients if not 0 <= client < len(data)]
        if wrong:
            raise UsageError(f"no client {wrong[0]}; wanted 0 to {len(data) - 1}")
        self._data = data
        self._clients = np.array(clients, np.int64)
        self.counts: NDArray[np.int64] = data.counts[self._clients]
        self.names = None if data.names is None else [data.names[client] for client in clients]
        self.test = data.test
        self.classes = data.classes

    def __len__(self) -> int:
        return len(self._clients)

    def samples(self, client: int, round: int = 0) -> Samples:
        """As the wrapped client's."""
        return self._data.samples(int(self._clients[client]), round)

    def held_out(self, client: int) -> Samples | None:
        """As the wrapped client's."""
        return self._data.held_out(int(self._clients[client]))


class Repeated:
    """`clients` clients out of fewer: client k holds what client `k mod len(data)` does.

    For a fleet's size rather than its accuracy; memory is 8 bytes a client.
    """

    def __init__(self, data: FederatedData, clients: int) -> None:
        """Raises UsageError when there is nobody to repeat."""
        if len(data) < 1 or clients < 1:
            raise UsageError(f"{clients} clients out of {len(data)}; wanted at least one of each")
        self._data = data
        self.counts: NDArray[np.int64] = np.resize(data.counts, clients)
        self.names = None
        self.test = data.test
        self.classes = data.classes

    def __len__(self) -> int:
        return len(self.counts)

    def samples(self, client: int, round: int = 0) -> Samples:
        """As those of the one that is repeated."""
        return self._data.samples(client % len(self._data), round)

    def held_out(self, client: int) -> Samples | None:
        """As those of the one that is repeated."""
        return self._data.held_out(client % len(self._data))


def pooled(data: FederatedData, clients: Sequence[int] | None = None) -> Samples:
    """All training samples in one place, in order of clients: what a federation is held against."""
    everybody = range(len(data)) if clients is None else clients
    parts = [data.samples(client) for client in everybody]
    return joined(parts)


def joined(parts: Sequence[Samples]) -> Samples:
    """Several samples as one, in order. Weights count as 1 where a part has none."""
    if not parts:
        raise UsageError("nothing to join; wanted at least one client's samples")
    x = np.concatenate([part.x for part in parts])
    targets = [part.y for part in parts if part.y is not None]
    weight = None
    if any(part.weight is not None for part in parts):
        weight = np.concatenate(
            [np.ones(len(p.x), np.float32) if p.weight is None else p.weight for p in parts]
        )
    return Samples(x, np.concatenate(targets) if targets else None, weight)


def rows_of(samples: Samples, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Samples:
    """Some rows, by number or by mask: a copy."""
    return Samples(
        samples.x[rows],
        None if samples.y is None else samples.y[rows],
        None if samples.weight is None else samples.weight[rows],
    )


def _classes(y: NDArray[np.generic] | None) -> int:
    if y is None or y.ndim != 1 or y.dtype.kind not in "iu":
        return 0
    return int(y.max()) + 1 if len(y) else 0


def _check(samples: Samples, partition: Partition, what: str) -> None:
    x, y, weight = samples.x, samples.y, samples.weight
    if x.dtype != np.float32:
        raise UsageError(f"{what} is {x.dtype}; wanted float32: use x.astype(np.float32)")
    if y is not None and y.dtype not in (np.int64, np.float32):
        raise UsageError(f"y of {what} is {y.dtype}; wanted int64 labels or float32 values")
    for name, array in (("y", y), ("weight", weight)):
        if array is not None and len(array) != len(x):
            raise UsageError(f"{what} has {len(x)} rows of x and {len(array)} of {name}")
    order = partition.order
    if len(order) and not 0 <= order.min() <= order.max() < len(x):
        raise UsageError(
            f"the partition names row {order.min() if order.min() < 0 else order.max()}; {what} "
            f"has rows 0 to {len(x) - 1}"
        )
