"""FedACS: prefers devices whose labels are less skewed, found by a dueling bandit.

Federated learning with class imbalance by adaptive client selection (FedACS: Wang, Zhu, Wang, Han,
IWQoS 2021). The server compares what came back: with n_i samples and gradient (or change) g_i of a
layer, ḡ its mean,

    reward r_i = −√n_i · Σ_layers ‖ḡ − g_i‖₂

For every pair of devices of one round among the last H, the higher reward adds 1/H to a device's
wins s, else 1/H to its losses f. A round draws Beta(s + 1, f + 1) for all candidates, takes the
best `extension`·count, and chooses among those by lot (Self-Sparring).

What it needs: the coordinator must see single updates, so it does not go with masked sums; the last
layer is enough. What it costs: devices with rare classes look skewed. Keep `fairness_share` above
0, or the model forgets what only they have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.selection.base import (
    Floats,
    Memory,
    Places,
    Policy,
    Pool,
    RoundFacts,
    Share,
)
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout


class FedACS(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedacs"):
    """`rounds` is H, `extension` how much wider the circle is than the cohort."""

    wants_rewards: ClassVar[bool] = True

    fairness_share: Share = 0.2
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    extension: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 8.0

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """The rule above."""
        wins, losses = self.record(pool)
        circle = min(max(math.ceil(round(self.extension * count, 6)), count), len(pool))
        best = np.argsort(-rng.beta(wins + 1, losses + 1), kind="stable")[:circle]
        return best[rng.permutation(circle)[:count]].astype(np.int64)

    def record(self, pool: Pool) -> tuple[Floats, Floats]:
        """Wins s and losses f of each candidate, `[N]`."""
        place = {candidate.id: index for index, candidate in enumerate(pool.candidates)}
        wins, losses = np.zeros(len(pool)), np.zeros(len(pool))
        for duel in pool.memory.duels[-self.rounds :]:
            rewards = np.array([reward for _, reward in duel])
            below = np.searchsorted(np.sort(rewards), rewards)  # how many have less
            for (device, _), won in zip(duel, below, strict=True):
                index = place.get(device)
                if index is not None:
                    wins[index] += won / self.rounds
                    losses[index] += (len(duel) - 1 - won) / self.rounds
        return wins, losses

    def remember(self, memory: Memory, facts: RoundFacts) -> Memory:
        """The rewards of the last H rounds."""
        told = {
            outcome.id: outcome.reward
            for outcome in facts.outcomes
            if outcome.reward is not None and math.isfinite(outcome.reward)
        }
        duels = (*memory.duels, tuple(sorted(told.items())))[-self.rounds :]
        return msgspec.structs.replace(memory, duels=duels)


def skew_rewards(samples: NDArray[np.int64], layers: Sequence[NDArray[np.floating]]) -> Floats:
    """Rewards `[K]` of the K devices of a round, from gradients or changes `[K, size]` a layer.

    Raises:
        UsageError: a layer does not have K rows.
    """
    distance = np.zeros(len(samples))
    for layer in layers:
        if layer.ndim != 2 or len(layer) != len(samples):
            raise UsageError(
                f"a layer has shape {layer.shape}; wanted one row for each of {len(samples)}"
            )
        values = layer.astype(np.float64)
        if len(values):
            distance += np.sqrt(np.square(values - values.mean(axis=0)).sum(axis=1))
    return np.asarray(-np.sqrt(np.maximum(samples, 0)) * distance, np.float64)


def last_layer(layout: Layout) -> slice:
    """Which elements of an update `[S]` are the last layer's: the last shared tensor, and with a
    bias the kernel before it.
    """
    shared = [tensor for tensor in layout.tensors if tensor.shared]
    if not shared:
        return slice(0, 0)
    count = shared[-1].size
    if len(shared) > 1 and len(shared[-1].shape) == 1 and len(shared[-2].shape) > 1:
        count += shared[-2].size
    return slice(layout.shared_size - count, layout.shared_size)
