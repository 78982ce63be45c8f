"""One data set, spread over many clients: who holds which rows.

Each function takes the labels `[n]` (or group ids), how many clients, and a generator, and returns
a `Partition`: every row at exactly one client, the same for the same generator. As settings, where
an experiment's file names one: `Natural`, `Iid`, `Dirichlet`, `Shards`, `Quantity`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

Rows: TypeAlias = NDArray[np.int64]
"""Indices of rows."""
Labels: TypeAlias = NDArray[np.integer[Any]]

REDRAWS_MAX = 100
"""How often `dirichlet` draws anew for a client with too few rows before it moves rows over."""


@dataclass(frozen=True)
class Partition:
    """Client `k` holds the rows `order[offsets[k]:offsets[k + 1]]`.

    `order` int64 `[m]`, `offsets` int64 `[clients + 1]`, which begins with 0 and ends with m.
    """

    order: Rows
    offsets: Rows

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.integer[Any]]]) -> Partition:
        """From a list of row indices for each client; a row may be at several, or at none."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(own) for own in rows], out=offsets[1:])
        order = np.concatenate(rows) if rows else np.empty(0)
        return cls(order.astype(np.int64, copy=False), offsets)

    @property
    def counts(self) -> Rows:
        """Rows of each client, `[clients]`."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> Rows:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client}; wanted 0 to {len(self) - 1}")
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    def __iter__(self) -> Iterator[Rows]:
        return (self[client] for client in range(len(self)))


def natural(groups: NDArray[Any]) -> Partition:
    """One client for each value of `groups [n]` (a person, a building), in order of the values."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(np.unique(groups, return_inverse=True)[1][order])) + 1
    ends = [len(groups)] if len(groups) else []
    return Partition(order, np.array([0, *starts, *ends], np.int64))


def iid(rows: int, clients: int, rng: np.random.Generator) -> Partition:
    """Rows dealt at random, as evenly as can be: sizes differ by 1 at most."""
    _fits(rows, clients, 1)
    return Partition(
        rng.permutation(rows), np.arange(clients + 1, dtype=np.int64) * rows // clients
    )


def dirichlet(
    labels: Labels,
    clients: int,
    rng: np.random.Generator,
    *,
    alpha: float,
    minimum: int = 10,
    balanced: bool = False,
) -> Partition:
    """Labels unevenly: the smaller `alpha`, the fewer kinds of label each client has.

    Not balanced (Yurochkin and others 2019; Li and others 2022): each label's rows are shared out
    by proportions drawn from Dir(α) over the clients, so sizes differ widely. Drawn anew up to
    `REDRAWS_MAX` times while a client has fewer than `minimum` rows; should none of the draws do,
    the last one is mended with single rows taken at random from whoever has the most. Balanced
    (Hsu and others 2019, arXiv:1909.06335): everybody holds equally many, each client's labels are
    drawn from its own Dir(α·p) with p as frequent as labels are in all the data. As p sums to 1,
    the same α is more uneven there than where it stands for every label by itself.

    Raises:
        UsageError: fewer rows than `clients · minimum`.
    """
    _fits(len(labels), clients, minimum)
    by_label = [rng.permutation(own) for own in natural(labels)]
    if balanced:
        return _shuffled_within(_dirichlet_balanced(by_label, clients, rng, alpha), rng)
    for _ in range(REDRAWS_MAX):
        shares = rng.dirichlet(np.full(clients, alpha), len(by_label))
        # float64 gammas underflow to 0 / 0 for a very small alpha: all to one client is its limit
        lost = ~np.isfinite(shares).all(axis=1)
        shares[lost] = np.eye(clients)[rng.integers(clients, size=int(lost.sum()))]
        sizes = np.array([len(own) for own in by_label])[:, None]
        ends = np.rint(np.cumsum(shares, axis=1) * sizes).astype(np.int64)
        ends[:, -1] = sizes[:, 0]
        counts = np.diff(ends, axis=1, prepend=0)
        if counts.sum(axis=0).min() >= minimum:
            break
    parts = [np.split(own, end[:-1]) for own, end in zip(by_label, ends, strict=True)]
    rows = [np.concatenate([part[client] for part in parts]) for client in range(clients)]
    return _shuffled_within(_mended(rows, minimum, rng), rng)


