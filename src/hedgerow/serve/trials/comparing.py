"""Two models on the same live windows: the one in use has answered, the other one does so here.

What waits is bounded: windows that come too fast are not compared, whichever they are. The model
beside takes at most half of the time, so that the one in use goes first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.decide.sequential import blocks
from hedgerow.io import clock
from hedgerow.protocol.trial_state import Broken, Compared
from hedgerow.serve.trials.checking import Unsound, answers_fit
from hedgerow.serve.trials.judging import Thinner, changes, losses
from hedgerow.serve.trials.models import OpenShadow, Serving, Shadow

Array = NDArray[np.float32]
ROWS_MAX = 512
"""Windows that wait."""
BATCH = 64
KEEP_SECONDS = 2.0
"""Evidence is written down this often at most: a commit is a wait for the disk."""
TELL_BLOCKS = 64
TRIES = 3
"""Times in a row that the candidate may leave a batch unanswered."""


class Waiting(NamedTuple):
    """Windows to compare, with the active model's answers, or None where it has not answered."""

    given: Array
    answers: Array | None
    labels: NDArray[np.int64]


class Comparison:
    """One candidate beside the other model, until closed. Tells `Compared` and `Broken`."""

    def __init__(
        self,
        key: str,
        candidate: Serving,
        other: Serving,
        *,
        candidate_active: bool,
        block_windows: int,
        open_shadow: OpenShadow,
        tell: Callable[[Compared | Broken], None],
    ) -> None:
        self._key, self._candidate, self._other = key, candidate, other
        self._candidate_active = candidate_active
        self._block, self._open, self._tell = block_windows, open_shadow, tell
        schema = candidate.bundle.manifest.input
        self._thinner = Thinner(schema.window, schema.hop)
        self._task = candidate.bundle.manifest.output.task
        self._queue: deque[Waiting] = deque()
        self._rows = 0
        self._arrived = asyncio.Event()
        self._changes: list[float] = []
        self._losses: list[float] = []
        self._ready: tuple[list[float], list[float]] = ([], [])
        self._kept_at = clock.monotonic()
        self._shadows: dict[bool, Shadow] = {}
        """By whether it is the candidate."""
        self.missed = 0
        """Windows that came too fast to be compared."""

    def seen(
        self, given: Array, answers: Array, rows: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> None:
        """Windows that the active model answered. Copies what is compared; returns at once."""
        taken = np.flatnonzero(self._thinner.take(rows))[: max(0, ROWS_MAX - self._rows)]
        self.missed += len(rows) - len(taken)
        if len(taken):
            self._put(Waiting(given[taken], answers[taken], labels[taken]))

    def labelled(self, given: Array, labels: NDArray[np.int64]) -> None:
        """Windows whose truth came later: both models answer them."""
        room = max(0, ROWS_MAX - self._rows)
        if room and len(given):
            self._put(Waiting(np.array(given[:room]), None, labels[:room].copy()))

    def _put(self, waiting: Waiting) -> None:
        self._queue.append(waiting)
        self._rows += len(waiting.given)
        self._arrived.set()

    async def run(self) -> None:
        """Compare for ever."""
        failures = 0
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                waiting = self._queue.popleft()
                self._rows -= len(waiting.given)
                began = clock.monotonic()
                try:
                    await self._compare(waiting)
                    failures = 0
                except Unsound as error:
                    self._tell(Broken(self._key, error.reason, error.why))
                    return
                except HedgerowError as error:
                    failures += 1
                    await self.close()  # opened anew for the next batch
                    if failures >= TRIES:
                        self._tell(Broken(self._key, "crashed", f"it cannot answer: {error}"))
                        return
                await asyncio.sleep(clock.monotonic() - began)
            self._flush()

    async def close(self) -> None:
        """Let go of the models."""
        shadows, self._shadows = list(self._shadows.values()), {}
        for shadow in shadows:
            await shadow.close()

    async def _compare(self, waiting: Waiting) -> None:
        for first in range(0, len(waiting.given), BATCH):
            part = slice(first, first + BATCH)
            given, labels = waiting.given[part], waiting.labels[part]
            answers = None if waiting.answers is None else waiting.answers[part]
            theirs = await self._answers(self._candidate_active, given, answers)
            beside = await self._answers(not self._candidate_active, given, None)
            mine, others = (theirs, beside) if self._candidate_active else (beside, theirs)
            answers_fit(mine, len(given), self._candidate)
            self._add(given, labels, mine, others, fresh=waiting.answers is not None)

    async def _answers(self, candidate: bool, given: Array, known: Array | None) -> Array:
        if known is not None:
            return known
        model = self._candidate if candidate else self._other
        if candidate not in self._shadows:
            self._shadows[candidate] = await self._open(model.bundle, model.weights, model.name)
        return await self._shadows[candidate].infer(given)

    def _add(
        self,
        given: Array,
        labels: NDArray[np.int64],
        mine: Array,
        others: Array,
        *,
        fresh: bool,
    ) -> None:
        """Values of these windows; whole blocks of neighbours become evidence."""
        given = given.reshape(len(given), -1)
        mine, others = mine.reshape(len(mine), -1), others.reshape(len(others), -1)
        lost = losses(self._task, given, mine, labels) - losses(self._task, given, others, labels)
        if fresh:  # labels that come later are of windows that were counted before
            self._changes += changes(self._task, given, mine, others).tolist()
        self._losses += lost[np.isfinite(lost)].tolist()
        whole, self._changes = blocks(self._changes, self._block)
        judged, self._losses = blocks(self._losses, self._block)
        self._ready[0].extend(whole)
        self._ready[1].extend(judged)
        self._flush()

    def _flush(self) -> None:
        changed, lost = self._ready
        due = clock.monotonic() - self._kept_at >= KEEP_SECONDS
        if (changed or lost) and (due or len(changed) + len(lost) >= TELL_BLOCKS):
            self._ready, self._kept_at = ([], []), clock.monotonic()
            self._tell(Compared(self._key, changed, lost))
