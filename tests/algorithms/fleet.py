"""Rounds of any algorithm over the tiny model: both halves, the integer sums between, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import Algorithm, Contribution, Held, LocalTask, Server
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.terms import (
    joined,
    mean_in_group,
    pack_model,
    term_size,
    unpack_model,
)
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from hedgerow.core.layout import Layout, Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Losses, Pass, Trained
from tests.algorithms import plain

PLAN = LocalPlan(epochs=2, batch=4, rate=0.1)


@dataclass
class Learner:
    """Answers what a device's half asks for, one client after the other, by plain loops."""

    clients: Sequence[plain.Data]
    ids: Sequence[int]
    turn: int
    layout: Layout
    asked: list[Pass | Losses] = field(default_factory=list)

    def run(self, ask: Pass) -> Trained:
        """As the real learner's `run`."""
        self.asked.append(ask)
        rows, steps, samples, losses = [], [], [], []
        for k, (client, name) in enumerate(zip(self.clients, self.ids, strict=True)):
            x, y = client
            taken = plain.batches(len(x), ask.plan, ask.name, name, self.turn)
            shift = 0.0 if ask.shift is None else np.broadcast_to(ask.shift, ask.weights.shape)[k]
            w, count = plain.descend(
                ask.weights[k].astype(np.float64),
                client,
                taken,
                ask.plan,
                anchor=None if ask.anchor is None else ask.anchor.astype(np.float64),
                shift=shift,
                trainable=ask.trainable,
                ascent=ask.ascent,
                along=None if ask.ascent_along is None else ask.ascent_along.astype(np.float64),
            )
            rows.append(w.astype(np.float32))
            steps.append(count)
            samples.append(sum(len(batch) for batch in taken))
            losses.append(plain.loss_of(w, x, y))
        return Trained(np.stack(rows), np.array(steps), np.array(samples), np.array(losses))

    def losses(self, ask: Losses) -> NDArray[np.float64]:
        """As the real learner's `losses`."""
        self.asked.append(ask)
        found = [
            [plain.loss_of(row.astype(np.float64), *client) for row in ask.weights]
            for client in self.clients
        ]
        return np.array(found)


class Fleet:
    """A server and its devices; `batch` of them are trained at once."""

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        plan: LocalPlan = PLAN,
        batch: int = 1,
        private: tuple[str, ...] = (),
        clients: Sequence[plain.Data] | None = None,
    ) -> None:
        self.algorithm, self.plan, self.batch = algorithm, plan, batch
        self.layout = plain.layout(private)
        self.clients = plain.data() if clients is None else clients
        start = plain.weights()
        self.server = algorithm.begin(start[: self.layout.shared_size])
        self.behind = dict.fromkeys(range(len(self.clients)), start[self.layout.shared_size :])
        self.kept: dict[int, dict[str, Vector]] = {}
        self.turn = 0
        self.asked: list[Pass | Losses] = []
        self.contributions: list[Contribution] = []

    def rounds(self, who: Sequence[Sequence[int]] = plain.ROUNDS) -> "Fleet":
        """One round for each list of clients."""
        for chosen in who:
            self.round(chosen)
        return self

    def round(self, chosen: Sequence[int]) -> Server:
        """Everybody in `chosen` trains; the server takes its step."""
        sums: dict[int, ExactSum] = {}
        for start in range(0, len(chosen), self.batch):
            self._train(list(chosen[start : start + self.batch]), sums)
        means = {
            group: mean_in_group(self.algorithm, self.layout, total)
            for group, total in sums.items()
        }
        self.server = self.algorithm.server(self.server, means, len(self.clients))
        self.turn += 1
        return self.server

    def serving(self, client: int) -> Vector:
        """What a client infers with."""
        model = self._model()
        whole = np.concatenate([model["weights"], self.behind[client]])
        held = Held(whole, self._brought(), self.kept.get(client, {}), self.layout)
        return self.algorithm.serving(held)

    def _train(self, ids: list[int], sums: dict[int, ExactSum]) -> None:
        clients = [self.clients[k] for k in ids]
        learner = Learner(clients, ids, self.turn, self.layout)
        done = drive(self.algorithm.local(self._task(ids)), learner.run, learner.losses)
        self.asked += learner.asked
        self.contributions.append(done)
        assert all(part.dtype == np.float32 for part in (*done.sends.values(), done.weights))
        assert tuple(done.sends) == self.algorithm.sends
        assert tuple(done.figures) == self.algorithm.figures
        assert tuple(done.kept) == self.algorithm.keeps
        mask = self.algorithm.travels(self.layout)
        for k, client in enumerate(ids):
            self.kept[client] = {name: rows[k] for name, rows in done.kept.items()}
            self.behind[client] = done.weights[k, self.layout.shared_size :]
            vectors = [part[k] if mask is None else part[k][mask] for part in done.sends.values()]
            figures = [float(part[k]) for part in done.figures.values()]
            weight = self.algorithm.weighting.of(
                len(self.clients[client][0]), 0, float(done.trained.loss[k])
            )
            group = 0 if done.group is None else int(done.group[k])
            size = term_size(self.algorithm, self.layout)
            total = sums.setdefault(group, ExactSum(size))
            total.add(to_fixed(joined(vectors, figures), weight), weight_to_fixed(weight))

    def _task(self, ids: list[int]) -> LocalTask:
        shared = self._model()["weights"]
        weights = np.stack([np.concatenate([shared, self.behind[k]]) for k in ids])
        nothing = np.zeros(self.layout.size, np.float32)
        kept = {
            name: np.stack([self.kept.get(k, {}).get(name, nothing) for k in ids])
            for name in self.algorithm.keeps
        }
        fresh = np.array([k not in self.kept for k in ids])
        samples = np.array([len(self.clients[k][0]) for k in ids])
        return LocalTask(weights, self._brought(), kept, fresh, samples, self.plan, self.layout)

    def _model(self) -> dict[str, NDArray[np.float32]]:
        packed = pack_model(self.server)
        return dict(unpack_model(self.algorithm, packed, self.layout.shared_size))

    def _brought(self) -> dict[str, NDArray[np.float32]]:
        return {name: part for name, part in self._model().items() if name != "weights"}


def vector(*values: float) -> Vector:
    """float32."""
    return np.array(values, np.float32)


def assert_like(got: Vector, wanted: NDArray[np.float64], within: float = 2e-6) -> None:
    """The halves against their twin."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=within)