def shards(
    labels: Labels, clients: int, rng: np.random.Generator, *, per_client: int = 2
) -> Partition:
    """Rows sorted by label, cut into `clients · per_client` shards, and so many dealt to each.

    Most clients hold about `per_client` labels (McMahan and others 2017, arXiv:1602.05629).
    """
    count = clients * per_client
    _fits(len(labels), count, 1)
    mixed = rng.permutation(len(labels))
    order = mixed[np.argsort(labels[mixed], kind="stable")]
    pieces = np.array_split(order, count)
    dealt = rng.permutation(count).reshape(clients, per_client)
    return _shuffled_within([np.concatenate([pieces[i] for i in own]) for own in dealt], rng)


def quantity_skew(
    rows: int,
    clients: int,
    rng: np.random.Generator,
    *,
    kind: Literal["lognormal", "power"] = "lognormal",
    spread: float = 1.0,
    minimum: int = 1,
) -> Partition:
    """Rows dealt at random in uneven amounts, never fewer than `minimum`.

    `lognormal`: what is over the minimum is shared by exp(spread · a normal draw); `power`: by
    rank to the power of −spread, ranks dealt at random. `spread` 0 is even.
    """
    _fits(rows, clients, minimum)
    if kind == "lognormal":
        exponents = spread * rng.standard_normal(clients)
    else:
        exponents = -spread * np.log(rng.permutation(clients) + 1.0)
    shares = np.exp(exponents - exponents.max())
    ends = np.rint(np.cumsum(shares) / shares.sum() * (rows - clients * minimum)).astype(np.int64)
    offsets = np.concatenate([[0], ends + minimum * np.arange(1, clients + 1)])
    return Partition(rng.permutation(rows), offsets)


def cut(
    partition: Partition, share: float, rng: np.random.Generator | None = None
) -> tuple[Partition, Partition]:
    """Each client's rows in two: the first `share` to learn from, and the rest.

    With `rng` each client's rows are mixed before; without, what comes first is learned from. A
    client with one row keeps it to learn from; with two or more both parts have at least one.
    """
    if not 0.0 < share < 1.0:
        raise UsageError(f"share to learn from is {share}; wanted a number between 0 and 1")
    first, rest = [], []
    for own in partition:
        mixed = own if rng is None else rng.permutation(own)
        at = min(max(round(share * len(own)), 1), max(len(own) - 1, 1))
        first.append(mixed[:at])
        rest.append(mixed[at:])
    return Partition.of(first), Partition.of(rest)


def alike(
    partition: Partition,
    labels: Labels,
    other_labels: Labels,
    size: int,
    rng: np.random.Generator,
) -> Partition:
    """Rows of another labelled set, for each client in the mix of labels it has in `partition`.

    `size` rows for each client at most, none of them twice at one client, though several clients
    may hold the same one: a test set as each client would see it. Where the other set has too few
    rows of a label, that client gets fewer.
    """
    by_label = {int(other_labels[own[0]]): own for own in natural(other_labels)}
    chosen = []
    for own in partition:
        kinds, counts = np.unique(labels[own], return_counts=True)
        wanted = _rounded(counts / max(counts.sum(), 1), size)
        found = [np.empty(0, np.int64)]
        for kind, count in zip(kinds.tolist(), wanted.tolist(), strict=True):
            there = by_label.get(int(kind), found[0])
            found.append(rng.choice(there, min(count, len(there)), replace=False))
        chosen.append(np.concatenate(found))
    return Partition.of(chosen)


def label_counts(partition: Partition, labels: Labels, classes: int) -> Rows:
    """How many rows of each label every client has, `[clients, classes]`."""
    client = np.repeat(np.arange(len(partition)), partition.counts)
    flat = np.bincount(
        client * classes + labels[partition.order], minlength=len(partition) * classes
    )
    return flat.reshape(len(partition), classes).astype(np.int64, copy=False)


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    @abstractmethod
    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """Who holds which of the rows with these `labels [n]`, of these natural `groups [n]`."""


class Natural(_Settings, frozen=True, kw_only=True, tag="natural"):
    """As the data came: a client for each person, building or sensor. Asks for no `clients`."""

    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """See `natural`."""
        if groups is None:
            raise UsageError(
                "this data has no natural split; wanted another partition, such as "
                '{name = "dirichlet", alpha = 0.1}'
            )
        return natural(groups)


class Iid(_Settings, frozen=True, kw_only=True, tag="iid"):
    """Everybody the same."""

    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """See `iid`."""
        return iid(len(labels), clients, rng)


