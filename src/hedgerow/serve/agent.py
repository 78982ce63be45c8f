"""A device agent: senses, infers, decides, acts and learns by itself, and shares what it learned.

It works without a server: sensing starts from the model at hand, and enrolment goes on beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag
from typing import Any

import msgspec

from hedgerow.decide.notice import Notice
from hedgerow.io import clock, entropy
from hedgerow.io.device_store import Forgotten, GivenLabel, StoreFull
from hedgerow.io.egress import EgressRecord
from hedgerow.io.memory import release_startup_pages
from hedgerow.io.sensors.base import Label, Sensor
from hedgerow.io.surroundings import Surroundings
from hedgerow.io.tasks import end
from hedgerow.model.bundle import Bundle
from hedgerow.model.samples import Samples
from hedgerow.protocol.device import PauseSharing
from hedgerow.protocol.owner import EnergyView, ModelView
from hedgerow.seal.choice import LinkQuality
from hedgerow.sense.features import features
from hedgerow.serve.device import Hooks, Outcome
from hedgerow.serve.edge.edge import Edge, Judged
from hedgerow.serve.forwarding import Forwarder
from hedgerow.serve.home import Home
from hedgerow.serve.housekeeping import Housekeeping
from hedgerow.serve.models import Models
from hedgerow.serve.owner import AgentOwner
from hedgerow.serve.settings import DeviceSettings
from hedgerow.serve.sharing import Sharing
from hedgerow.serve.trials import Candidate
from hedgerow.serve.watching import Watching
from hedgerow.wire.messages import ModelRef, Offer, Report
from hedgerow.wire.weights import from_bytes, to_bytes

log = logging.getLogger(__name__)

SETTLE_SECONDS = 3.0
"""Then start-up is over, and the code it touched need not stay in memory."""
STUCK_SECONDS = 30.0
"""Readings that wait for so long, while none is worked off, wait for nothing."""
FULL_SECONDS = 60.0
"""Pause before a device whose disk was full shares again."""
FACT_PAUSED = "sharing_paused"

Told = Callable[[str, dict[str, Any]], None]


class DeviceAgent:
    """One device with its sensors, its store and its model. `run` until `stop` is set.

    `sensors` stand in for those of the settings, each with its kind.
    """

    def __init__(
        self,
        settings: DeviceSettings,
        told: Told = lambda what, fields: None,
        sensors: Sequence[tuple[str, Sensor]] | None = None,
    ) -> None:
        self.settings = settings
        self.process = os.getpid()
        self.home = Home(settings, sensors)
        self.name, self.identity = self.home.name, self.home.identity
        self.store, self.meter = self.home.store, self.home.meter
        self.model = self.home.model
        self.metrics: dict[str, float] = {}
        self.egress = EgressRecord(settings.state / "egress", self.identity, settings.egress)
        self.watching = Watching(settings.streams_max, settings.keep_windows)
        self.house = Housekeeping(self.store, self.watching, settings.energy.watts_per_core)
        self.forwarder = Forwarder(self.store, self.identity, settings.forward)
        schema = self.bundle.manifest.input
        self.around = Surroundings(
            device=self.name,
            state=settings.state,
            channels=schema.channels,
            rate_hz=schema.rate_hz,
            egress=self.egress,
        )
        self.models = Models(self.home, self.around, told, self._learned_on_site)
        self.edge = self._edge()
        self.models.attach(self.edge)
        self._of_the_site: Samples | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="learning")
        self.sharing = self._sharing(told)
        self.owner = AgentOwner(self)
        self._work: list[asyncio.Task[Any]] = []
        self._allowed = asyncio.Event()
        self.pause(self.paused_seconds is not None)

    @property
    def bundle(self) -> Bundle:
        """The bundle it learns with."""
        return self.home.bundle

    @property
    def decision(self) -> Notice | None:
        """The newest of all streams."""
        return self.watching.latest

    @property
    def windows(self) -> int:
        """How many windows were judged."""
        return self.watching.windows

    async def run(self, stop: asyncio.Event) -> None:
        """Sense at once; enrol and share as soon as there is somebody to share with."""
        async with contextlib.AsyncExitStack() as last:  # each of these, whatever another raises
            last.callback(self.store.close)
            last.push_async_callback(asyncio.to_thread, self.egress.close)
            last.callback(self._executor.shutdown, cancel_futures=True)
            last.push_async_callback(self.models.close)
            last.push_async_callback(self.forwarder.close)
            last.callback(self.house.keep)
            last.push_async_callback(self.sharing.close)
            await self.models.start()
            self._work = [
                asyncio.create_task(one)
                for one in (
                    self._sense(),
                    self._share(),
                    self.house.run(),
                    self.egress.keep(),
                    self.forwarder.run(),
                    self.models.run(),
                    stop.wait(),
                )
            ]
            last.push_async_callback(end, self._work)
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, _settled)
            done, _ = await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def healthy(self) -> bool:
        """Whether it does what it is there for: all its tasks go on, and what was sensed is judged.

        A model that is being started again is no cause: its windows count as not decided.
        """
        if any(task.done() for task in self._work):
            return False
        return self.edge.stuck_seconds() < STUCK_SECONDS

    # Sense, infer, decide, act --------------------------------------------------------------------

    def _edge(self) -> Edge:
        return Edge(
            *(self.models.engine(), self.models.runner, self.around),
            *(self.home.sensors, self.home.actuators, entropy.generator()),
            seen=self._seen,
            labelled=self._labelled,
        )

    async def _sense(self) -> None:
        await self.edge.run()
        await asyncio.Event().wait()  # every sensor has nothing more to come

    def _seen(self, judged: Judged) -> None:
        self.watching.took(judged.cuts, judged.notices, judged.seconds)
        self.forwarder.count(judged.notices)
        self.models.seen(judged)
        self.house.energy.used("inference", cpu_seconds=judged.busy_seconds, count=len(judged.cuts))

    def _learned_on_site(self, cpu_seconds: float) -> None:
        self.house.energy.used("learning", cpu_seconds=cpu_seconds)

    def _labelled(self, label: Label) -> None:
        try:
            self.label(*label)
        except StoreFull as error:  # sensing goes on
            log.warning("a label for %r is lost: %s", label.stream, error)

    # The owner's wishes ---------------------------------------------------------------------------

    @property
    def paused_seconds(self) -> float | None:
        """When the owner paused sharing; None while it is allowed."""
        kept = self.store.fact(FACT_PAUSED)
        return None if kept is None else float(kept)

    def pause(self, paused: bool) -> None:
        """Stop or allow all that goes to the fleet; what waits goes on waiting.

        Raises StoreFull: it holds, but not beyond a restart.
        """
        self.forwarder.paused = paused
        if self.sharing.shell is not None:
            self.sharing.shell.handle(PauseSharing(paused))
        if paused:
            self._allowed.clear()
        else:
            self._allowed.set()
        if paused != (self.paused_seconds is not None):
            self.store.set_fact(FACT_PAUSED, repr(clock.now()).encode() if paused else None)

    def label(self, stream: str, start: float, end: float, label: str) -> int:
        """What the owner says a stream did; how many kept windows it says it of."""
        self.store.give_label(GivenLabel(stream, start, end, label, clock.now()))
        labels = self.bundle.manifest.output.labels
        count = 0
        if label in labels:
            count = self.store.label_windows(stream, start, end, labels.index(label))
            self.models.truth(stream, start, end, labels.index(label))
        return count + self.models.label(stream, start, end, label)

    def forget(self, start: float, end: float, stream: str) -> Forgotten:
        """Overwrite what is stored of a period, and what waits to be sent or is shown of it."""
        self.forwarder.forget(start, end, stream)
        self.watching.forget(stream)
        self.models.forget(start, end, stream)
        return self.store.forget(start, end, stream)

    def erase(self, record: bool) -> Forgotten:
        """Overwrite all that was sensed, decided or learned; with `record` also what left."""
        self.watching.forget("")
        self.forwarder.forget(-math.inf, math.inf)
        self.models.clear()
        erased = self.store.erase()
        if record:
            self.egress.erase()
        return erased

    def model_view(self) -> ModelView:
        """The model in use and why."""
        return self.models.view(self.metrics)

    def energy_view(self) -> EnergyView:
        """Energy since the start."""
        return self.house.energy_view()

    # Learn and share ------------------------------------------------------------------------------

    def _sharing(self, told: Told) -> Sharing:
        return Sharing(
            self.home,
            egress=self.egress,
            trainer=self,
            executor=self._executor,
            hooks=Hooks(
                installed=self._installed,
                personalised=self._personalised,
                told=told,
                learned=self._learned,
                released=self.models.trials.hear,
            ),
            changed_bundle=self._changed_bundle,
            prepared=self._prepare_to_learn,
            joined=self._joined,
            report=self._report,
            samples=self._samples,
        )

    async def _share(self) -> None:
        while True:
            await self._allowed.wait()
            try:
                await self.sharing.run()
            except StoreFull as error:  # what cannot be kept cannot be shared; sensing goes on
                log.warning("nothing is shared for %.0f s: %s", FULL_SECONDS, error)
                with contextlib.suppress(StoreFull):
                    await self.sharing.close()
                await asyncio.sleep(FULL_SECONDS)

    def _joined(self) -> None:
        shell, enrolment = self.sharing.shell, self.sharing.enrolment
        assert shell is not None and enrolment is not None
        self.models.trials.key = enrolment.coordinator
        self.models.trials.attach(shell.fetch_blob, shell.say)
        if self.sharing.link is not None:
            self.forwarder.attach(self.sharing.link)
        shell.handle(PauseSharing(self.paused_seconds is not None))

    async def _changed_bundle(self, bundle: Bundle) -> None:
        """The fleet works with another bundle: it is this device's too."""
        self.model = self.home.model
        await self.models.rebase()

    def _prepare_to_learn(self) -> None:
        """Windows and training graph: a device that shares with nobody is smaller without them."""
        from hedgerow.serve.learning import LocalTrainer

        self.train_set, self.holdout = self.home.windows("train"), self.home.windows("holdout")
        self._held_out = features(self.holdout.x, self.bundle.manifest.input)
        self.trainer = LocalTrainer(
            self.bundle,
            self.name,
            self.train_set,
            self.home.memory(),
            device=self.identity.public,
            threads=self.settings.threads,
            capacity=self.settings.capacity,
            upload_seconds_max=self.settings.upload_seconds_max,
        )
        self.models.learns = True
        release_startup_pages()  # before training touches pages of its own

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        """One round's training, in the learning thread (`Trainer`)."""
        assert self.sharing.shell is not None
        rate = self.sharing.shell.upload_bytes_per_second
        self.trainer.link = LinkQuality(rate, metered=self.settings.metered)
        if self._of_the_site is not None:
            self.trainer.learn_from(self._of_the_site)
        outcome = self.trainer.train(offer, blob, stop)
        self.house.energy.used("round", cpu_seconds=outcome.metrics["seconds"], count=1)
        return outcome

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        """Fine-tune for this device alone, in the learning thread (`Trainer`)."""
        plan = msgspec.structs.replace(
            self.bundle.manifest.plan,
            epochs=self.settings.personalise_epochs,
            rate=self.settings.personalise_rate,
            average_last=0.5,
        )
        return to_bytes(self.trainer.fine_tune(blob, plan, stop))

    def _installed(self, model: ModelRef, blob: bytes) -> None:
        """A new model is here: use it, unless it shows to be worse on what was held out."""
        weights = self.trainer.serving(blob)
        name = f"{self.bundle.manifest.name} round {model.version}"
        self._in_background(model, Candidate(None, weights, name, "fleet"), "accuracy")

    def _personalised(self, model: ModelRef, weights: bytes) -> None:
        name = f"{self.bundle.manifest.name} round {model.version}, fitted here"
        candidate = Candidate(None, from_bytes(weights), name, "site")
        self._in_background(model, candidate, "accuracy_personalised")

    def _learned(self, memory: bytes) -> None:
        self.trainer.memory = self.home.memory(memory)

    def _in_background(self, model: ModelRef, candidate: Candidate, metric: str) -> None:
        assert self.sharing.shell is not None
        self.sharing.shell.tasks.spawn(self._change_model(model, candidate, metric))

    async def _change_model(self, model: ModelRef, candidate: Candidate, metric: str) -> None:
        verdict = await self.models.trials.at_once(candidate, self._held_out, self.holdout.y)
        if not verdict.taken:
            log.info("%s is not used: %s", candidate.name, verdict.why)
        if metric == "accuracy":
            self.metrics.pop("accuracy_personalised", None)
        self.model = model
        if verdict.loss is not None and len(self.holdout.y):
            self.metrics[metric] = 1 - verdict.loss
        self.sharing.send_report()

    def _samples(self) -> int | None:
        """How many windows there are to learn from; None where they are the stored ones.

        A model of what is normal takes each stream in units of its own: as learning on site has
        them.
        """
        if self.bundle.manifest.output.task != "reconstruction":
            return None
        self._of_the_site = self.models.site.samples()
        return 0 if self._of_the_site is None else len(self._of_the_site)

    def _report(self) -> Report:
        decision = self.decision
        metrics = {
            "bytes_up": float(self.meter.total_up),
            "bytes_down": float(self.meter.total_down),
            "bytes_kept": float(self.home.recorded_bytes),
            **self.metrics,
        }
        return Report(
            model_version=self.model.version,
            label="" if decision is None else decision.label,
            confidence=0.0 if decision is None else decision.confidence,
            reason="" if decision is None else decision.reason[:200],
            metrics=metrics,
        )


def _settled() -> None:
    """Start-up is over: its pages may go, and collections need not look at its objects."""
    release_startup_pages()
    gc.collect()
    gc.freeze()
