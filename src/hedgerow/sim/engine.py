"""The learning engine: trains many clients at once through the bundle's training graph.

Clients go to worker threads a batch at a time; ONNX Runtime and NumPy leave the interpreter's lock
while they compute. Within a batch some step together at a time (`hedgerow.model.learner`). What a
client comes to depends on its data, its key and the model alone, and sums are integers: a round
has the same bits on one worker or many, and in batches of any size. Memory does not grow with the
number of clients.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import FIGURE_MAX, Algorithm, Contribution, LocalTask
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.resource_aware import narrowed
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Augment, Learner
from hedgerow.model.metrics import score
from hedgerow.model.passes import Counts, Rows
from hedgerow.model.predictor import Predictor
from hedgerow.model.samples import Samples, sizes_of
from hedgerow.protocol.learning import Sums
from hedgerow.sense.augment import augmenter
from hedgerow.sim.data import FederatedData, Viewed
from hedgerow.sim.states import ClientStates
from hedgerow.sim.terms import terms, well
from hedgerow.sim.unroll import abreast, learner_of

Model = Mapping[str, NDArray[np.float32]]
Answer = TypeVar("Answer")
_WINDOW = 4096  # clients that are sorted by their number of samples together
_SCORE_BATCH = 512
_LOSS_ONE = 1 << 20
_PRIVATE = "private"
_NUMBERS = 1_300_000


@dataclass
class Round:
    """What some clients came to. Merging parts in any order gives the same, bit by bit.

    `diverged` clients left the finite numbers; `refused` ones sent what no fleet would count in.
    """

    sums: Sums = field(default_factory=Sums)
    clients: int = 0
    samples: int = 0
    steps: int = 0
    loss_total: int = 0
    diverged: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The mean loss over all samples seen; NaN for none."""
        return self.loss_total / _LOSS_ONE / self.samples if self.samples else float("nan")

    def merge(self, other: Round) -> None:
        """Count in another part."""
        self.sums.merge(other.sums)
        self.clients += other.clients
        self.samples += other.samples
        self.steps += other.steps
        self.loss_total += other.loss_total
        self.diverged = sorted(self.diverged + other.diverged)
        self.refused = sorted(self.refused + other.refused)


