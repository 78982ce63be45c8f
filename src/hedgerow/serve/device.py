"""A device's shell: carries out what its machine asks for.

One event in, effects done in order: what must be kept is kept in one transaction, then messages
go out, then timers are set. Training runs in a thread; the event loop, and so inference, goes on.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Event as Flag
from typing import Protocol

import msgspec

from hedgerow.core.errors import HedgerowError, PeerError
from hedgerow.core.layout import Layout
from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore, OutboxItem
from hedgerow.io.keys import Identity, verify
from hedgerow.io.links import DeviceLink, LinkDown, MessageRefused
from hedgerow.protocol import device as machine
from hedgerow.protocol import effects as do
from hedgerow.serve.effects import Tasks, Timers
from hedgerow.serve.fetching import Models
from hedgerow.serve.memory import Keeper
from hedgerow.wire import codec
from hedgerow.wire.messages import (
    FromDevice,
    ModelRef,
    Offer,
    Patches,
    Recall,
    Release,
    Trial,
    kind_of,
    update_id,
)

log = logging.getLogger(__name__)

UPDATE_PRIORITY = 10
SOFT_TIMER = "soft writes"
SOFT_SECONDS = 1.0
RECEIPT_SECONDS_MAX = 900.0
"""Longest wait for the receipt of a stored update: beyond it, the stream may have been lost."""
FACT_ENROLMENT = "enrolment"
FACT_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training gave: the vectors of the update, encoded with number `codec` of those offered,
    its figures and its group; and figures for the fleet's owner.
    """

    payloads: tuple[bytes, ...]
    samples: int
    metrics: dict[str, float]
    figures: tuple[float, ...] = ()
    group: int = 0
    codec: int = 0
    memory: bytes = b""
    """What the device keeps from now on; never sent."""


class Trainer(Protocol):
    """Learns on this device's own windows. Methods run in a thread, one at a time."""

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        """Train as the offer says from its model (little-endian float32)."""

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        """All weights fine-tuned for this device alone; they stay here."""


@dataclass(slots=True)
class Hooks:
    """What the application wants to hear. Called on the event loop."""

    installed: Callable[[ModelRef, bytes], None]
    personalised: Callable[[ModelRef, bytes], None]
    told: Callable[[str, dict[str, object]], None]
    learned: Callable[[bytes], None] = lambda memory: None
    """This memory is kept: a round's update is in the outbox, or the last one was in vain."""
    released: Callable[[Release | Recall], None] = lambda message: None
    """A release came, or one is taken back: the trial of models is told."""


