"""Measures models: on the global test data, and each device as it would serve itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Held
from hedgerow.algorithms.terms import unpack_model
from hedgerow.core.layout import Vector
from hedgerow.model.passes import Rows
from hedgerow.sim.engine import Engine
from hedgerow.sim.keeping import names_of
from hedgerow.sim.states import ClientStates

TOGETHER = 256


@dataclass
class EngineGauge:
    """Measures with an engine. `states`: what clients keep; None: it is kept elsewhere."""

    engine: Engine
    algorithm: Algorithm
    states: ClientStates | None

    def accuracy(self, held: Vector) -> float | None:
        """Of the shared model on the global test data; None where there are none."""
        test = self.engine.data.test
        if test is None or not len(test.x):
            return None
        return float(self.engine.evaluate(self._whole(held), test.x, test.y))

    def devices(self, held: Vector, clients: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each device, with its own model where the algorithm gives it one, on its own data."""
        layout = self.engine.bundle.manifest.layout
        own = type(self.algorithm).serving is not Algorithm.serving
        if not own and layout.shared_size == layout.size:
            return self.engine.evaluate_many(self._whole(held), clients)
        if self.states is None:
            return np.full(len(clients), np.nan)
        parts = [
            self.engine.evaluate_many(self._serving(held, some), some)
            for start in range(0, len(clients), TOGETHER)
            if len(some := clients[start : start + TOGETHER])
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _whole(self, held: Vector) -> Vector:
        layout, weights = self.engine.bundle.manifest.layout, self.engine.bundle.weights
        whole: Vector = np.concatenate([held[: layout.shared_size], weights[layout.shared_size :]])
        return whole

    def _serving(self, held: Vector, clients: NDArray[np.int64]) -> Rows:
        """What each of these devices infers with, `[K, P]`."""
        assert self.states is not None
        bundle, algorithm = self.engine.bundle, self.algorithm
        layout = bundle.manifest.layout
        model = unpack_model(algorithm, held, layout.shared_size)
        brought = {name: part for name, part in model.items() if name != "weights"}
        rows = np.tile(self._whole(held), (len(clients), 1))
        kept: list[dict[str, Vector]] = [{} for _ in clients]
        for name, size in names_of(algorithm, layout).items():
            self.states.open(name, size)
            own, known = self.states.read(name, clients)
            if name == "private":
                rows[known, layout.shared_size :] = own[known]
                continue
            for row in np.flatnonzero(known).tolist():
                kept[row][name.removeprefix("kept-")] = own[row]
        return np.stack(
            [
                algorithm.serving(Held(rows[row], brought, kept[row], layout))
                for row in range(len(clients))
            ]
        )
