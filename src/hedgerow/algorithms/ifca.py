"""IFCA: several models, and each device takes part in the one that fits it best.

An efficient framework for clustered federated learning (Ghosh, Chung, Yin, Ramchandran, 2020).
Device half: measure the loss of every cluster's model on the own data, train the best, send the
delta and which cluster it is for. Server half, each cluster by itself:

    w_c ← w_c + rate · mean_c(Δ)

The paper starts its clusters from different random models, several times if need be: often one is
best for everybody, and the others are never trained. Here all are one for the first `warmup` rounds
and then part by noise of `spread` times the weights' root mean square. Where the mean gradient of
the fleet is about 0, what makes a model better for one kind of device makes it worse for another,
so that kinds part. `weights` is the mean of all clusters: what a device infers with that has not
chosen yet.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np

from hedgerow.algorithms.base import (
    Algorithm,
    Contribution,
    Held,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    ServerRate,
    delta_of,
    training,
)
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.passes import Losses, Rows


class Ifca(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ifca"):
    """`count` of clusters; `rate` of the server; `warmup` rounds before the clusters part, `spread`
    and `seed` of the noise that parts them.
    """

    rate: ServerRate = 1.0
    count: Annotated[int, msgspec.Meta(ge=2, le=64)] = 2
    warmup: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 5
    spread: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0

    keeps = ("cluster",)

    @property
    def brings(self) -> Mapping[str, int]:
        """The model of each cluster."""
        return {"clusters": self.count}

    @property
    def groups(self) -> int:
        """One a cluster."""
        return self.count

    def begin(self, weights: Vector) -> Server:
        """Clusters around the starting weights, or all there until the warm-up is over."""
        clusters = self._parted(weights) if self.warmup == 0 else self._together(weights)
        return _server(clusters, 0)

    def local(self, task: LocalTask) -> LocalHalf:
        """Choose, train, send. The choice is kept as the first number of `cluster`, from 1.

        Raises:
            UsageError: the model has private tensors, which fit one cluster and no other.
        """
        if task.layout.size != task.layout.shared_size:
            raise UsageError(
                "ifca: the model has private tensors, so its clusters cannot be compared on a "
                "device; export it without `private`, or use fedrep"
            )
        clusters = task.brought["clusters"]
        choice = np.zeros(len(task.weights), np.int64)
        if (clusters != clusters[0]).any():
            losses = yield Losses(clusters)
            assert isinstance(losses, np.ndarray)
            choice[:] = np.argmin(np.where(np.isnan(losses), np.inf, losses), axis=1)
        start = clusters[choice]
        trained = yield from training(task, start=start)
        cluster: Rows = np.zeros_like(task.weights)
        cluster[:, 0] = choice + 1
        return Contribution(
            {"delta": delta_of(task, trained, start)},
            trained.weights,
            trained,
            group=choice,
            kept={"cluster": cluster},
        )

    def serving(self, held: Held) -> Vector:
        """The model of the cluster it last chose."""
        choice = int(held.kept["cluster"][0]) if "cluster" in held.kept else 0
        if not 1 <= choice <= self.count:
            return held.weights
        served: Vector = held.brought["clusters"][choice - 1]
        return served

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """Clusters nobody chose stay where they are; before they part, all are the first."""
        clusters, turn = server.model["clusters"].copy(), int(server.kept["rounds"][0])
        for group, mean in means.items():
            clusters[group] += np.float32(self.rate) * mean.vectors["delta"]
        if turn < self.warmup:
            last = turn == self.warmup - 1
            clusters = (self._parted if last else self._together)(clusters[0])
        return _server(clusters, turn + 1)

    def _together(self, weights: Vector) -> Rows:
        return np.tile(weights, (self.count, 1))

    def _parted(self, weights: Vector) -> Rows:
        size = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64)))) if len(weights) else 0
        noise = np.random.Generator(np.random.PCG64(self.seed)).standard_normal(
            (self.count, len(weights))
        )
        # Weights of 0 have no size to go by; they must be left nonetheless.
        return (weights + self.spread * (size or 1.0) * noise).astype(np.float32)


def _server(clusters: Rows, rounds: int) -> Server:
    middle = clusters.mean(axis=0, dtype=np.float64).astype(np.float32)
    # Counted no further than float32 can: beyond any warm-up.
    counted = np.array([min(rounds, 1 << 20)], np.float32)
    return Server({"weights": middle, "clusters": clusters}, {"rounds": counted})
