"""A device agent: senses, infers, decides and learns by itself, and shares what it learned.

It works without a server: sensing starts from the bundle at hand, and enrolment goes on beside it.
"""

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.decide.decision import Decision
from hedgerow.io import clock, data, entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore, StoredWindow
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter, LinkDown, OnMessage, OnState
from hedgerow.io.memory import release_startup_pages
from hedgerow.io.sensors.replay import ReplaySensor
from hedgerow.io.tasks import end
from hedgerow.model.bundle import BYTES_MAX, Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.protocol import device as machine
from hedgerow.seal.choice import LinkQuality
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import (
    FACT_ENROLMENT,
    FACT_MODEL,
    DeviceShell,
    Hooks,
    Outcome,
    decode_model,
)
from hedgerow.serve.means import means_of
from hedgerow.serve.memory import FACT_BEFORE, FACT_MEMORY, DeviceMemory
from hedgerow.serve.pipeline import Pipeline
from hedgerow.serve.settings import DeviceSettings
from hedgerow.serve.windows import WindowSet, label_counts, windows_of
from hedgerow.wire.messages import ModelRef, Offer, Report
from hedgerow.wire.weights import from_bytes, model_ref, to_bytes

if TYPE_CHECKING:
    from hedgerow.io.nats_link import NatsDeviceLink
    from hedgerow.serve.joining import Enrolment

log = logging.getLogger(__name__)

FACT_HISTORY = "history"
TRAIN_SHARE = 0.7
"""The first 70% of each labelled recording is learned from, the rest tells how good that was."""
BUNDLE_RETRY_SECONDS = 2.0
SETTLE_SECONDS = 3.0
"""Then start-up is over, and the code it touched need not stay in memory."""
ASK_AGAIN_SECONDS = 60.0
"""Pause before a device that was turned away asks again."""

Told = Callable[[str, dict[str, Any]], None]


