"""Training in virtual time: how long it takes is known at once, the work is done in batches later.

A device that begins to train is only noted down. When the first of those that train from one model
by one plan is due, all of them are computed together, through the same graph; one that stops before
costs nothing, and one that stops before it is due itself keeps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from hedgerow.algorithms.terms import unpack_model
from hedgerow.core.layout import Vector
from hedgerow.protocol.learning import Shape
from hedgerow.sim.learning import Learning, Outcome, Sent, outcomes
from hedgerow.sim.residuals import Residuals
from hedgerow.wire.messages import Offer

Key: TypeAlias = tuple[str, int]
"""Hash of the model and number of the round."""


@dataclass
class Waiting:
    """Who trains for one offer, from one model."""

    offer: Offer
    model: Vector
    clients: set[int] = field(default_factory=set)
    done: dict[int, Outcome | None] = field(default_factory=dict)


@dataclass
class Batches:
    """The trainings in progress of one fleet."""

    residuals: Residuals
    waiting: dict[Key, Waiting] = field(default_factory=dict)

    def begin(self, client: int, offer: Offer, model: Vector) -> Key:
        """The client trains for this offer from now on."""
        key = (offer.model.hash, offer.round)
        self.waiting.setdefault(key, Waiting(offer, model)).clients.add(client)
        return key

    def stop(self, client: int, key: Key) -> None:
        """The client trains no more; nothing is wanted of it."""
        waiting = self.waiting.get(key)
        if waiting is not None:
            waiting.clients.discard(client)
            waiting.done.pop(client, None)
            self._tidy(key, waiting)

    def finish(self, client: int, key: Key, engine: Learning, shape: Shape) -> Sent | None:
        """The client's update; None where its training diverged, or its update cannot be sent.

        What the client keeps of it is kept now.
        """
        waiting = self.waiting[key]
        if client not in waiting.done:
            self._compute(waiting, engine, shape)
        outcome = waiting.done.pop(client)
        self._tidy(key, waiting)
        if outcome is None:
            return None
        outcome.book(client, engine, self.residuals, shape)
        return outcome.sent

    def _compute(self, waiting: Waiting, engine: Learning, shape: Shape) -> None:
        """Train all who still wait."""
        offer = waiting.offer
        clients = np.array(sorted(waiting.clients), np.int64)
        waiting.clients.clear()
        model = unpack_model(shape.algorithm, waiting.model, shape.layout.shared_size)
        came = outcomes(
            *(engine, shape, model, offer.plan, clients, offer.round),
            *(offer.codecs[0], offer.seed, self.residuals),
        )
        waiting.done |= {client: outcome for client, _, _, outcome in came}

    def _tidy(self, key: Key, waiting: Waiting) -> None:
        if not waiting.clients and not waiting.done:
            self.waiting.pop(key, None)
