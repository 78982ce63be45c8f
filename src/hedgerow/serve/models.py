"""The model that decides: run in its guard, tried against others, replaced while all goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Vector
from hedgerow.decide.anomaly import Anomaly
from hedgerow.decide.drift import DriftWatch
from hedgerow.io import clock
from hedgerow.io.device_store import StoreFull
from hedgerow.io.surroundings import Surroundings
from hedgerow.model.bundle import Bundle, Manifest
from hedgerow.protocol.owner import ModelView
from hedgerow.sense.features import features
from hedgerow.serve.edge.edge import Edge, Judged
from hedgerow.serve.edge.engine import Engine
from hedgerow.serve.edge.streams import rows_of
from hedgerow.serve.home import Home
from hedgerow.serve.inference.base import Happened, ModelDown, ModelRefused, ModelSpec
from hedgerow.serve.inference.guard import GuardedModel
from hedgerow.serve.inference.runner import runner_of
from hedgerow.serve.onsite import NORMAL, Learned, OnSite
from hedgerow.serve.trials import Candidate, Serving, Shadow, Trials, in_process

log = logging.getLogger(__name__)

FACT_NORMAL = "normal"
FACT_NORMAL_OF = "normal_of"
"""What the model takes whose streams' normal is kept."""
NORMAL_WORD = "normal"
"""What an owner calls a period in which a machine did what it should."""
PRESENT_SECONDS = 60.0
TRUTH_MAX = 256
"""Windows of one period that models on trial are asked about again."""
KEEP_SECONDS = 600.0
READY_SECONDS = 10.0
"""Streams whose normal has just become known are kept this soon."""
TYPICAL_LEAST, TYPICAL_MOST = 64, 128

Told = Callable[[str, dict[str, Any]], None]


