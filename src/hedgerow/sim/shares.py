"""A share of a round's learning: some clients, trained and summed as integers.

A round is one share on one machine, or one for each worker of a cluster: integer sums merge to the
same bits however the clients were dealt out. A client's state (what its algorithm keeps, what its
payloads lost) stays with the share that learned it, so a client must always go to the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm
from hedgerow.algorithms.selection import last_layer
from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol.learning import Shape, Sums
from hedgerow.seal.codec import Codec
from hedgerow.sim.engine import Round
from hedgerow.sim.keeping import given_back, taken
from hedgerow.sim.learning import Clients, Learning, Model, outcomes
from hedgerow.sim.postage import device_id
from hedgerow.sim.residuals import Residuals
from hedgerow.sim.states import ClientStates

LOSS_ONE = 1 << 20


@dataclass(frozen=True)
class Lesson:
    """What is to be learned in one round, and how it is sent. `each`: every client's own loss is
    wanted, and not only their mean; `changes`: what it changed of the last layer is wanted too.
    """

    model: Model
    plan: LocalPlan
    codec: Codec
    seed: int
    round: int
    each: bool = True
    changes: bool = False


@dataclass(frozen=True)
class Share:
    """What some clients came to. `losses [K]` is NaN for `clients [K]` whose training diverged or
    whose update no fleet would count in, and for all of them where nobody asked; `loss_total` is
    over all `samples` seen, in units of 2⁻²⁰. `changes`: of the last layer, by client, where that
    was wanted and it is shared and whole.
    """

    sums: Sums
    clients: Clients
    losses: NDArray[np.float64]
    payload_bytes: int
    loss_total: int
    samples: int
    changes: Mapping[int, Vector] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """The mean over all samples seen; None for none."""
        return self.loss_total / LOSS_ONE / self.samples if self.samples else None

    @classmethod
    def merged(cls, parts: Sequence[Share]) -> Share:
        """All shares as one, clients in order."""
        sums = Sums()
        for part in parts:
            sums.merge(part.sums)
        clients = np.concatenate([part.clients for part in parts])
        losses = np.concatenate([part.losses for part in parts])
        order = np.argsort(clients, kind="stable")
        sent, loss, seen = (
            sum(getattr(part, name) for part in parts)
            for name in ("payload_bytes", "loss_total", "samples")
        )
        changes = {client: part for share in parts for client, part in share.changes.items()}
        return cls(sums, clients[order], losses[order], sent, loss, seen, changes)


class Sharing(Protocol):
    """Learns whole rounds: alone (`Alone`) or on a cluster."""

    def learn(self, shape: Shape, lesson: Lesson, clients: Clients) -> Share:
        """The share of these clients."""

    def kept(self) -> Any:
        """What is kept between rounds, as plain data."""

    def restore(self, kept: Any) -> None:
        """Go on from what `kept` gave."""


@runtime_checkable
class Summing(Protocol):
    """An engine that sums by itself."""

    def sums(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Round:
        """What `clients` come to, as integers."""


@dataclass
class Alone:
    """One engine does it all. `counts [N]`: training samples of each client. `states`: what its
    clients keep, if that is to be kept with the run.
    """

    engine: Learning
    counts: NDArray[np.int64]
    states: ClientStates | None = None
    names: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.residuals = Residuals(len(self.counts))
        self.seen: set[int] = set()

    def learn(self, shape: Shape, lesson: Lesson, clients: Clients) -> Share:
        """Train, encode, decode, sum."""
        if self.names:
            self.seen.update(clients.tolist())
        if isinstance(self.engine, Summing) and not lesson.codec.stages and not lesson.each:
            return self._summed(self.engine, shape, lesson, clients)
        sums, losses = Sums(), np.full(len(clients), np.nan)
        place = {client: row for row, client in enumerate(clients.tolist())}
        changes: dict[int, Vector] = {}
        sent_bytes = loss_total = samples_seen = 0
        came = outcomes(
            *(self.engine, shape, lesson.model, lesson.plan, clients, lesson.round),
            *(lesson.codec, lesson.seed, self.residuals),
        )
        for client, contribution, row, outcome in came:
            if outcome is None:
                continue
            sent, name = outcome.sent, device_id(client)
            try:
                form = shape.form(sent.group)
                vectors = form.decode(sent.payloads, lesson.codec, lesson.seed, name)
                samples = int(self.counts[client])
                term, weight = shape.term_of(vectors, sent.figures, samples, 0, sent.loss)
            except PeerError:  # a fleet refuses it too
                continue
            outcome.book(client, self.engine, self.residuals, shape)
            sums.add(term, weight, sent.group)
            if lesson.changes and form is shape.form(0) and form.mask is None:
                changes[client] = vectors[0][last_layer(form.layout)].copy()
            sent_bytes += sent.size
            losses[place[client]] = sent.loss
            seen = int(contribution.trained.samples[row])
            if seen:
                loss_total += round(sent.loss * seen * LOSS_ONE)
                samples_seen += seen
        return Share(sums, clients, losses, sent_bytes, loss_total, samples_seen, changes)

    def _summed(self, engine: Summing, shape: Shape, lesson: Lesson, clients: Clients) -> Share:
        """Plain float32 loses nothing, so the engine may sum by itself: the same bits, sooner."""
        algorithm = shape.algorithm
        came = engine.sums(algorithm, lesson.model, lesson.plan, clients, lesson.round)
        losses = np.full(len(clients), np.nan)
        size = (
            4
            * len(algorithm.sends)
            * sum(shape.form(group).size * part.terms for group, part in came.sums.groups.items())
        )
        return Share(came.sums, clients, losses, size, came.loss_total, came.samples)

    def kept(self) -> Any:
        """Residuals, and what clients keep."""
        states = None
        if self.states is not None and self.names:
            states = taken(self.states, dict(self.names), self.seen)
        return {"residuals": self.residuals, "seen": self.seen, "states": states}

    def restore(self, kept: Any) -> None:
        """As it was."""
        self.residuals, self.seen = kept["residuals"], kept["seen"]
        if self.states is not None and self.names:
            given_back(self.states, dict(self.names), kept["states"])
