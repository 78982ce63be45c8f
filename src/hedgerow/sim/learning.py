"""What the simulation wants of a learning engine, and how contributions become updates.

The engine trains many clients at once through the shipping graph; the codec's two ends are those
of the device and the coordinator. A device keeps what its algorithm wants kept and what its payload
lost when the update is on its way, and not before: one that is stopped keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Rows
from hedgerow.protocol.learning import Shape
from hedgerow.seal.codec import Codec
from hedgerow.sim.postage import device_id
from hedgerow.sim.residuals import Residuals

Model: TypeAlias = Mapping[str, NDArray[np.float32]]
Clients: TypeAlias = NDArray[np.int64]


class Learning(Protocol):
    """Trains clients of one fleet. `hedgerow.sim.engine.Engine` is the usual one."""

    def contributions(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Iterator[tuple[Clients, Contribution]]:
        """Each client's contribution, some at a time and in any order."""


@runtime_checkable
class Keeping(Protocol):
    """An engine whose clients keep something, and that leaves it to others when it is kept."""

    def learned(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Iterator[tuple[Clients, Contribution]]:
        """As `contributions`, with nothing kept."""

    def kept_by(self, clients: Clients, contribution: Contribution) -> Mapping[str, Rows]:
        """What these clients would keep, `[K, size]` by name."""

    def keep(self, clients: Clients, kept: Mapping[str, Rows]) -> None:
        """Let them keep it."""


@dataclass(frozen=True)
class Sent:
    """One client's update as it travels, and what is told with it."""

    payloads: tuple[bytes, ...]
    figures: tuple[float, ...]
    group: int
    loss: float
    steps: int

    @property
    def size(self) -> int:
        """Bytes of the payloads."""
        return sum(map(len, self.payloads))


def figures_of(algorithm: Algorithm, contribution: Contribution, row: int) -> tuple[float, ...]:
    """One client's figures in the order in which they travel."""
    return tuple(float(contribution.figures[name][row]) for name in algorithm.figures)


@dataclass(frozen=True)
class Outcome:
    """What one client came to: its update, and what it keeps once that is on its way. `lost` is
    what its payloads lost, `kept` what its algorithm keeps.
    """

    sent: Sent
    lost: Mapping[str, Vector]
    kept: Mapping[str, Vector]

    def book(self, client: int, engine: Learning, residuals: Residuals, shape: Shape) -> None:
        """The client keeps it from now on."""
        if self.lost:
            residuals.write(client, self.lost, shape.form(0).size)
        if self.kept and isinstance(engine, Keeping):
            rows = {name: vector[None] for name, vector in self.kept.items()}
            engine.keep(np.array([client]), rows)


def outcomes(
    engine: Learning,
    shape: Shape,
    model: Model,
    plan: LocalPlan,
    clients: Clients,
    round: int,
    codec: Codec,
    seed: int,
    residuals: Residuals,
) -> Iterator[tuple[int, Contribution, int, Outcome | None]]:
    """Train `clients` and encode their updates; nothing is kept before it is booked.

    Gives each client, its contribution and row there, and its outcome: None where its training
    diverged or its update is nothing the codec can say.
    """
    train = engine.learned if isinstance(engine, Keeping) else engine.contributions
    for ids, part in train(shape.algorithm, model, plan, clients, round):
        kept = engine.kept_by(ids, part) if isinstance(engine, Keeping) else {}
        for row, client in enumerate(ids.tolist()):
            outcome = None
            if part.trained.diverged is None or not part.trained.diverged[row]:
                mine = {name: rows[row].copy() for name, rows in kept.items()}
                try:
                    sent, lost = sent_by(shape, part, row, client, codec, seed, residuals)
                    outcome = Outcome(sent, lost, mine)
                except PeerError:
                    pass
            yield client, part, row, outcome


def sent_by(
    shape: Shape,
    contribution: Contribution,
    row: int,
    client: int,
    codec: Codec,
    seed: int,
    residuals: Residuals,
) -> tuple[Sent, dict[str, Vector]]:
    """One row as the update of one client, and what its payloads lost.

    Raises:
        PeerError: the codec cannot say it.
    """
    trained, algorithm = contribution.trained, shape.algorithm
    group = 0 if contribution.group is None else int(contribution.group[row])
    form = shape.form(group)
    vectors = {name: contribution.sends[name][row] for name in algorithm.sends}
    payloads, lost = form.encode(vectors, codec, seed, device_id(client), residuals.read(client))
    sent = Sent(
        payloads=payloads,
        figures=figures_of(algorithm, contribution, row),
        group=group,
        loss=float(trained.loss[row]),
        steps=int(trained.steps[row]),
    )
    return sent, lost
