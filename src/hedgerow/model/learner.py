"""Training: a bundle's one-step graph, called over minibatches of one client or of many at once.

A device trains itself alone (K = 1), the simulator many clients in lockstep; what a client gets
depends on its own samples, weights and key, never on who else is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import Keys, key_of, mixed
from hedgerow.model.batches import Block, batch_of, blocks_of, cuts_of
from hedgerow.model.bundle import TRAIN, Bundle
from hedgerow.model.descent import INPUTS, OUTPUTS, Descent, Leaps, Slot
from hedgerow.model.passes import Counts, Losses, Pass, Rows, Trained
from hedgerow.model.samples import Samples, Views, sizes_of
from hedgerow.model.session import open_session
from hedgerow.model.training import Augment, Group, TrainingDiverged

__all__ = ["INPUTS", "OUTPUTS", "Augment", "Learner", "Samples", "TrainingDiverged"]

Array = NDArray[np.float32]
_LOSS_BATCH = 64
_KNOWN_FROM = 4096


class Learner:
    """Trains any weights of one bundle. Not safe to share between threads."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        together: int = 1 << 30,
        stride: int = 1,
        unrolled: Callable[[bytes], Sequence[bytes]] | None = None,
    ) -> None:
        """`together` clients take their steps at a time. `unrolled` makes of the graph those that
        take `stride` plain steps, in the order of `Leaps`: one, two, or none.
        """
        self.bundle = bundle
        self._threads, self._stride, self._unrolled = threads, stride, unrolled
        self._together = together
        self._session = open_session(bundle.file(TRAIN), threads=threads)
        self._core = self._session._sess
        self._start = bundle.weights
        self._several: Leaps | None = None
        self._descent: Descent | None = None
        self._known: NDArray[np.generic] | None = None
        self._only_loss = ort.RunOptions()
        self._only_loss.only_execute_path_to_fetches = True

    def step(
        self,
        weights: Array,
        anchor: Vector,
        shift: Array,
        x: Array,
        y: NDArray[np.generic],
        sample_weight: Array,
        rate: float,
        pull: float,
    ) -> tuple[Array, Array]:
        """One step for K clients at once, the graph as it is.

        Shapes: weights and shift `[K, P]`, anchor `[P]`, x `[K, B, *shape]`, sample_weight
        `[K, B]`, y `[K, B]` int64 for classification, `[K, B, size]` float32 for regression,
        `[K, B, *shape]` for reconstruction. Returns the new weights `[K, P]` and losses `[K]`.
        """
        scalars = np.float32(rate), np.float32(pull)
        values = (weights, anchor, shift, x, y, sample_weight, *map(np.asarray, scalars))
        new, loss = self._core.run(list(OUTPUTS), dict(zip(INPUTS, values, strict=True)), None)
        return new, loss

    def run(
        self,
        ask: Pass,
        clients: Sequence[Samples],
        keys: Keys,
        *,
        augment: Augment | None = None,
        should_stop: Callable[[], bool] | None = None,
        tolerant: bool = False,
    ) -> Trained:
        """Train row k of `ask.weights [K, P]` on `clients[k]`; nothing given is changed.

        `keys [K]` decide every draw. `augment` maps a batch `[B, *shape]` of one client to one of
        the same shape; `plan.augment` is names only, whoever calls resolves them. `should_stop` is
        asked before every step. For a reconstruction `y` None means the input itself, before
        `augment`. A `tolerant` run marks clients that diverge and goes on with the others.

        Raises:
            UsageError: arguments do not fit the bundle or the plan cannot be run.
            TrainingDiverged: a loss or weight left the finite numbers, unless `tolerant`.
        """
        self._check(ask, clients, keys)
        plan = ask.plan
        count = len(clients)
        sizes = sizes_of(clients)
        draws = mixed(keys ^ key_of(0, "pass", ask.name))
        answer = Trained(
            np.empty(ask.weights.shape, np.float32),  # whose rows may all be one
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, np.float64),
            np.zeros(count, np.bool_),
        )
        kinds, kind = np.unique(sizes, return_inverse=True)
        batches = np.array([batch_of(size, plan.batch) for size in kinds.tolist()])[kind]
        for batch in np.unique(batches)[::-1]:
            mine = np.flatnonzero(batches == batch)
            mine = mine[np.argsort(-sizes[mine], kind="stable")]
            whole = np.array_equal(mine, np.arange(count))
            chosen, its_keys = _chosen(clients, mine), draws[mine]
            blocks = self._blocks(plan, chosen, sizes[mine], its_keys, int(batch))
            for low in range(0, len(mine), self._together):
                high = min(low + self._together, len(mine))
                descent = self._buffers(high - low, int(batch))
                group = Group(
                    self.bundle.manifest,
                    descent,
                    ask,
                    chosen[low:high],
                    cuts_of(blocks, low, high),
                    its_keys[low:high],
                    slice(low, high) if whole else mine[low:high],
                    answer,
                )
                group.run(augment, should_stop, tolerant=tolerant)
        return answer

    def _blocks(
        self, plan: LocalPlan, clients: Sequence[Samples], sizes: Counts, keys: Keys, batch: int
    ) -> list[Block]:
        manifest = self.bundle.manifest
        row_bytes = 4 * math.prod(manifest.input.shape)
        kind = np.dtype(np.int64 if manifest.output.task == "classification" else np.float32)
        blocks = blocks_of(clients, sizes, keys, batch, plan.epochs, row_bytes, kind)
        for block in blocks:
            self._check_labels(block.source.whole.y)
        return blocks

    def losses(self, ask: Losses, clients: Sequence[Samples]) -> NDArray[np.float64]:
        """The mean loss `[K, C]` of each model of `ask.weights [C, P]` on each client's samples.

        Raises:
            UsageError: arguments do not fit the bundle.
        """
        found = np.zeros((len(clients), len(ask.weights)))
        models = np.ascontiguousarray(ask.weights, np.float32)
        zero = np.zeros((1, models.shape[1]), np.float32)
        number = np.zeros((), np.float32)
        for k, client in enumerate(clients):
            self._check_rows(models, client)
            y = self._targets(client)
            size = batch_of(len(client.x), _LOSS_BATCH)
            total = 0.0
            for start in range(0, len(client.x), size):
                x, targets, weight = _padded(client, y, start, size)
                several = [np.repeat(part[None], len(models), 0) for part in (x, targets, weight)]
                values = (models, zero[0], zero, *several, number, number)
                feeds = dict(zip(INPUTS, values, strict=True))
                (loss,) = self._core.run(["loss"], feeds, self._only_loss)
                found[k] += loss.astype(np.float64) * float(weight.sum())
                total += float(weight.sum())
            found[k] /= max(total, 1e-12)
        return found

    def _check(self, ask: Pass, clients: Sequence[Samples], keys: Keys) -> None:
        """Refuses what does not fit."""
        plan = ask.plan
        if plan.rate <= 0 or plan.batch < 1 or plan.epochs < 0 or not 0 <= plan.average_last <= 1:
            raise UsageError(
                f"the plan has rate {plan.rate}, batch {plan.batch}, epochs {plan.epochs}, "
                f"average_last {plan.average_last}; wanted rate > 0, batch ≥ 1, epochs ≥ 0 and "
                "average_last from 0 to 1"
            )
        if not len(ask.weights) == len(clients) == len(keys):
            raise UsageError(
                f"{len(ask.weights)} rows of weights and {len(keys)} keys for {len(clients)} "
                "clients; wanted one of each"
            )
        if isinstance(clients, Views) and len(clients) and clients.counts.min() > 0:
            self._check_rows(ask.weights, clients.whole)
            return
        output, shape = self.bundle.manifest.output, self.bundle.manifest.input.shape
        plain = output.task == "classification" and ask.weights.shape[1:] == self._start.shape
        for client in clients:
            x, y = client.x, client.y
            fits = plain and y is not None and x.dtype == np.float32 and x.shape[1:] == shape
            if not fits or y is None or y.shape != x.shape[:1] or not len(x):
                self._check_rows(ask.weights, client)

    def _check_rows(self, weights: Rows, client: Samples) -> None:
        manifest = self.bundle.manifest
        size, shape, x = manifest.layout.size, manifest.input.shape, client.x
        if weights.ndim != 2 or weights.shape[1] != size:
            raise UsageError(f"weights have shape {weights.shape}, the model wants (K, {size})")
        if x.shape[1:] != shape or len(x) == 0:
            raise UsageError(f"x has shape {x.shape}, the model wants (n, *{shape}) with n ≥ 1")
        if x.dtype != np.float32:
            raise UsageError(f"x is {x.dtype}; wanted float32")
        output = manifest.output
        wanted = {
            "classification": (len(x),),
            "regression": (len(x), output.size),
            "reconstruction": x.shape,
        }[output.task]
        y = client.y
        if y is None and output.task == "reconstruction":
            return
        if y is None or y.shape != wanted:
            got = None if y is None else y.shape
            raise UsageError(f"y has shape {got}; {output.task} wants {wanted}")

    def _targets(self, client: Samples) -> NDArray[np.generic]:
        """The targets in the graph's type; refuses labels there are none of."""
        y = client.x if client.y is None else client.y
        output = self.bundle.manifest.output
        if output.task != "classification":
            return y.astype(np.float32, copy=False)
        self._check_labels(y)
        return y.astype(np.int64, copy=False)

    def _check_labels(self, y: NDArray[np.generic] | None) -> None:
        """Refuses labels there are none of; many clients' common array is looked at once."""
        output = self.bundle.manifest.output
        if y is None or output.task != "classification" or y is self._known:
            return
        low, high = y.min(), y.max()
        if low < 0 or high >= output.size:
            raise UsageError(f"labels reach from {low} to {high}; wanted 0 to {output.size - 1}")
        if len(y) > _KNOWN_FROM:
            self._known = y

    def _buffers(self, clients: int, batch: int) -> Descent:
        """Buffers for so many clients and samples a step; the last ones, where they will do."""
        held = self._descent
        if held is None or not held.holds(clients, batch):
            manifest = self.bundle.manifest
            several = self._open_several()
            slots = [
                self._slot(clients, batch) for _ in range(1 if several is None else self._stride)
            ]
            held = self._descent = Descent(self._session, manifest.layout.size, slots, several)
        return held

    def _slot(self, clients: int, batch: int) -> Slot:
        shape, output = self.bundle.manifest.input.shape, self.bundle.manifest.output
        behind = {
            "classification": (),
            "regression": (output.size,),
            "reconstruction": shape,
        }[output.task]
        kind = np.int64 if output.task == "classification" else np.float32
        return Slot(
            np.zeros((clients, batch, *shape), np.float32),
            np.zeros((clients, batch, *behind), kind),
            np.zeros((clients, batch), np.float32),
        )

    def _open_several(self) -> Leaps | None:
        """The graphs of several steps, made when training begins."""
        if self._unrolled is not None:
            graphs = self._unrolled(self.bundle.file(TRAIN))
            self._unrolled = None
            if graphs:
                opened = [open_session(graph, threads=self._threads) for graph in graphs]
                self._several = Leaps(*opened)
        return self._several


def _chosen(clients: Sequence[Samples], rows: Counts) -> Sequence[Samples]:
    return clients[rows] if isinstance(clients, Views) else [clients[k] for k in rows.tolist()]


def _padded(
    client: Samples, y: NDArray[np.generic], start: int, size: int
) -> tuple[Array, NDArray[np.generic], Array]:
    """`size` rows of a client's samples, targets and weights; missing ones are zeros."""
    x = client.x[start : start + size]
    weight = np.zeros(size, np.float32)
    weight[: len(x)] = 1 if client.weight is None else client.weight[start : start + size]
    targets = y[start : start + size]
    if len(x) < size:
        missing = size - len(x)
        x, targets = (
            np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            for part in (x, targets)
        )
    return x, targets, weight
