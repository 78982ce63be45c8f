"""FedLECC: some of every kind of device, the badly served kinds first.

FedLECC: cluster- and loss-guided client selection for federated learning under non-IID data
(Jimenez-Gutierrez et al., 2026). Devices are clustered by the Hellinger distance of their label
histograms; the clusters with the highest mean loss are taken, and from each the devices with the
highest loss, ⌈count / clusters_taken⌉ a cluster, until the places are filled. Clusters here come
from k-means over the square roots of the shares, where the Euclidean distance is √2 times
Hellinger's, started with the devices farthest apart: O(N) and without chance.

**What leaves the device: how many of its training samples belong to each class.** That says what
its owner does, so nothing sends it unless the owner allows it, and no default uses this policy.
Devices that keep it to themselves form a cluster of their own and are chosen like any other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.selection.base import Floats, Places, Policy, Pool, highest

_SWEEPS = 20


class FedLECC(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedlecc"):
    """`clusters` are formed; places go to the `clusters_taken` with the highest loss."""

    clusters: Annotated[int, msgspec.Meta(ge=1, le=256)] = 10
    clusters_taken: Annotated[int, msgspec.Meta(ge=1, le=256)] = 5

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """The rule above. A cluster with no known loss comes first: nothing is known of it."""
        groups = cluster_of([each.labels for each in pool.candidates], self.clusters)
        order = highest(pool.loss, len(pool), rng)
        members = [order[groups[order] == group] for group in range(int(groups.max()) + 1)]
        ranked = sorted(
            (rows for rows in members if len(rows)),
            key=lambda rows: (-_mean_loss(pool.loss[rows]), int(rows.min())),
        )
        quota = math.ceil(count / min(self.clusters_taken, count, len(ranked)))
        chosen = [rows[:quota] for rows in ranked]
        spare = [rows[quota:] for rows in ranked]
        return np.concatenate([*chosen, *spare])[:count]


def cluster_of(histograms: Sequence[tuple[float, ...] | None], clusters: int) -> NDArray[np.int64]:
    """The cluster of each device, `[N]`: 0 for those without a histogram, others from 1.

    A histogram of another length than most (the most frequent, the longer at a tie) or with
    anything but finite numbers from 0 in it counts as none.
    """
    groups = np.zeros(len(histograms), np.int64)
    lengths = Counter(len(row) for row in histograms if row)
    if not lengths:
        return groups
    size = max(lengths, key=lambda length: (lengths[length], length))
    fitting = [i for i, row in enumerate(histograms) if row is not None and len(row) == size]
    counts = np.array([histograms[i] for i in fitting], np.float64)
    with np.errstate(over="ignore"):  # a sum beyond all numbers is none, see below
        total = counts.sum(axis=1)
    usable = np.isfinite(total) & (total > 0) & (counts >= 0).all(axis=1)
    if usable.any():
        shares = counts[usable] / total[usable, None]
        groups[np.array(fitting)[usable]] = 1 + _k_means(np.sqrt(shares), clusters)
    return groups


def _mean_loss(loss: Floats) -> float:
    known = loss[~np.isnan(loss)]
    return float(known.mean()) if len(known) else math.inf


def _k_means(points: Floats, clusters: int) -> NDArray[np.int64]:
    """The nearest centre of each point, `[N]`; at most `clusters` of them."""
    centres = points[:1]
    gap = np.square(points - centres[0]).sum(axis=1)
    while len(centres) < clusters and gap.max() > 1e-12:
        centres = np.vstack([centres, points[int(gap.argmax())]])
        gap = np.minimum(gap, np.square(points - centres[-1]).sum(axis=1))
    nearest = np.zeros(len(points), np.int64)
    for sweep in range(_SWEEPS):
        reach = np.square(centres).sum(axis=1) - 2 * points @ centres.T
        found = reach.argmin(axis=1)
        if np.array_equal(found, nearest) and sweep > 0:
            break
        nearest = found
        for index in range(len(centres)):
            mine = points[nearest == index]
            if len(mine):
                centres[index] = mine.mean(axis=0)
    return nearest.astype(np.int64)