class Dirichlet(_Settings, frozen=True, kw_only=True, tag="dirichlet"):
    """Labels unevenly."""

    alpha: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)] = 0.1
    minimum: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    balanced: bool = False

    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """See `dirichlet`."""
        return dirichlet(
            labels,
            clients,
            rng,
            alpha=self.alpha,
            minimum=self.minimum,
            balanced=self.balanced,
        )


class Shards(_Settings, frozen=True, kw_only=True, tag="shards"):
    """A few labels each."""

    per_client: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2

    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """See `shards`."""
        return shards(labels, clients, rng, per_client=self.per_client)


class Quantity(_Settings, frozen=True, kw_only=True, tag="quantity"):
    """Uneven amounts."""

    kind: Literal["lognormal", "power"] = "lognormal"
    spread: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0
    minimum: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10

    def deal(
        self, labels: Labels, groups: NDArray[Any] | None, clients: int, rng: np.random.Generator
    ) -> Partition:
        """See `quantity_skew`."""
        rows = len(labels)
        return quantity_skew(
            rows, clients, rng, kind=self.kind, spread=self.spread, minimum=self.minimum
        )


AnyPartition: TypeAlias = Natural | Iid | Dirichlet | Shards | Quantity
"""Every partition an experiment may name."""


def _fits(rows: int, clients: int, minimum: int) -> None:
    if clients < 1 or minimum < 0 or rows < clients * minimum:
        raise UsageError(
            f"{rows} rows cannot be spread over {clients} clients with at least {minimum} each; "
            "wanted fewer clients, a smaller minimum or more data"
        )


def _shuffled_within(rows: Sequence[Rows], rng: np.random.Generator) -> Partition:
    """A client's rows in no order, so that what cuts them cuts no label off."""
    return Partition.of([rng.permutation(own) for own in rows])


def _dirichlet_balanced(
    by_label: Sequence[Rows], clients: int, rng: np.random.Generator, alpha: float
) -> list[Rows]:
    sizes = np.array([len(own) for own in by_label])
    taken = np.zeros(len(sizes), np.int64)
    wanted = np.diff(np.arange(clients + 1) * int(sizes.sum()) // clients)
    rows: list[Rows] = []
    for own in wanted.tolist():
        mix = _drawn(alpha * sizes / sizes.sum(), rng)
        counts = np.zeros(len(sizes), np.int64)
        while (missing := own - int(counts.sum())) > 0:
            left = sizes - taken - counts
            odds = np.where(left > 0, mix, 0.0)
            if odds.sum() < 1e-9:
                # What it would draw from is used up. What remains of a Dirichlet draw, scaled to
                # sum to 1, is a Dirichlet draw again, of the parameters that remain.
                odds = _drawn(np.where(left > 0, alpha * sizes / sizes.sum(), 0.0), rng)
            counts += np.minimum(rng.multinomial(missing, odds / odds.sum()), left)
        rows.append(
            np.concatenate(
                [
                    pool[at : at + count]
                    for pool, at, count in zip(by_label, taken, counts, strict=True)
                ]
            )
        )
        taken += counts
    return rows


def _drawn(parameters: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A draw from a Dirichlet distribution; a parameter of 0 gives 0."""
    there = np.flatnonzero(parameters)
    shares = np.zeros(len(parameters))
    shares[there] = rng.dirichlet(np.maximum(parameters[there], 1e-12))
    if not np.isfinite(shares).all():  # every gamma draw underflowed: its limit is one of them all
        shares = np.eye(len(parameters))[rng.choice(there)]
    return shares


def _mended(rows: list[Rows], minimum: int, rng: np.random.Generator) -> list[Rows]:
    """Everybody with `minimum` rows at least, what is missing taken from whoever has the most."""
    counts = np.array([len(own) for own in rows])
    for client in np.flatnonzero(counts < minimum).tolist():
        rows[client] = rows[client].copy()
        while counts[client] < minimum:
            richest = int(np.argmax(counts))
            at = int(rng.integers(counts[richest]))
            rows[client] = np.append(rows[client], rows[richest][at])
            rows[richest] = np.delete(rows[richest], at)
            counts[client] += 1
            counts[richest] -= 1
    return rows


def _rounded(shares: NDArray[np.float64], size: int) -> Rows:
    """Whole numbers in proportion to `shares`, `size` in all: the largest remainders round up."""
    exact = shares * size
    whole = np.floor(exact).astype(np.int64)
    short = size - int(whole.sum()) if len(shares) else 0
    whole[np.argsort(whole - exact, kind="stable")[:short]] += 1
    return whole