class Models:
    """What serves, and the trials of what may serve next. Use from one event loop."""

    def __init__(
        self, home: Home, around: Surroundings, told: Told, used: Callable[[float], None]
    ) -> None:
        """`used` hears of CPU seconds that learning on site took."""
        settings = home.settings
        self._home, self._around = home, around
        self.runner = runner_of(settings.inference, threads=settings.threads, told=self._happened)
        manifest = home.bundle.manifest
        name = f"{manifest.name} {manifest.version}"
        if home.model.version > 0:
            name = f"{manifest.name} round {home.model.version}"
        self.trials = Trials(
            home.store,
            Serving(home.bundle, home.weights(), name, "bundle"),
            settings.trial,
            key="",
            open_shadow=self._shadow,
            changed=self._changed,
            told=told,
        )
        self.trials.inbox(settings.state / "offers")
        serving = self.trials.serving
        self.site = OnSite(
            serving.bundle,
            serving.weights,
            settings.learning,
            name=home.name,
            directory=settings.state / "onsite",
            around=around,
            watts_per_core=settings.energy.watts_per_core,
            used=used,
        )
        self._typical_of: Bundle | None = None
        self._inputs: NDArray[np.float32] | None = None
        self._learned = 0
        self._drifted = 0
        self.learns = False
        """Whether this process trains too."""
        self._since = clock.now()
        self._edge: Edge | None = None

    @property
    def serving(self) -> Serving:
        """What decides now."""
        return self.trials.serving

    def attach(self, edge: Edge) -> None:
        """The edge whose engine follows the model."""
        self._edge = edge

    def engine(self) -> Engine:
        """A pipeline for what decides now, with what was learned to be normal for each stream."""
        settings, manifest = self._home.settings, self.serving.bundle.manifest
        scorer: Anomaly | None = None
        names: tuple[str, ...] = ()
        drift: DriftWatch | None = None
        if manifest.output.task == "reconstruction":
            scorer, names = self._normal(manifest)
        else:
            drift = DriftWatch(0, settings.anomaly.drift)
        return Engine(
            manifest,
            model=self.serving.name,
            streams_max=settings.streams_max,
            scorer=scorer,
            drift=drift,
            names=names,
            alert_labels=settings.alert_labels,
        )

    def _normal(self, manifest: Manifest) -> tuple[Anomaly, tuple[str, ...]]:
        """What is normal, as it was kept, or to be learned."""
        settings = self._home.settings.anomaly
        kept = self._home.store.fact(FACT_NORMAL)
        of = self._home.store.fact(FACT_NORMAL_OF)
        # Other features of as many numbers would fit, and mean something else.
        if kept is not None and of in (None, msgspec.json.encode(manifest.input)):
            try:
                scorer, names = Anomaly.from_bytes(kept, manifest, settings)
                return scorer, tuple(names)
            except (HedgerowError, ValueError) as error:
                log.warning("what was normal is learned anew: %s", error)
        return Anomaly(manifest, settings), ()

    def keep(self) -> None:
        """Write down what is normal; every few minutes, and at the end."""
        engine = self._edge.engine if self._edge is not None else None
        if engine is not None and engine.scorer is not None:
            names = [stream.name for stream in engine.streams.all()]
            store = self._home.store
            try:
                with store.transaction():
                    store.set_fact(FACT_NORMAL, engine.scorer.to_bytes(names))
                    store.set_fact(FACT_NORMAL_OF, msgspec.json.encode(engine.schema))
            except StoreFull as error:
                log.warning("what is normal is not kept for now: %s", error)

    async def start(self) -> None:
        """Bring the model up before the first sample comes.

        Raises:
            HedgerowError: it cannot be run at all, and there is none to fall back to.
        """
        await self.runner.use(self._spec(self.serving))

    async def run(self) -> None:
        """Trials and learning on site, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.trials.run())
            group.create_task(self.site.run(self._offer))
            group.create_task(self._keep_normal())

    async def _offer(self, learned: Learned) -> None:
        """What was learned on site is tried like any other model."""
        self._learned += 1
        name = f"{self.serving.bundle.manifest.name}, learned here {self._learned}"
        self.trials.offer(Candidate(None, learned.weights, name, "site", learned.why))

    async def _keep_normal(self) -> None:
        kept, ready = self._around.monotonic(), self._ready()
        while True:
            await asyncio.sleep(READY_SECONDS)
            now, known = self._around.monotonic(), self._ready()
            if known > ready or now - kept >= KEEP_SECONDS:
                self.keep()
                kept = now
            ready = known

    def _ready(self) -> int:
        scorer = self._edge.engine.scorer if self._edge is not None else None
        return 0 if scorer is None else int(scorer.ready.sum())

    async def close(self) -> None:
        """End trials and the model's process."""
        self.keep()
        try:
            await self.trials.close()
        finally:
            await self.runner.close()

    async def rebase(self) -> None:
        """The home has another bundle: it decides from now on."""
        home = self._home
        name = f"{home.bundle.manifest.name} {home.bundle.manifest.version}"
        self.trials.rebase(Serving(home.bundle, home.weights(), name, "fleet", "the fleet's"))
        await self._changed(self.serving)

    def seen(self, judged: Judged) -> None:
        """A batch was judged: what is in its trial judges it too."""
        rows = rows_of(judged.cuts)
        self.trials.seen(judged.given, judged.answers, rows=rows)
        seconds = np.array([notice.time_seconds for notice in judged.notices])
        scores = np.array([notice.score for notice in judged.notices], np.float32)
        self.site.seen(rows, judged.given, seconds, scores)
        scorer = self._edge.engine.scorer if self._edge is not None else None
        if scorer is not None:
            drifted = scorer.drifted
            if len(drifted) > self._drifted:
                self.site.ask(f"{len(drifted)} streams drifted from what was learned", drifted)
            self._drifted = len(drifted)  # fewer, where the owner called it normal

    def label(self, stream: str, start: float, end: float, label: str) -> int:
        """What the owner said of a stream; how many windows that learning has of it."""
        assert self._edge is not None
        engine, labels = self._edge.engine, self.serving.bundle.manifest.output.labels
        known = engine.streams.named(stream)
        if known is None:
            return 0
        if engine.scorer is None:
            if label not in labels:
                return 0
            return self.site.labelled(known.row, start, end, labels.index(label))
        # A word about the past moves the threshold; one about now says that this is its normal.
        normal = label == NORMAL_WORD
        count = self.site.labelled(known.row, start, end, NORMAL if normal else 0)
        if normal and end >= self._around.now() - PRESENT_SECONDS:
            engine.scorer.relearn(np.array([known.row]))
        else:
            engine.scorer.tune(known.row, *self.site.evidence(known.row))
        self.keep()  # what its owner said holds through a loss of power
        return count

    def truth(self, stream: str, start: float, end: float, label: int) -> None:
        """A model on trial, and one that is watched, answer again where the truth is known now."""
        rows = self._home.store.list_windows(stream, start, end, limit=TRUTH_MAX)
        found = [self._home.store.window(row.id) for row in rows]
        windows = [window for window in found if window is not None]
        schema = self.serving.bundle.manifest.input
        if windows and windows[0].shape == (len(schema.channels), schema.window):
            given = features(np.stack(windows), schema)
            self.trials.labelled(given, np.full(len(windows), label, np.int64))

    def forget(self, start: float, end: float, stream: str) -> None:
        """The owner forgets a period: what learning kept of it goes."""
        assert self._edge is not None
        known = self._edge.engine.streams.named(stream) if stream else None
        if not stream or known is not None:
            self.site.forget(start, end, None if known is None else known.row)

    def clear(self) -> None:
        """The owner deletes all: what is normal is learned anew."""
        self.site.clear()
        self._home.store.set_fact(FACT_NORMAL, None)
        if self._edge is not None:
            self._edge.engine = self.engine()

    def exported(self) -> bytes:
        """The model that decides as one bundle, with the weights it decides with."""
        serving = self.serving
        version = serving.name.removeprefix(serving.bundle.manifest.name).strip(" ,")
        return serving.bundle.with_weights(serving.weights, version or "1").to_bytes()

    def view(self, measures: Mapping[str, float]) -> ModelView:
        """The model in use and why it is this one."""
        serving, status = self.serving, self.runner.status
        choice = status.choice
        manifest = serving.bundle.manifest
        return ModelView(
            name=manifest.name,
            version=serving.name.removeprefix(manifest.name).strip(" ,") or manifest.version,
            hash=serving.bundle.hash,
            source=serving.source,
            since_seconds=self._since,
            why=serving.why,
            parameters=serving.bundle.manifest.layout.size,
            precision="" if choice is None else choice.precision,
            provider="" if choice is None else choice.provider,
            labels=list(serving.bundle.manifest.output.labels),
            measures=dict(measures),
            trials=self.trials.view(),
        )

    def _spec(self, serving: Serving) -> ModelSpec:
        return ModelSpec(serving.bundle, serving.weights, serving.name, self._typical(serving))

    def _typical(self, serving: Serving) -> NDArray[np.float32] | None:
        """Inputs that int8 is fitted to, the same ones for as long as the bundle is."""
        if self._typical_of is not serving.bundle:
            self._typical_of, self._inputs = serving.bundle, None
            windows, schema = self._home.windows("train").x, serving.bundle.manifest.input
            if len(windows) >= TYPICAL_LEAST and windows.shape[1:] == (
                *(len(schema.channels), schema.window),
            ):
                every = -(-len(windows) // TYPICAL_MOST)
                self._inputs = features(windows[::every], schema)
        return self._inputs

    async def _shadow(self, bundle: Bundle, weights: Vector, name: str) -> Shadow:
        """A candidate runs in a process of its own: its crash is only its own.

        Other weights for the bundle that decides run the very graph that runs already, so a device
        that learns, which has ONNX Runtime loaded, spares the process.
        """
        settings = self._home.settings
        if self.learns and bundle is self.serving.bundle:
            return await in_process(bundle, weights, name)
        shadow = GuardedModel(settings.inference, threads=settings.threads)
        await shadow.use(ModelSpec(bundle, weights, name))
        return shadow

    async def _changed(self, serving: Serving) -> None:
        """Another model decides from now on; that is durable already."""
        edge, takes = self._edge, serving.bundle.manifest.input
        before = edge.engine if edge is not None else None
        if edge is not None:
            edge.changing = edge.engine.schema != takes
        try:
            await self.runner.use(self._spec(serving))
            self._changed_to(serving, before)
        except (ModelDown, ModelRefused) as error:  # the one before goes on
            log.warning("%s cannot be run: %s", serving.name, error)
            self.trials.failed(f"it cannot be run: {error}")
        finally:
            if edge is not None:
                edge.changing = False

    def _changed_to(self, serving: Serving, before: Engine | None) -> None:
        self._since = clock.now()
        self.site.use(serving.bundle, serving.weights)
        if self._edge is None or before is None:
            return
        if before.schema == serving.bundle.manifest.input:
            before.model = serving.name  # the same windows, the same decisions in force
            if before.scorer is not None:
                before.scorer.recalibrate()
                before.scorer.settle(before.scorer.drifted)
                self._drifted = 0
        else:
            self._edge.engine = self.engine()

    def _happened(self, happened: Happened) -> None:
        if happened.what in ("fell_back", "refused"):
            self.trials.failed(f"{happened.what.replace('_', ' ')}: {happened.reason}")