class Engine:
    """Trains the clients of `data`. Use as a context manager, or `close` it.

    `workers` threads (None: one for each processor); `together` clients a batch (None: as
    `clients_together` says); `states` keeps what clients keep (None: in temporary files, made when
    first wanted); `widths [N]` is which form of the bundle each client trains (None: the whole
    model); `learner` makes each worker's learner of a bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: FederatedData,
        *,
        workers: int | None = None,
        seed: int = 0,
        states: ClientStates | None = None,
        augment: Augment | None = None,
        together: int | None = None,
        widths: Counts | None = None,
        learner: Callable[[Bundle], Learner] = learner_of,
    ) -> None:
        self.bundle, self.data = bundle, data
        self.seed = seed
        self.workers = workers or len(os.sched_getaffinity(0))
        self.together = together or clients_together(bundle)
        self._given_states = states
        self._own_states: ClientStates | None = None
        self._augment = augment
        self._widths = widths
        self._make = learner
        self._here = threading.local()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self.workers, "hedgerow-learn")
        self._bundle_at = lru_cache(maxsize=None)(bundle.at_width)
        self._augmenter = lru_cache(maxsize=8)(
            lambda names: augmenter(names, bundle.manifest.input)
        )

    # Learning -------------------------------------------------------------------------------------

    def contributions(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Counts, round: int
    ) -> Iterator[tuple[Counts, Contribution]]:
        """What `clients` come to in `round`, some at a time: their ids `[K]` and contribution.

        `model` is what devices download, as `unpack_model` gives it. What a client keeps is kept
        once its batch is done, except for one that diverged (`Contribution.trained.diverged`).
        """
        for ids, contribution in self.learned(algorithm, model, plan, clients, round):
            self.keep(ids[well(contribution)], self.kept_by(ids, contribution, fine=True))
            yield ids, contribution

    def learned(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Counts, round: int
    ) -> Iterator[tuple[Counts, Contribution]]:
        """The same, and nothing is kept; see `keep`."""
        self._prepare(algorithm)
        jobs = (
            (lambda ids=ids: (ids, self._contribution(algorithm, model, plan, ids, round)))
            for ids in self._batches(clients)
        )
        yield from self._spread(jobs)

    def sums(
        self,
        algorithm: Algorithm,
        model: Model,
        plan: LocalPlan,
        clients: Counts,
        round: int,
        *,
        staleness: int = 0,
    ) -> Round:
        """The same, summed as the coordinator would; `staleness` versions late."""
        self._prepare(algorithm)
        total = Round()

        def share(ids: Counts) -> Round:
            contribution = self._contribution(algorithm, model, plan, ids, round)
            part = self._summed(algorithm, contribution, ids, staleness)
            counted = ~np.isin(ids, part.diverged + part.refused)
            kept = self.kept_by(ids, contribution)
            self.keep(ids[counted], {name: rows[counted] for name, rows in kept.items()})
            return part

        jobs = ((lambda ids=ids: share(ids)) for ids in self._batches(clients))
        for part in self._spread(jobs):
            total.merge(part)
        return total

    # Measuring ------------------------------------------------------------------------------------

    def evaluate(
        self, weights: Vector, x: NDArray[np.float32], y: NDArray[np.generic] | None
    ) -> float:
        """Accuracy of `weights [P]` on `x` and `y` (else minus the mean squared error)."""
        return self._score(self._predictor(weights), x, y)

    def evaluate_many(self, weights: Vector | Rows, clients: Counts) -> NDArray[np.float64]:
        """Each client's own score `[K]` on what it holds out, NaN for nothing; `weights` are
        `[P]` for all or `[K, P]`.
        """
        common = self._predictor(weights) if weights.ndim == 1 else None
        found = np.full(len(clients), np.nan)
        for row, client in enumerate(clients.tolist()):
            held = self.data.held_out(client)
            if held is not None and len(held.x):
                predictor = common or self._predictor(weights[row])
                found[row] = self._score(predictor, held.x, held.y)
        return found

    def close(self) -> None:
        """End the threads; what clients kept in temporary files is gone."""
        self._pool.shutdown()
        if self._own_states is not None:
            self._own_states.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Batches --------------------------------------------------------------------------------------

    def _batches(self, clients: Counts) -> Iterator[Counts]:
        """Clients of one width and about as many samples together."""
        for start in range(0, len(clients), _WINDOW):
            window = clients[start : start + _WINDOW]
            window = window[np.argsort(-self.data.counts[window], kind="stable")]
            parts = [window]
            if self._widths is not None:
                widths = self._widths[window]
                parts = [window[widths == width] for width in np.unique(widths)]
            for part in parts:
                for low in range(0, len(part), self.together):
                    yield part[low : low + self.together]

    def _spread(self, jobs: Iterable[Callable[[], Answer]]) -> Iterator[Answer]:
        """Answers in the order of the jobs, of which a few are under way at a time."""
        waiting: deque[Future[Answer]] = deque()
        try:
            for job in jobs:
                waiting.append(self._pool.submit(job))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _learner(self, width: int) -> Learner:
        learners: dict[int, Learner] | None = getattr(self._here, "learners", None)
        if learners is None:
            learners = self._here.learners = {}
        if width not in learners:
            with self._lock:
                bundle = self._bundle_at(width)
            learners[width] = self._make(bundle)
        return learners[width]

    # One batch ------------------------------------------------------------------------------------

    def _contribution(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Counts, round: int
    ) -> Contribution:
        width = 0 if self._widths is None else int(self._widths[clients[0]])
        learner = self._learner(width)
        samples = self._samples(clients, round)
        keys = keys_of(self.seed, ("round", round), clients)
        augment = self._augment or self._augmenter(plan.augment)
        task = self._task(algorithm, model, plan, clients, sizes_of(samples))
        if width:
            task = narrowed(task, self.bundle.parts[width], width)
        return drive(
            algorithm.local(task),
            lambda ask: learner.run(ask, samples, keys, augment=augment, tolerant=True),
            lambda ask: learner.losses(ask, samples),
        )

    def _samples(self, clients: Counts, round: int) -> Sequence[Samples]:
        if isinstance(self.data, Viewed):
            return self.data.views(clients, round)
        return [self.data.samples(client, round) for client in clients.tolist()]

    def _task(
        self,
        algorithm: Algorithm,
        model: Model,
        plan: LocalPlan,
        clients: Counts,
        counts: Counts,
    ) -> LocalTask:
        layout = self.bundle.manifest.layout
        shared = layout.shared_size
        weights = np.broadcast_to(model["weights"], (len(clients), shared))
        if shared < layout.size:
            own, known = self._states.read(_PRIVATE, clients)
            own = np.where(known[:, None], own, self.bundle.weights[shared:])
            weights = np.concatenate([weights, own], 1)
        kept, fresh = {}, np.zeros(len(clients), np.bool_)
        for name in algorithm.keeps:
            kept[name], known = self._states.read(f"kept-{name}", clients)
            fresh |= ~known
        brought = {name: part for name, part in model.items() if name != "weights"}
        return LocalTask(weights, brought, kept, fresh, counts, plan, layout)

    @property
    def _states(self) -> ClientStates:
        states = self._given_states or self._own_states
        assert states is not None
        return states

    def _prepare(self, algorithm: Algorithm) -> None:
        layout = self.bundle.manifest.layout
        private = layout.size - layout.shared_size
        if not algorithm.keeps and not private:
            return
        if self._given_states is None and self._own_states is None:
            self._own_states = ClientStates(len(self.data))
        if private:
            self._states.open(_PRIVATE, private)
        for name in algorithm.keeps:
            self._states.open(f"kept-{name}", layout.size)

    def kept_by(
        self, clients: Counts, contribution: Contribution, *, fine: bool = False
    ) -> dict[str, Rows]:
        """What the clients of one batch would keep, by name; `fine`: of those that went well."""
        layout, kept = self.bundle.manifest.layout, dict[str, Rows]()
        if self._widths is not None and self._widths[clients[0]]:
            return kept
        kept = {f"kept-{name}": rows for name, rows in contribution.kept.items()}
        if layout.shared_size < layout.size:
            kept[_PRIVATE] = contribution.weights[:, layout.shared_size :]
        return {name: rows[well(contribution)] for name, rows in kept.items()} if fine else kept

    def keep(self, clients: Counts, kept: Mapping[str, Rows]) -> None:
        """Let clients keep `[K, size]` by name until they train again."""
        for name, rows in kept.items():
            self._states.write(name, clients, rows)

    # Sums -----------------------------------------------------------------------------------------

    def _summed(
        self, algorithm: Algorithm, contribution: Contribution, clients: Counts, staleness: int
    ) -> Round:
        trained, part = contribution.trained, Round(clients=len(clients))
        fine = well(contribution)
        part.diverged = clients[~fine].tolist()
        figures = [contribution.figures[name] for name in algorithm.figures]
        for figure in figures:
            fine &= np.abs(figure) <= FIGURE_MAX  # not so for NaN
        width = 0 if self._widths is None else int(self._widths[clients[0]])
        layout = self.bundle.parts[width].layout
        rows = terms(algorithm, contribution, layout, figures)
        weigh = lru_cache(maxsize=None)(algorithm.weighting.of)  # most ask for the same
        counts = self.data.counts[clients].tolist()
        losses = trained.loss if algorithm.weighting.loss_power else np.zeros(len(counts))
        known = zip(counts, losses.tolist(), strict=True)
        weights = [weigh(count, staleness, loss) for count, loss in known]
        groups = np.zeros(len(clients), np.int64)
        if contribution.group is not None:
            groups = contribution.group
        taken = np.zeros(len(clients), np.bool_)
        for group in np.unique(groups[fine]).tolist():
            mine = np.flatnonzero(fine & (groups == group))
            chosen = rows if len(mine) == len(rows) else rows[mine]
            total = part.sums.groups.setdefault(group, ExactSum(rows.shape[1]))
            taken[mine] = total.add_rows(chosen, [weights[k] for k in mine.tolist()])
        part.refused = sorted(set(clients[~taken].tolist()) - set(part.diverged))
        part.samples = int(trained.samples[taken].sum())
        part.steps = int(trained.steps[taken].sum())
        seen = taken & (trained.samples > 0)
        totals = trained.loss[seen] * trained.samples[seen] * _LOSS_ONE
        part.loss_total = sum(map(int, np.rint(totals).tolist()))
        return part

    def _predictor(self, weights: Vector) -> Predictor:
        return Predictor(self.bundle, weights=weights)

    def _score(
        self, predictor: Predictor, x: NDArray[np.float32], y: NDArray[np.generic] | None
    ) -> float:
        parts = [predictor(x[low : low + _SCORE_BATCH]) for low in range(0, len(x), _SCORE_BATCH)]
        output = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        wanted = x if y is None else y
        if y is None:
            output = output.reshape(x.shape)
        return score(self.bundle.manifest.output.task, output, wanted)


def clients_together(bundle: Bundle) -> int:
    """How many clients a batch, as measured: what is done once a batch is shared by those of
    several runs of the graph, as long as their weights take little memory.
    """
    few = _NUMBERS // bundle.manifest.layout.size
    return max(1, min(8 * abreast(bundle), few))
