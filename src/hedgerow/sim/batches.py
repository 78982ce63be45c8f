"""Training in virtual time: how long it takes is known at once, the work is done in batches later.

A device that begins to train is only noted down. When the first of those that train from one model
by one plan is due, all of them are computed together, through the same graph; one that stops before
costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from hedgerow.algorithms.terms import unpack_model
from hedgerow.core.layout import Vector
from hedgerow.protocol.learning import Shape
from hedgerow.sim.learning import Learning, Residuals, Sent, sent_by
from hedgerow.sim.postage import device_id
from hedgerow.wire.messages import Offer

Key: TypeAlias = tuple[str, int]
"""Hash of the model and number of the round."""


@dataclass
class Waiting:
    """Who trains for one offer, from one model."""

    offer: Offer
    model: Vector
    clients: set[int] = field(default_factory=set)
    done: dict[int, Sent | None] = field(default_factory=dict)


@dataclass
class Batches:
    """The trainings in progress of one fleet."""

    waiting: dict[Key, Waiting] = field(default_factory=dict)
    residuals: Residuals = field(default_factory=Residuals)

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
        """The client's update; None where its training diverged."""
        waiting = self.waiting[key]
        if client not in waiting.done:
            self._compute(waiting, engine, shape)
        sent = waiting.done.pop(client)
        self._tidy(key, waiting)
        return sent

    def _compute(self, waiting: Waiting, engine: Learning, shape: Shape) -> None:
        """Train all who still wait."""
        offer = waiting.offer
        clients = np.array(sorted(waiting.clients), np.int64)
        waiting.clients.clear()
        model = unpack_model(shape.algorithm, waiting.model, shape.layout.shared_size)
        parts = engine.contributions(shape.algorithm, model, offer.plan, clients, offer.round)
        for ids, contribution in parts:
            diverged = contribution.trained.diverged
            for row, client in enumerate(ids.tolist()):
                failed = diverged is not None and bool(diverged[row])
                waiting.done[client] = (
                    None
                    if failed
                    else sent_by(
                        shape,
                        contribution,
                        row,
                        client,
                        device_id(client),
                        offer.codecs[0],
                        offer.seed,
                        self.residuals,
                    )
                )

    def _tidy(self, key: Key, waiting: Waiting) -> None:
        if not waiting.clients and not waiting.done:
            self.waiting.pop(key, None)
