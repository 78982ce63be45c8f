"""Resource-aware training: a device trains as wide a part of the model as it can afford.

HeteroFL: computation and communication efficient federated learning for heterogeneous clients
(Diao, Ding, Tarokh, 2021, arXiv 2010.01264); Resource-aware heterogeneous federated learning using
neural architecture search (RaFL, 2022, arXiv 2211.05716) is another way to the same end. What is
called RaFed names the idea: no paper of that name was found.

A bundle exported with widths holds a training graph for each (`hedgerow.model.widths`): a narrower
layer is the leading block of the whole one. Device half: FedAvg on the tensors of its width. Server
half: each element moves by the mean over those who trained it, weighted; elements that nobody
trained stay:

    w_j ← w_j + rate · v_j,   v_j ← momentum · v_j + Σ weight_i Δ_ij / Σ weight_i  over i with j

HeteroFL divides the activations of a narrow layer by its width, so that the sums that the next
layer sees keep their size: `hedgerow.author.widths.Scaler`. A GroupNorm or LayerNorm behind the
layer does that too, and needs no static statistics, which HeteroFL gathers for its batch norm.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    delta_of,
    training,
)
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.widths import Submodel


class ResourceAware(
    Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="resource_aware"
):
    """`widths`: how many widths the bundle has, the whole model counted too."""

    widths: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3

    @property
    def groups(self) -> int:
        """One a width: group g has the elements of the bundle's width g."""
        return self.widths

    def local(self, task: LocalTask) -> LocalHalf:
        """FedAvg's, on a task that `narrowed` made.

        Raises:
            UsageError: the task is of a width beyond the settings.
        """
        if not 0 <= task.width < self.widths:
            raise UsageError(
                f"resource_aware has {self.widths} widths and was given width {task.width}; "
                "set `widths` to as many as the bundle has"
            )
        trained = yield from training(task)
        group = np.full(len(task.weights), task.width, np.int64)
        sends = {"delta": delta_of(task, trained)}
        return Contribution(sends, trained.weights, trained, group=group)

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formula above."""
        mean, trained = merged(means, len(server.weights))
        before = server.kept["velocity"]
        velocity = np.where(trained, np.float32(self.momentum) * before + mean, before)
        step = np.where(trained, np.float32(self.rate) * velocity, np.float32(0))
        weights = server.weights + step
        return Server({**server.model, "weights": weights}, {"velocity": velocity})


def merged(means: Mapping[int, Mean], size: int) -> tuple[Vector, NDArray[np.bool_]]:
    """The mean delta `[S]` of each element over all who trained it, and which somebody did."""
    total, weight = np.zeros(size, np.float64), np.zeros(size, np.float64)
    for group in sorted(means):
        mean = means[group]
        covers = np.ones(size, np.bool_) if mean.covers is None else mean.covers
        total += np.where(covers, mean.weight * mean.vectors["delta"].astype(np.float64), 0)
        weight += mean.weight * covers
    trained = weight > 0
    return (total / np.where(trained, weight, 1)).astype(np.float32), trained


def narrowed(task: LocalTask, part: Submodel, width: int) -> LocalTask:
    """The task of devices of the bundle's width number `width`: its tensors only."""
    weights = np.ascontiguousarray(task.weights[:, part.index])
    return replace(task, weights=weights, layout=part.layout, width=width)
