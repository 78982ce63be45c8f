"""The shell of a device's trial machine: what it keeps, opens, compares and puts to use.

    trials = Trials(store, Serving(bundle, weights, "watch 1", "bundle"), rules)
    trials.offer(Candidate(better, None, "watch 2", "owner"))
    ...                                      # trials.seen(given, answers) with every batch
    trials.serving                           # the model that decides, also after a power loss

One transaction holds the standing and every blob it refers to: whenever power goes, what is read
back names one model whose bytes are there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol import owner, trial
from hedgerow.protocol import trial_state as do
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.protocol.trial_state import TrialState, Version
from hedgerow.serve.effects import Tasks
from hedgerow.serve.trials.checking import Unsound, fits, sound
from hedgerow.serve.trials.comparing import Comparison
from hedgerow.serve.trials.fixed import FixedSample, Verdict
from hedgerow.serve.trials.keeping import Keeping, view
from hedgerow.serve.trials.models import (
    Candidate,
    OpenShadow,
    Serving,
    in_process,
)
from hedgerow.serve.trials.offers import Inbox, Releases
from hedgerow.wire.messages import Recall, Release, Trial

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
RETRY_SECONDS = 30.0
LIVE_ROWS = 16


async def _nothing(serving: Serving) -> None:
    """For whoever only asks `Trials.serving`."""


class Trials:
    """One device's trials. Use it from one event loop; `run` until cancelled."""

    def __init__(
        self,
        store: DeviceStore,
        begin: Serving,
        rules: TrialRules | None = None,
        *,
        key: str = "",
        open_shadow: OpenShadow = in_process,
        changed: Callable[[Serving], Awaitable[None]] = _nothing,
        told: Callable[[str, dict[str, Any]], None] = lambda what, fields: None,
    ) -> None:
        """`begin` decides where nothing was kept. `key` is who may sign releases."""
        self.key, self.rules = key, TrialRules() if rules is None else rules
        self._keeping = Keeping(store, begin)
        self.serving, standing = self._keeping.restored()
        self.state = TrialState(standing, self.rules)
        self._open, self._changed, self._told = open_shadow, changed, told
        self._comparison: Comparison | None = None
        self._comparing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._uses: asyncio.Queue[Serving] = asyncio.Queue()
        self._before: list[do.Event] | None = []
        """Events that came before `run`."""
        self._free = asyncio.Event()
        self._newest = 0
        self._live: Array = np.zeros((0, *begin.bundle.manifest.input.shape), np.float32)
        self._sample = FixedSample(open_shadow, self.rules.margin)
        self._tasks: Tasks
        self._releases = Releases(self)
        self._inbox: Inbox | None = None

    # What the agent calls -------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on where the last process ended; then for ever."""
        self._tasks = Tasks()
        waiting, self._before = self._before or [], None
        for event in (do.Started(), *waiting):
            self.handle(event)
        self._tasks.spawn(self._use())
        if self._inbox is not None:
            self._tasks.spawn(self._inbox.run())
        try:
            await asyncio.shield(self._tasks.failed)
        finally:
            await self.close()

    async def close(self) -> None:
        """End what is in progress; everything that matters is kept."""
        if self._timer is not None:
            self._timer.cancel()
        if self._before is None:
            await self._tasks.close()
        if self._comparison is not None:
            await self._comparison.close()

    def seen(
        self,
        given: Array,
        answers: Array,
        rows: NDArray[np.int64] | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        """Live windows `[B, *shape]` and the active model's answers `[B, size]`; returns at once.

        `rows [B]` number their streams; `labels [B]` are −1 where nobody knows.
        """
        if len(given) > len(self._live) < LIVE_ROWS:
            self._live = np.array(given[:LIVE_ROWS], np.float32)
        if self._comparison is not None:
            count = len(given)
            rows = np.zeros(count, np.int64) if rows is None else rows
            labels = np.full(count, -1, np.int64) if labels is None else labels
            self._comparison.seen(given, answers, rows, labels)

    def labelled(self, given: Array, labels: NDArray[np.int64]) -> None:
        """The truth of windows that were seen before: inputs `[n, *shape]` and labels `[n]`."""
        if self._comparison is not None:
            self._comparison.labelled(given, labels)

    def offer(self, candidate: Candidate) -> None:
        """Try this model; one that is being tried goes on, and the newest waits for its end.

        What the owner offers is tried although it failed before.
        """
        version = Version(
            bundle="",
            name=candidate.name,
            source=candidate.source,
            why=candidate.why,
            since_seconds=clock.now(),
        )
        bundle = self.serving.bundle if candidate.bundle is None else candidate.bundle
        weights = bundle.weights if candidate.weights is None else candidate.weights
        self.offer_version(Serving(bundle, weights, version.name, version.source), version)

    def offer_version(self, model: Serving, version: Version) -> None:
        """Try this model as `version`, which says all but which blobs it is made of."""
        again = version.source == "owner"
        try:
            fits(model, self.serving)
            version = self._keeping.expect(model, version)
        except Unsound as error:
            version = self._keeping.named(model, version)
            self.handle(do.Unfit(version, error.reason, error.why))
        else:
            self.handle(do.Offered(version, again))

    def failed(self, why: str) -> None:
        """The active model crashed or hung for good: while it is watched, it goes."""
        self.handle(do.Broken(self.state.standing.active.key, "crashed", why))

    async def at_once(
        self, candidate: Candidate, given: Array, labels: NDArray[np.int64]
    ) -> Verdict:
        """Use this model now, unless it is broken or shown to be worse on `given [n, *shape]`.

        For the model of a round and what was fitted to this device: there is another one soon, so
        it need not show that it is no worse. Waits for a trial in progress; of several that wait
        the newest is taken.
        """
        self._newest += 1
        number = self._newest
        while True:
            await self._no_trial()
            if number != self._newest:
                return Verdict(False, "a newer one came")
            bundle = self.serving.bundle if candidate.bundle is None else candidate.bundle
            weights = bundle.weights if candidate.weights is None else candidate.weights
            model = Serving(bundle, weights, candidate.name, candidate.source)
            try:
                verdict = await self._judged(model, given, labels)
                if self._in_trial:  # one began meanwhile
                    continue
                if verdict.taken:
                    self._adopt(model, verdict.why)
            except Unsound as error:
                self._told("model_refused", {"model": candidate.name, "why": error.why})
                return Verdict(False, error.why)
            return verdict

    @property
    def _in_trial(self) -> bool:
        return self.state.standing.attempt is not None

    async def _no_trial(self) -> None:
        while self._in_trial:
            self._free.clear()
            await self._free.wait()

    async def _judged(self, model: Serving, given: Array, labels: NDArray[np.int64]) -> Verdict:
        """Raises Unsound: it does not fit, or is broken."""
        fits(model, self.serving)
        if not len(given):
            given, labels = self._live, np.full(len(self._live), -1, np.int64)
        return await self._sample.verdict(model, self.serving, given, labels)

    def _adopt(self, model: Serving, why: str) -> None:
        """Use it from now on. Raises Unsound: there is no room for it."""
        same = model.bundle is self.serving.bundle
        version = Version(
            bundle="",
            name=model.name,
            source=model.source,
            why=why,
            release=self.state.standing.active.release if same else 0,
            since_seconds=clock.now(),
        )
        self.handle(do.Adopted(self._keeping.expect(model, version)))

    def view(self) -> list[owner.Trial]:
        """Every trial that is known, newest first."""
        return view(self.state.standing)

    def rebase(self, begin: Serving) -> None:
        """Another bundle was taken over from outside, and decides from now on; trials are over."""
        self._stop_comparing()
        self._wake(None)
        self.serving, self.state.standing = self._keeping.begin_anew(begin)
        self._live = self._live[:0]
        self._free.set()

    def attach(
        self,
        fetch: Callable[[str, int], Awaitable[bytes]],
        say: Callable[[Trial], None],
    ) -> None:
        """The fleet: how its blobs come here, and how news of a release go there."""
        self._releases.fetch, self._releases.say = fetch, say

    def hear(self, message: Release | Recall) -> None:
        """A release came, or one was taken back."""
        if self._before is None:
            self._tasks.spawn(self._releases.hear(message))

    def inbox(self, directory: Path) -> None:
        """Where the owner lays bundles to be tried; to be called before `run`."""
        self._inbox = Inbox(directory, self.offer)

    # The machine ----------------------------------------------------------------------------------

    def handle(self, event: do.Event) -> None:
        """One event through the machine, and its effects."""
        if self._before is not None:
            self._before.append(event)
            return
        with self._tasks.guarding():
            kept = self.state.standing
            self.state, effects = trial.step(self.state, event, clock.monotonic())
            for effect in effects:
                try:
                    self._act(effect)
                except HedgerowError as error:  # the disk is full, say: as if nothing had come
                    log.warning("a trial waits: %s", error)
                    self.state.standing = self._keeping.standing or kept
                    loop = asyncio.get_running_loop()
                    loop.call_later(RETRY_SECONDS, self.handle, event)
                    return
            if self.state.standing.attempt is None:
                self._free.set()

    def _act(self, effect: do.Effect) -> None:
        match effect:
            case do.Keep(standing):
                self._keeping.keep(standing)
            case do.Check(candidate):
                self._tasks.spawn(self._check(candidate))
            case do.Compare(candidate, other):
                self._compare(candidate, other)
            case do.StopComparing():
                self._stop_comparing()
            case do.Use(version):
                self.serving = self._keeping.loaded(version)
                self._uses.put_nowait(self.serving)
            case do.Wake(at_seconds):
                self._wake(at_seconds)
            case do.Say():
                self._releases.tell(effect)
            case do.Note(what, version, why):
                log.info("%s: %s %s", version.name, what, why)
                self._told("trial", {"model": version.name, "stage": what, "why": why})

    def _wake(self, at_seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop, self._timer = asyncio.get_running_loop(), None
        if at_seconds is not None:
            delay = max(0.0, at_seconds - clock.monotonic())
            self._timer = loop.call_later(delay, self.handle, do.PhaseEnded())

    async def _use(self) -> None:
        while True:
            serving = await self._uses.get()
            await self._changed(serving)

    async def _check(self, candidate: Version) -> None:
        reason = why = ""
        try:
            model = self._keeping.loaded(candidate)
            await sound(
                model,
                self.serving,
                self._live,
                self._open,
                clock.monotonic,
                self.rules.slower_max,
            )
        except Unsound as error:
            reason, why = error.reason, error.why
        except HedgerowError as error:
            reason, why = "bad_bundle", str(error)
        self.handle(do.Checked(candidate.key, reason, why))

    def _compare(self, candidate: Version, other: Version) -> None:
        self._stop_comparing()
        self._comparison = Comparison(
            candidate.key,
            self._keeping.loaded(candidate),
            self._keeping.loaded(other),
            candidate_active=candidate.key == self.state.standing.active.key,
            block_windows=self.rules.block_windows,
            open_shadow=self._open,
            tell=self.handle,
        )
        self._comparing = asyncio.get_running_loop().create_task(self._comparison.run())
        self._comparing.add_done_callback(self._compared)

    def _stop_comparing(self) -> None:
        if self._comparison is not None and self._comparing is not None:
            self._tasks.spawn(_ended(self._comparison, self._comparing))
        self._comparison = self._comparing = None

    def _compared(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._tasks.fail(error)


async def _ended(comparison: Comparison, task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await comparison.close()
