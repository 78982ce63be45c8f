"""A made-up learning problem for the tests of the simulator: exact, tiny, and quick.

Client k's samples lie around a point of its own; training moves the weights a step towards it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution, LocalTask
from hedgerow.algorithms.drive import drive
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.bundle import Bundle
from hedgerow.model.passes import Pass, Trained
from hedgerow.model.samples import Samples
from hedgerow.protocol.fleet import RoundRules
from hedgerow.sim.course import Moving
from hedgerow.sim.data import ArrayData
from hedgerow.sim.experiment import Experiment, Measure
from hedgerow.sim.fleet import Fleet
from hedgerow.sim.learning import Clients, Model
from hedgerow.sim.rounds import Rounds
from hedgerow.sim.shares import Alone

PLAN = LocalPlan(rate=0.3)
CLIENTS = 12


def watch_bundle() -> Bundle:
    """A bundle that is real; its graph is not run here."""
    data = resources.files("hedgerow.apps.watch").joinpath("watch.hedgerow").read_bytes()
    return Bundle.from_bytes(data)


def small_data(clients: int, samples: int = 8) -> ArrayData:
    """`clients` with so many samples each."""
    rows = [np.arange(k * samples, (k + 1) * samples) for k in range(clients)]
    x = np.zeros((clients * samples, 1), np.float32)
    y = np.zeros(clients * samples, np.int64)
    return ArrayData(x, y, rows, test=Samples(x[:1], y[:1]))


class PullingEngine:
    """Moves the weights `rate` of the way to each client's own point. `calls` are its batches."""

    def __init__(self, bundle: Bundle, data: ArrayData) -> None:
        self.bundle, self.data = bundle, data
        self.calls: list[list[int]] = []
        self.size = bundle.manifest.layout.size

    def goal(self, client: int) -> Vector:
        """Where the client wants the weights."""
        base = np.linspace(-1, 1, self.size, dtype=np.float32)
        return base + np.float32(0.1 * (client % 7 - 3))

    def contributions(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Iterator[tuple[Clients, Contribution]]:
        """All in one batch."""
        self.calls.append(clients.tolist())
        layout = self.bundle.manifest.layout
        private = self.bundle.weights[layout.shared_size :]
        start = np.tile(np.concatenate([model["weights"], private]), (len(clients), 1))
        goals = np.stack([self.goal(client) for client in clients.tolist()])
        task = LocalTask(
            weights=start,
            brought={name: part for name, part in model.items() if name != "weights"},
            kept={},
            fresh=np.ones(len(clients), np.bool_),
            samples=self.data.counts[clients],
            plan=plan,
            layout=layout,
        )

        def train(ask: Pass) -> Trained:
            new = ask.weights + np.float32(ask.plan.rate) * (goals - ask.weights)
            loss = np.abs(goals - ask.weights).mean(1).astype(np.float64)
            steps = np.ones(len(clients), np.int64)
            return Trained(new, steps, self.data.counts[clients], loss)

        def losses(ask: object) -> NDArray[np.float64]:
            raise AssertionError("nobody asks for losses here")

        yield clients, drive(algorithm.local(task), train, losses)


class NearnessGauge:
    """Accuracy is 1 less the mean distance to the mean goal."""

    def __init__(self, engine: PullingEngine) -> None:
        self.engine = engine

    def accuracy(self, held: Vector) -> float | None:
        """From −∞ to 1."""
        goals = [self.engine.goal(client)[: len(held)] for client in range(7)]
        return float(1 - np.abs(held - np.mean(goals, axis=0)).mean())

    def devices(self, held: Vector, clients: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same for each client's own goal."""
        near = [1 - np.abs(held - self.engine.goal(c)[: len(held)]).mean() for c in clients]
        return np.array(near, np.float64)


def experiment(**settings: Any) -> Experiment:
    """Six rounds of everybody, unless the settings say otherwise."""
    rules = {"cohort": CLIENTS, "quorum": CLIENTS, "rounds": 6} | settings.pop("rounds", {})
    measure = Measure(devices_every=2)
    return Experiment(
        **{"plan": PLAN, "rounds": RoundRules(**rules), "measure": measure, **settings}
    )


def moving(
    bundle: Bundle,
    chosen: Experiment,
    clients: int = CLIENTS,
    seed: int = 0,
    data: ArrayData | None = None,
) -> tuple[Any, PullingEngine]:
    """The world of an experiment, and the engine in it."""
    data = small_data(clients) if data is None else data
    engine = PullingEngine(bundle, data)
    if chosen.mode == "fleet":
        return Fleet(chosen, seed, bundle, data, engine), engine
    return Rounds(chosen, seed, bundle, data, Alone(engine, data.counts)), engine


def run_out(world: Moving) -> Any:
    """The world at its end."""
    while not world.finished:
        world.step()
    return world
