"""Learning on site: windows in, better weights out, and inference never waits for it.

    site = OnSite(bundle, weights, settings, name="press hall", directory=state / "onsite",
                  around=around)
    site.seen(rows, given, seconds, scores)      # every batch; keeps a fair sample
    site.ask("press 3 drifted")                  # sooner than usual
    await site.run(offer)                        # a task: trains when it may, and offers

What is learned is only offered, and only if it does better on what was held out: whether it is
taken up is for a trial beside the model in use to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from hedgerow.core.layout import Vector
from hedgerow.core.streams import stream
from hedgerow.io.children import bare_environment, ends_with_parent
from hedgerow.io.surroundings import Surroundings
from hedgerow.model.bundle import Bundle
from hedgerow.model.normal import Rows
from hedgerow.model.samples import Samples
from hedgerow.serve.onsite.budget import Budget, Gauges, MachineGauges, OnSiteSettings
from hedgerow.serve.onsite.pace import TICK_SECONDS, Pace
from hedgerow.serve.onsite.replay import NORMAL, UNLABELLED, Kept, Replay
from hedgerow.serve.onsite.task import BUNDLE, LEARNED, RESULT, SAMPLES, TASK, WEIGHTS, Result, Task
from hedgerow.serve.onsite.told import Learned, OnSiteView, State

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

MODULE: Final = "hedgerow.serve.onsite.training"
_LABELLED_MIN: Final = 16
_HELD_OUT_MIN: Final = 8


class OnSite:
    """Keeps windows and learns from them. For the event loop's thread; see the module."""

    def __init__(
        self,
        bundle: Bundle,
        weights: Vector,
        settings: OnSiteSettings,
        *,
        name: str,
        directory: Path,
        around: Surroundings,
        gauges: Callable[[], Gauges] | None = None,
        watts_per_core: float = 2.0,
        used: Callable[[float], None] = lambda cpu_seconds: None,
        niceness: int = 19,
    ) -> None:
        """`used` hears of CPU seconds as they are spent, for whoever accounts for energy."""
        self.settings = settings
        self._name, self._around, self._used = name, around, used
        self._niceness = niceness
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gauges = MachineGauges(around.monotonic) if gauges is None else gauges
        self._budget = Budget(
            settings, directory / "spent.json", watts_per_core, os.cpu_count() or 1
        )
        self._state: State = "idle" if settings.enabled else "off"
        self._why = self._for = self._last = ""
        self._asked = ""
        self._new = self._new_labels = 0
        self._trainings = self._offered = 0
        self._last_seconds = around.monotonic()
        self.use(bundle, weights)

    @property
    def view(self) -> OnSiteView:
        """How it stands."""
        spent, kept = self._budget.spent, self._replay
        return OnSiteView(
            state=self._state,
            why=self._why,
            windows=len(kept),
            streams=kept.streams,
            bytes=kept.nbytes,
            labelled=kept.labelled,
            trainings=self._trainings,
            offered=self._offered,
            cpu_seconds_today=spent.cpu_seconds,
            joules_today=spent.joules,
            last=self._last,
        )

    # What it learns from --------------------------------------------------------------------------

    def use(self, bundle: Bundle, weights: Vector) -> None:
        """Another model took over: learning begins from it. Windows of other features go."""
        former = getattr(self, "bundle", None)
        self.bundle, self.weights = bundle, np.array(weights, np.float32)
        if former is None or former.manifest.input != bundle.manifest.input:
            self._begin_buffer()

    def seen(
        self,
        rows: Rows,
        given: Array,
        seconds: NDArray[np.float64],
        scores: Array | None = None,
    ) -> None:
        """Model inputs f32 `[B, *shape]` of windows that began at `seconds [B]`; some are copied.

        Windows whose `scores [B]` are NaN are not learned from: their normal is not known yet.
        """
        if not self.settings.enabled:
            return
        if scores is not None:
            known = np.isfinite(scores)
            if not known.all():
                rows, given, seconds = rows[known], given[known], seconds[known]
                scores = scores[known]
        self._new += len(rows)
        self._replay.add(rows, given, seconds, scores)

    def labelled(self, row: int, start_seconds: float, end_seconds: float, label: int) -> int:
        """What somebody says of a stream, for the windows kept of that time; how many they are.

        `label` indexes the model's labels; for a reconstruction `NORMAL`, or 0 for a fault.
        """
        count = self._replay.label(row, start_seconds, end_seconds, label)
        self._new_labels += count
        return count

    def add_labelled(
        self, rows: Rows, given: Array, seconds: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> None:
        """Windows from elsewhere, such as the store, with their labels `[B]`."""
        self._replay.add_labelled(rows, given, seconds, labels)
        self._new_labels += len(rows)

    def evidence(self, row: int) -> tuple[list[float], list[float]]:
        """Scores of a stream's windows that were called normal, and called a fault."""
        kept = self._replay.all()
        known = (kept.rows == row) & np.isfinite(kept.scores)
        normal = kept.scores[known & (kept.labels == NORMAL)].tolist()
        return normal, kept.scores[known & (kept.labels >= 0)].tolist()

    def samples(self) -> Samples | None:
        """What it would learn from now, as a learner takes it; None if that is too little."""
        found = self._samples()
        return None if isinstance(found, str) else Samples(found[0].x, found[1])

    def ask(self, why: str, rows: Rows | None = None) -> None:
        """Learn sooner; `rows` drifted, so what they do now counts more."""
        self._asked = self._asked or why
        if rows is not None:
            self._replay.hurry(rows.tolist())

    def forget(self, start: float, end: float, row: int | None = None) -> int:
        """The owner's wish: overwrite what is kept of a period; how many windows that were."""
        return self._replay.forget(start, end, row)

    def clear(self) -> None:
        """The owner's wish: let go of everything kept, and of files of a"""
        self._begin_buffer()
        shutil.rmtree(self._directory / "task", ignore_errors=True)

    def _begin_buffer(self) -> None:
        self._replay = Replay(
            self.bundle.manifest.input.shape,
            self.settings.buffer_bytes_max,
            stream(0, "replay", self._name),
        )
        self._new = self._new_labels = 0

    # When and how ---------------------------------------------------------------------------------

    async def run(self, offer: Callable[[Learned], Awaitable[None]]) -> None:
        """Learn for ever, whenever there is cause and nothing speaks against it."""
        if not self.settings.enabled:
            await asyncio.Event().wait()
        while True:
            await self._around.sleep(self.settings.check_seconds)
            learned = await self.once()
            if learned is not None:
                await offer(learned)

    async def once(self) -> Learned | None:
        """Learn now if there is cause and nothing speaks against it; None if nothing came of it."""
        why = self._cause()
        if not why:
            self._state, self._why = "idle", ""
            return None
        blocked = self._budget.blocked(self._gauges(), self._around.now())
        if blocked:
            self._state, self._why = "waiting", blocked
            return None
        samples = self._samples()
        if isinstance(samples, str):
            self._state, self._why = "waiting", samples
            return None
        return await self._learn(why, *samples)

    def _cause(self) -> str:
        given = self.settings
        since = self._around.monotonic() - self._last_seconds
        rested = since >= given.pause_seconds or not self._trainings
        if self._asked and self._new >= given.windows_min and rested:
            return self._asked
        if self._new_labels >= _LABELLED_MIN:
            return f"{self._new_labels} windows were given labels"
        if since >= given.every_seconds and self._new >= given.windows_min and self._unsupervised:
            return f"{self._new} new windows"
        return ""

    @property
    def _unsupervised(self) -> bool:
        return self.bundle.manifest.output.task == "reconstruction"

    def _samples(self) -> tuple[Kept, NDArray[np.int64] | None] | str:
        """What to learn from, and its labels; or what is missing."""
        kept = self._replay.all()
        if self._unsupervised:
            well = (kept.labels == NORMAL) | ((kept.labels == UNLABELLED) & ~(kept.scores >= 1))
            kept, labels, wanted = kept.chosen(well), None, self.settings.windows_min
        else:
            known = (kept.labels >= 0) & (kept.labels < self.bundle.manifest.output.size)
            kept = kept.chosen(known)
            labels, wanted = kept.labels, _LABELLED_MIN
        if len(kept) < wanted:
            return f"{len(kept)} windows to learn from; {wanted} are wanted"
        held = kept.held_out()
        if min(int(held.sum()), int((~held).sum())) < _HELD_OUT_MIN:
            return "the windows are of too few different times to hold some out"
        return kept, labels

    async def _learn(
        self, why: str, kept: Kept, labels: NDArray[np.int64] | None
    ) -> Learned | None:
        self._state, self._why, self._for = "learning", why, why
        self._asked, self._new, self._new_labels = "", 0, 0
        self._trainings += 1
        home, start = self._directory / "task", self.weights
        before = self._budget.spent.cpu_seconds
        try:
            await asyncio.to_thread(self._write, home, kept, labels)
            fault = await self._train(home)
            result, weights = (None, None) if fault else self._read(home)
            if result is not None:  # its last moments nobody measured from outside
                rest = result.cpu_seconds - (self._budget.spent.cpu_seconds - before)
                self._spend(max(0.0, rest))
        except OSError as error:
            fault, result, weights = f"its files cannot be written ({error.strerror})", None, None
        finally:
            shutil.rmtree(home, ignore_errors=True)
            self._budget.keep()
            self._state, self._why = "idle", ""
            self._last_seconds = self._around.monotonic()
        seconds = self._budget.spent.cpu_seconds - before
        if result is None or weights is None:
            self._last = fault or (result.error if result is not None else "it left no result")
            log.warning("learning on site came to nothing: %s", self._last)
            return None
        change = f"{result.before:.4g} → {result.after:.4g} on held-out windows"
        if not result.after > result.before:
            self._last = f"no better: {change}"
            return None
        if not np.array_equal(start, self.weights):
            self._last = f"{change}, but another model took over meanwhile"
            return None
        self._last = f"better: {change}"
        self._offered += 1
        return Learned(
            weights=weights,
            why=f"{why}; {change}, {len(kept)} windows in all",
            before=result.before,
            after=result.after,
            windows=len(kept),
            seconds=seconds,
            joules=seconds * self._budget.watts_per_core,
        )

    def _write(self, home: Path, kept: Kept, labels: NDArray[np.int64] | None) -> None:
        shutil.rmtree(home, ignore_errors=True)  # of an agent that was killed meanwhile
        home.mkdir(mode=0o700)
        plan = msgspec.structs.replace(self.bundle.manifest.plan, epochs=self.settings.epochs)
        task = Task(self._name, plan, self.settings.memory_bytes_max, self._niceness)
        (home / TASK).write_bytes(msgspec.json.encode(task))
        self.bundle.save(home / BUNDLE)
        arrays: dict[str, NDArray[np.generic]] = {
            "x": np.ascontiguousarray(kept.x),
            "held_out": kept.held_out().astype(np.uint8),
        }
        if labels is not None:
            arrays["y"] = labels
        safetensors.numpy.save_file(arrays, home / SAMPLES)
        safetensors.numpy.save_file({"weights": self.weights}, home / WEIGHTS)

    def _read(self, home: Path) -> tuple[Result | None, Vector | None]:
        try:
            result = msgspec.json.decode((home / RESULT).read_bytes(), type=Result)
            if result.error:
                return result, None
            weights = safetensors.numpy.load_file(home / LEARNED)["weights"]
        except (OSError, msgspec.MsgspecError, SafetensorError, KeyError):
            return None, None
        if weights.shape != self.weights.shape or not np.isfinite(weights).all():
            return Result(error="the weights it left are not finite"), None
        return result, weights

    async def _train(self, home: Path) -> str:
        """Run the process within the budget; what went wrong, or nothing."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", MODULE, str(home)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env=bare_environment(OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1"),
            preexec_fn=ends_with_parent(),
            process_group=0,  # Ctrl-C is for the agent, which ends it in order
        )
        pace = Pace(process.pid, self.settings.cpu_share, self._around.monotonic)
        wait = asyncio.create_task(process.wait())
        try:
            while not wait.done():
                fault = self._hold_to_budget(pace)
                if fault:
                    return fault
                await asyncio.wait([wait], timeout=TICK_SECONDS)
            code = wait.result()
            return "" if code == 0 else f"its process ended with {code}"
        finally:
            if not wait.done():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await wait

    def _hold_to_budget(self, pace: Pace) -> str:
        """One tick: stop or continue the process; why it has to end, or nothing."""
        self._count(pace)
        if pace.cpu_seconds > self.settings.seconds_max:
            return f"it took more than {self.settings.seconds_max:g} s of CPU time"
        if pace.gauge_due():
            blocked = self._budget.blocked(
                self._gauges(), self._around.now(), own_cores=pace.recent_cores
            )
            if blocked and blocked.endswith("are spent"):
                return blocked
            pace.held = bool(blocked)
            self._state = "paused" if blocked else "learning"
            self._why = blocked or self._for
        pace.steer()
        return ""

    def _count(self, pace: Pace) -> None:
        self._spend(pace.measure())

    def _spend(self, cpu_seconds: float) -> None:
        if cpu_seconds > 0:
            self._budget.took(cpu_seconds, self._around.now())
            self._used(cpu_seconds)