class DeviceAgent:
    """One device with its sensor, its store and its model. `run` until `stop` is set."""

    def __init__(self, settings: DeviceSettings, told: Told = lambda what, fields: None) -> None:
        self.settings = settings
        self.name = settings.name or socket.gethostname()
        self._told = told
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.identity = Identity.load_or_create(settings.state / "device.nk")
        self.store = DeviceStore(settings.state / "device.db", settings.store)
        self.meter = ByteMeter()
        self.decision: Decision | None = None
        self.metrics: dict[str, float] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="learning")
        self._recordings = self._load_recordings()
        self._shell: DeviceShell | None = None
        self._use_bundle(self._bundle_at_hand())

    async def run(self, stop: asyncio.Event) -> None:
        """Sense at once; enrol and share as soon as there is somebody to share with."""
        work = [
            asyncio.create_task(self._sense()),
            asyncio.create_task(self._share()),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, release_startup_pages)
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(work)
            if self._shell is not None:
                await self._shell.close()
            self._executor.shutdown(cancel_futures=True)
            self.store.close()

    # What is on the device ------------------------------------------------------------------------

    def _bundle_at_hand(self) -> Bundle:
        """The bundle the fleet gave, or the application's own."""
        digest = self.store.fact(FACT_BUNDLE)
        kept = None if digest is None else self.store.blob(digest.decode())
        return app_bundle(self.settings.app) if kept is None else Bundle.from_bytes(kept)

    def _use_bundle(self, bundle: Bundle) -> None:
        """Start from this bundle: the model last installed if it is of it, else its own weights."""
        self.bundle = bundle
        self._shared_size = bundle.manifest.layout.shared_size
        self._keep_history()
        self.model, shared = self._model_at_hand()
        weights = np.concatenate([from_bytes(shared)[: self._shared_size], self._memory().private])
        predictor = Predictor(bundle, weights=weights, threads=self.settings.threads)
        self.pipeline = Pipeline(bundle, predictor)

    def _memory(self, kept: bytes | None = None) -> DeviceMemory:
        """What the device keeps from round to round: what is stored, unless this is newer."""
        kept = self.store.fact(FACT_MEMORY) if kept is None else kept
        return DeviceMemory.from_bytes(kept, self.bundle.weights[self._shared_size :])

    def _prepare_to_learn(self) -> None:
        """Windows and training graph: a device that shares with nobody is smaller without them."""
        from hedgerow.serve.learning import LocalTrainer

        self.train_set = WindowSet(*self.store.load_windows("train"))
        self.holdout = WindowSet(*self.store.load_windows("holdout"))
        self.trainer = LocalTrainer(
            self.bundle,
            self.name,
            self.train_set,
            self._memory(),
            device=self.identity.public,
            threads=self.settings.threads,
            capacity=self.settings.capacity,
            upload_seconds_max=self.settings.upload_seconds_max,
        )

    def _model_at_hand(self) -> tuple[ModelRef, bytes]:
        kept = self.store.fact(FACT_MODEL)
        if kept is not None:
            model = decode_model(kept)
            shared = self.store.blob(model.hash)
            if shared is not None and model.bytes % (4 * self._shared_size) == 0:
                return model, shared
        weights = self.bundle.weights[: self._shared_size]
        self.store.put_blob(to_bytes(weights))
        return model_ref(0, weights), to_bytes(weights)

    def _load_recordings(self) -> list[data.Recording]:
        sensor = self.settings.sensor
        return [] if sensor.kind == "none" else data.load_wearer(int(sensor.wearer))

    def _keep_history(self) -> None:
        """Windows of the recordings into the store, once: some to learn from, some held out."""
        schema = self.bundle.manifest.input
        history = f"{self.settings.sensor.kind}/{self.settings.sensor.wearer}/{self.bundle.hash}"
        if self.store.fact(FACT_HISTORY) == history.encode():
            return
        first, rest = data.split_in_time(self._recordings, TRAIN_SHARE)
        sets = {"train": windows_of(first, schema), "holdout": windows_of(rest, schema)}
        now = clock.now()
        if self.store.window_count():
            self.store.clear_windows()
        with self.store.transaction():
            for purpose, windows in sets.items():
                rows = zip(windows.x, windows.y, strict=True)
                self.store.add_windows(
                    [StoredWindow(x, int(y), now, purpose) for x, y in rows], now
                )
            self.store.set_fact(FACT_HISTORY, history.encode())

    # Sense, infer, decide -------------------------------------------------------------------------

    async def _sense(self) -> None:
        """Play what was held out, for ever, through the pipeline of whatever bundle is in use."""
        if not self._recordings:
            await asyncio.Event().wait()
        recordings = data.split_in_time(self._recordings, TRAIN_SHARE)[1]
        while True:
            bundle = self.bundle
            sensor = ReplaySensor(
                recordings,
                bundle.manifest.input.rate_hz,
                clock.monotonic,
                asyncio.sleep,
                block=bundle.manifest.input.hop,
                speed=self.settings.sensor.speed,
                loop=True,
            )
            async for block in sensor.blocks():
                if self.bundle is not bundle:
                    break
                self.decision = (
                    self.pipeline.push(block.samples, block.time_seconds) or self.decision
                )

    # Learn and share ------------------------------------------------------------------------------

    async def _share(self) -> None:
        """Enrol if need be, take the fleet's bundle, then let the protocol machine run."""
        enrolment = await self._enrolment()
        if enrolment is None:
            await asyncio.Event().wait()
            return
        await self._take_bundle(enrolment)
        self._prepare_to_learn()
        output = self.bundle.manifest.output
        shared = label_counts(self.train_set, output) if self.settings.share_label_counts else None
        state = machine.DeviceState(
            device=self.identity.public,
            name=self.name,
            model=self.model,
            check_in_seconds=self.settings.check_in_seconds,
            personalise_after_seconds=self.settings.personalise_after_seconds,
            samples=len(self.train_set.y),
            facts=means_of(self.settings, self.store, machine.Facts(labels=shared)),
            personalise_due=self.model.version > 0 and self.settings.personalise_after_seconds > 0,
        )
        hooks = Hooks(
            installed=self._installed,
            personalised=self._personalised,
            told=self._told,
            learned=self._learned,
        )
        shell = DeviceShell(
            state=state,
            identity=self.identity,
            coordinator=enrolment.coordinator,
            store=self.store,
            trainer=self,
            executor=self._executor,
            hooks=hooks,
            layout=self.bundle.manifest.layout,
        )
        link = self._link(enrolment, shell.on_message, shell.on_state)
        self._shell = shell
        shell.attach(link)
        if self.model.version > 0:
            self._installed(*self._model_at_hand())
        await link.connect()
        reports = asyncio.create_task(self._report())
        try:
            await asyncio.shield(shell.tasks.failed)
        finally:
            reports.cancel()

    async def _enrolment(self) -> "Enrolment | None":
        """The place in a fleet: the one kept, at the address the join file gives now; or a new one.

        Raises:
            UsageError: the join file is of another fleet than the device is in.
        """
        if self.settings.join is None and self.store.fact(FACT_ENROLMENT) is None:
            return None
        from hedgerow.serve.joining import JoinFile, enrol, kept_enrolment

        kept, path = kept_enrolment(self.store), self.settings.join
        if path is None or (kept is not None and not path.exists()):
            return kept
        join = JoinFile.load(path)
        if kept is not None:
            if (kept.fleet, kept.coordinator) != (join.fleet, join.coordinator):
                raise UsageError(
                    f"{path} is of the fleet {join.fleet!r}, and this device is in {kept.fleet!r}; "
                    "give it that fleet's join file, or another state directory"
                )
            return msgspec.structs.replace(kept, url=join.url)
        while True:
            try:
                return await enrol(
                    join, self.identity, self.store, self.name, self.meter, entropy.generator()
                )
            except UsageError as error:  # the device goes on by itself, and asks again
                log.warning("working alone: %s", error)
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        """One round's training, in the learning thread (`Trainer`)."""
        assert self._shell is not None
        self.trainer.link = LinkQuality(
            self._shell.upload_bytes_per_second, metered=self.settings.metered
        )
        return self.trainer.train(offer, blob, stop)

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        """Fine-tune for this device alone, in the learning thread (`Trainer`)."""
        plan = msgspec.structs.replace(
            self.bundle.manifest.plan,
            epochs=self.settings.personalise_epochs,
            rate=self.settings.personalise_rate,
            average_last=0.5,
        )
        return to_bytes(self.trainer.fine_tune(blob, plan, stop))

    async def _take_bundle(self, enrolment: "Enrolment") -> None:
        """Fetch the fleet's bundle, unless it is the one at hand."""
        if enrolment.bundle == self.bundle.hash:
            if self.store.fact(FACT_BUNDLE) is None:  # another release may bring another one
                with self.store.transaction():
                    self.store.put_blob(self.bundle.to_bytes())
                    self.store.set_fact(FACT_BUNDLE, enrolment.bundle.encode())
            return
        if enrolment.bundle_bytes > BYTES_MAX:
            raise UsageError(
                f"the fleet's bundle has {enrolment.bundle_bytes} bytes; "
                f"a device reads at most {BYTES_MAX}"
            )
        link = self._link(enrolment, lambda data: None, lambda up: None)
        await link.connect()
        while True:
            try:
                content = await link.fetch_blob(enrolment.bundle, enrolment.bundle_bytes)
                bundle = Bundle.from_bytes(content)
                break
            except (LinkDown, PeerError) as error:
                log.info("the fleet's bundle is not here yet: %s", error)
                await asyncio.sleep(BUNDLE_RETRY_SECONDS)
        await link.close()
        with self.store.transaction():
            self.store.put_blob(content)
            self.store.set_fact(FACT_BUNDLE, enrolment.bundle.encode())
            for fact in (FACT_MODEL, FACT_MEMORY, FACT_BEFORE):  # those of the bundle before
                self.store.set_fact(fact, None)
        self._use_bundle(bundle)

    def _link(
        self, enrolment: "Enrolment", on_message: OnMessage, on_state: OnState
    ) -> "NatsDeviceLink":
        from hedgerow.io.nats_link import NatsDeviceLink

        credentials = Credentials(enrolment.credential, self.identity)
        return NatsDeviceLink(
            enrolment.url, enrolment.fleet, credentials, on_message, on_state, self.meter
        )

    def _installed(self, model: ModelRef, blob: bytes) -> None:
        """A new model is here: measure what comes of it on what was held out, and use it."""
        self._in_background(model, self.trainer.serving(blob), "accuracy")

    def _personalised(self, model: ModelRef, weights: bytes) -> None:
        self._in_background(model, from_bytes(weights), "accuracy_personalised")

    def _learned(self, memory: bytes) -> None:
        self.trainer.memory = self._memory(memory)

    def _in_background(self, model: ModelRef, weights: Vector, metric: str) -> None:
        assert self._shell is not None
        self._shell.tasks.spawn(self._change_model(model, weights, metric))

    async def _change_model(self, model: ModelRef, weights: Vector, metric: str) -> None:
        loop = asyncio.get_running_loop()
        work = functools.partial(self._measured, weights)
        predictor, accuracy = await loop.run_in_executor(self._executor, work)
        if metric == "accuracy":
            self.metrics.pop("accuracy_personalised", None)
        self.model, self.pipeline.predictor = model, predictor
        if accuracy is not None:
            self.metrics[metric] = accuracy
        self._send_report()

    def _measured(self, weights: Vector) -> tuple[Predictor, float | None]:
        from hedgerow.serve.learning import evaluate

        predictor = self.pipeline.predictor.with_weights(weights)
        if len(self.holdout.y) == 0:
            return predictor, None
        return predictor, evaluate(self.bundle, predictor, self.holdout)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self.settings.report_seconds)
            self._send_report()

    def _send_report(self) -> None:
        assert self._shell is not None
        means = means_of(self.settings, self.store, self._shell.state.facts)
        self._shell.handle(machine.FactsChanged(means))
        decision = self.decision
        recorded = sum(recording.samples.nbytes for recording in self._recordings)
        metrics = {
            "bytes_up": float(self.meter.total_up),
            "bytes_down": float(self.meter.total_down),
            "bytes_kept": float(recorded),
            **self.metrics,
        }
        report = Report(
            model_version=self.model.version,
            label="" if decision is None else decision.label,
            confidence=0.0 if decision is None else decision.confidence,
            reason="" if decision is None else decision.reason[:200],
            metrics=metrics,
        )
        self._shell.handle(machine.Reported(report))