class DeviceShell:
    """One device's machine wired to a link, a store and a trainer. Use from one event loop."""

    def __init__(
        self,
        state: machine.DeviceState,
        identity: Identity,
        coordinator: str,
        store: DeviceStore,
        trainer: Trainer,
        executor: Executor,
        hooks: Hooks,
        layout: Layout | None = None,
    ) -> None:
        """`layout` is that of the models that come; without it, patches to them are not used."""
        self.state = state
        self.store = store
        self._models = Models(store, lambda: self.state, layout)
        self._memory = Keeper(store)
        self._identity = identity
        self._coordinator = coordinator
        self._trainer = trainer
        self._executor = executor
        self._hooks = hooks
        self._link: DeviceLink | None = None
        self._stop_training = Flag()
        self._delivered: dict[str, float] = {}
        self._delivering: set[str] = set()
        self._forgotten: list[str] = []
        self._installed: ModelRef | None = None
        self.refused = 0
        self.upload_bytes_per_second = 0.0
        """What the link carried at the last large message; 0: not known yet."""
        self.tasks = Tasks()
        self._timers = Timers(asyncio.get_running_loop(), self._timer_fired)
        state.unacknowledged |= set(store.outbox_ids("update"))

    def attach(self, link: DeviceLink) -> None:
        """The link to use; its callbacks are `on_message` and `on_state`."""
        self._link = link
        if self.state.personalise_due:  # the model came before a restart
            self._timers.set("personalise", self.state.personalise_after_seconds)

    def on_message(self, data: bytes) -> None:
        """Bytes came from the coordinator's side of the link."""
        try:
            message = codec.open_from_coordinator(data, self._coordinator, verify)
        except PeerError as error:
            self.refused += 1
            log.warning("refused a message: %s", error)
            return
        if isinstance(message, Release | Recall):
            self._hooks.released(message)
        else:
            self.handle(machine.Received(message))

    def on_state(self, up: bool) -> None:
        """The link came up or went down."""
        if up:
            with self.tasks.guarding(), self.store.transaction():
                self._keep_soft()
                self.store.expire_outbox(clock.now())
                self._take_back()
        self.handle(machine.LinkUp() if up else machine.LinkDown())

    def handle(self, event: machine.Event) -> None:
        """One event through the machine, and its effects; an error stops the shell."""
        with self.tasks.guarding():
            self.state, effects = machine.step(self.state, event, clock.monotonic())
            posts = [effect for effect in effects if isinstance(effect, do.Post)]
            if posts:
                with self.store.transaction():
                    for post in posts:
                        self._keep(post)
                    self._keep_soft()
            for effect in effects:
                self._act(effect)

    def say(self, news: Trial) -> None:
        """Tell the coordinator how a trial goes; what is lost, it asks for again."""
        self.handle(machine.TrialChanged(news))

    async def fetch_blob(self, sha256: str, bytes_max: int) -> bytes:
        """A blob of the fleet's. Raises LinkDown, BlobMissing or BlobRefused."""
        if self._link is None:
            raise LinkDown("there is no link yet")
        return await self._link.fetch_blob(sha256, bytes_max)

    def decline(self, reason: str) -> bool:
        """Refuse the round at hand, whatever its phase; False: there is none."""
        offer = self.state.offer
        if offer is None:
            return False
        self._stop_training.set()
        self.handle(machine.TrainingFailed(offer.round, reason))
        return True

    def _timer_fired(self, name: str) -> None:
        if name == SOFT_TIMER:
            with self.tasks.guarding():
                self._keep_soft()
        else:
            self.handle(machine.TimerFired(name))

    async def close(self) -> None:
        """Stop training and timers, drop the link. The outbox keeps what was not acknowledged."""
        self._stop_training.set()
        self._timers.close()
        await self.tasks.close()
        self._keep_soft()
        if self._link is not None:
            await self._link.close()

    # Effects --------------------------------------------------------------------------------------

    def _keep(self, post: do.Post) -> None:
        self.store.put_outbox(
            OutboxItem(
                id=post.id,
                kind=kind_of(post.message),
                priority=UPDATE_PRIORITY,
                created_seconds=clock.now(),
                body=self._sealed(post.message),
            )
        )

    def _keep_soft(self) -> None:
        """Write what may be lost, with the next commit that may not.

        If power fails before: an acknowledged message is sent once more and the coordinator knows
        it; a model is fetched once more.
        """
        with self.store.transaction():
            for post_id in self._forgotten:
                self.store.acknowledge(post_id)
                self._memory.counted(post_id)
            if self._installed is not None:
                kept = self.store.fact(FACT_MODEL)
                if kept is not None and decode_model(kept).hash != self._installed.hash:
                    self.store.forget_blob(decode_model(kept).hash)
                self.store.put_blob(self._blob(self._installed.hash))
                self.store.set_fact(FACT_MODEL, encode_model(self._installed))
        self._forgotten.clear()
        self._installed = None

    def _forget(self, post_id: str, counted: bool) -> None:
        self._delivered.pop(post_id, None)
        if counted:
            self._forgotten.append(post_id)
            self._timers.set(SOFT_TIMER, SOFT_SECONDS)
        else:
            with self.store.transaction():
                self.store.acknowledge(post_id)
                self._take_back()

    def _take_back(self) -> bool:
        """Undo what an update did to the memory that was dropped; whether there was one."""
        memory = self._memory.take_back()
        if memory is not None:
            self._hooks.learned(memory)
        return memory is not None

    def _act(self, effect: do.Effect) -> None:
        match effect:
            case do.SendNote(message):
                self.tasks.spawn(self._send_note(self._sealed(message)))
            case do.Post(post_id) | do.Resend(post_id):
                self._deliver(post_id)
            case do.Forget(post_id, outcome):
                self._forget(post_id, outcome in do.COUNTED)
            case do.Fetch(model):
                self.tasks.spawn(self._fetch(model, effect.patches))
            case do.Install(model):
                self._installed = model
                self._timers.set(SOFT_TIMER, SOFT_SECONDS)
                self._hooks.installed(model, self._blob(model.hash))
            case do.Train(offer):
                self._stop_training = Flag()
                self.tasks.spawn(self._train(offer, self._stop_training))
            case do.Personalise(model):
                self._stop_training = Flag()
                self.tasks.spawn(self._personalise(model, self._stop_training))
            case do.StopTraining():
                self._stop_training.set()
            case do.SetTimer(name, at_seconds):
                self._timers.set(name, at_seconds - clock.monotonic())
            case do.CancelTimer(name):
                self._timers.cancel(name)
            case do.Tell(what, fields):
                self._hooks.told(what, fields)

    def _sealed(self, message: FromDevice) -> bytes:
        return codec.seal(message, self._identity.public, self._identity.sign)

    async def _send_note(self, data: bytes) -> None:
        if self._link is None:
            return
        try:
            await self._link.send_note(data)
        except LinkDown:
            log.info("a note was not sent: the link is down; the next check-in makes it good")

    def _deliver(self, post_id: str) -> None:
        """Send an outbox item, unless it is on its way or the stream has it since a short while."""
        if self._link is None or not self.state.online:
            return
        since = clock.monotonic() - self._delivered.get(post_id, -math.inf)
        if post_id not in self._delivering and since > RECEIPT_SECONDS_MAX:
            self._delivering.add(post_id)
            self.tasks.spawn(self._send_update(post_id))

    async def _send_update(self, post_id: str) -> None:
        assert self._link is not None
        try:
            item = self.store.outbox_item(post_id)
            if item is None:  # dropped by age or size, and counted there
                self.state.unacknowledged.discard(post_id)
                return
            began = clock.monotonic()
            await self._link.send_update(item.body, post_id)
            self._delivered[post_id] = clock.monotonic()  # only the receipt is missing now
            self._measured(len(item.body), clock.monotonic() - began)
        except MessageRefused as error:  # it will never be taken: the round goes on without it
            log.warning("update %s is dropped: %s", post_id, error)
            with self.store.transaction():
                self.store.drop_outbox(post_id, "refused_by_server")
                self._take_back()
            self.state.unacknowledged.discard(post_id)
        except LinkDown as error:
            log.info("update %s waits in the outbox: %s", post_id, error)
        finally:
            self._delivering.discard(post_id)

    def _measured(self, size: int, seconds: float) -> None:
        """A message of that size went out in that time: half of what is known of the link."""
        rate = size / max(seconds, 1e-3)
        known = self.upload_bytes_per_second
        self.upload_bytes_per_second = rate if known == 0 else (rate + known) / 2
        facts = msgspec.structs.replace(
            self.state.facts, link_bytes_per_second=self.upload_bytes_per_second
        )
        self.handle(machine.FactsChanged(facts))

    async def _fetch(self, model: ModelRef, patches: Patches | None) -> None:
        assert self._link is not None
        try:
            data = await self._models.fetch(self._link, model, patches)
        except (LinkDown, PeerError) as error:
            self.handle(machine.FetchFailed(model.hash, str(error)))
        else:
            self._hold(model.hash, data)
            self.handle(machine.Fetched(model.hash))

    def _hold(self, digest: str, data: bytes) -> None:
        self._models.hold(digest, data)

    def _blob(self, digest: str) -> bytes:
        return self._models.blob(digest)

    async def _train(self, offer: Offer, stop: Flag) -> None:
        loop = asyncio.get_running_loop()
        try:
            shared = self._blob(offer.model.hash)
            work = loop.run_in_executor(self._executor, self._trainer.train, offer, shared, stop)
            outcome = await work
        except HedgerowError as error:
            if not stop.is_set():
                self.handle(machine.TrainingFailed(offer.round, str(error)))
            return
        if not stop.is_set():
            with self.store.transaction():
                if outcome.memory:
                    self._memory.keep(update_id(self.state.device, offer.round), outcome.memory)
                trained = machine.Trained(
                    *(offer.round, outcome.payloads, outcome.samples, outcome.metrics),
                    *(outcome.figures, outcome.group, outcome.codec),
                )
                self.handle(trained)
                lost = self._take_back()  # there was no room for it in the outbox
            if outcome.memory and not lost:
                self._hooks.learned(outcome.memory)

    async def _personalise(self, model: ModelRef, stop: Flag) -> None:
        loop = asyncio.get_running_loop()
        shared = self._blob(model.hash)
        work = loop.run_in_executor(self._executor, self._trainer.personalise, shared, stop)
        try:
            weights = await work
        except HedgerowError as error:
            log.warning("personalising failed: %s", error)
        else:
            if not stop.is_set():
                self._hooks.personalised(model, weights)
        if not stop.is_set():
            self.handle(machine.Personalised())


def encode_model(model: ModelRef) -> bytes:
    """A model reference as it is kept in the store's facts."""
    return msgspec.msgpack.encode(model)


def decode_model(data: bytes) -> ModelRef:
    """What `encode_model` made."""
    return msgspec.msgpack.decode(data, type=ModelRef)
