"""A coordinator's shell: carries out what its machine asks for.

The update stream is the journal. What is kept in the database is small: who is enrolled, which
round is open since which place in the stream, and the models. After a crash the open round is
restored, the stream is read again from there, and the round goes on where it was.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import numpy as np

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.fedavg import server_step
from hedgerow.core.errors import HedgerowError, PeerError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.io import clock
from hedgerow.io.authority import Enroller
from hedgerow.io.coordinator_store import (
    ROUNDS_KEPT,
    CoordinatorStore,
    DeviceRow,
    ModelRow,
    RoundRow,
)
from hedgerow.io.keys import Identity, verify
from hedgerow.io.links import CoordinatorLink, LinkDown
from hedgerow.model.bundle import Bundle
from hedgerow.protocol import coordinator as machine
from hedgerow.protocol import effects as do
from hedgerow.protocol import fleet
from hedgerow.serve.effects import Tasks, Timers
from hedgerow.serve.settings import CoordinatorSettings
from hedgerow.wire import codec
from hedgerow.wire.messages import (
    Enrol,
    Enrolled,
    FromCoordinator,
    NotEnrolled,
    RollCall,
    Update,
    kind_of,
)
from hedgerow.wire.weights import from_bytes, model_ref, to_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")

FACT_BUNDLE = "bundle"
FACT_OPEN_ROUND = "open_round"
FACT_VELOCITY = "velocity"
FACT_ROUNDS_DONE = "rounds_done"
UPDATE_BYTES_MAX = codec.PAYLOAD_BYTES_MAX - 64 * 1024
"""Largest update that can travel: the rest of its message and its signature take some room."""
REPLAY_SECONDS_MAX = 10.0
"""Longest silence of the journal while it is replayed."""
RETRY_SECONDS = 0.5
DURABLE = (do.Admit, do.SaveRound, do.AbandonRound)


class SavedRound(msgspec.Struct, frozen=True):
    """The open round as it is kept, and where in the update stream it began."""

    round: do.SaveRound
    first_sequence: int


class CoordinatorShell:
    """One fleet's coordinator on one event loop. `start`, then it runs until `close`."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        bundle: Bundle,
        identity: Identity,
        enroller: Enroller,
        store: CoordinatorStore,
        told: Callable[[str, dict[str, Any]], None] = lambda what, fields: None,
    ) -> None:
        self.settings = settings
        self.bundle = bundle
        self.store = store
        self._identity = identity
        self._enroller = enroller
        self._told = told
        self._bundle_bytes = bundle.to_bytes()
        self.bundle_hash = bundle.hash
        self._size = bundle.manifest.layout.shared_size
        if 4 * self._size > UPDATE_BYTES_MAX:
            raise UsageError(
                f"an update of this model takes {4 * self._size} bytes, and at most "
                f"{UPDATE_BYTES_MAX} can travel; share fewer of its tensors, or take a smaller one"
            )
        self._link: CoordinatorLink
        self._consumed = 0
        self._replaced = ""
        self._began = False
        self._sum = ExactSum(self._size)
        self.tasks = Tasks()
        self._timers = Timers(
            asyncio.get_running_loop(), lambda name: self.handle(fleet.TimerFired(name))
        )
        self._first_sequence: int | None = None
        self.state, self.weights, self._velocity = self._restored()

    # Start and stop -------------------------------------------------------------------------------

    async def start(self, link: CoordinatorLink) -> None:
        """Connect, offer bundle and model, replay the journal of an open round, begin."""
        self._link = link
        await link.connect()
        await self._put_blob(self._bundle_bytes)
        await self._put_blob(to_bytes(self.weights))
        last = await self._last_sequence()
        first = last + 1 if self._first_sequence is None else self._first_sequence
        self._consumed = first - 1
        replayed = asyncio.get_running_loop().create_future()
        self.tasks.spawn(self._consume(first, last, replayed))
        if last >= first:
            log.info("replaying updates %d to %d of the open round", first, last)
            await self._replay(replayed, last)
        self._began = True
        self.handle(fleet.Started())

    async def _replay(self, replayed: asyncio.Future[None], last: int) -> None:
        """Wait for update `last` of the journal for as long as updates keep coming."""
        done, seen = False, -1
        while not done and seen != self._consumed:
            seen = self._consumed
            done = bool((await asyncio.wait({replayed}, timeout=REPLAY_SECONDS_MAX))[0])
        if not done:
            log.warning("the journal ends before update %d; going on with what is there", last)

    async def close(self) -> None:
        """Drop timers, tasks and the link; everything that matters is kept already."""
        self._timers.close()
        await self.tasks.close()
        await self._link.close()

    def _restored(self) -> tuple[fleet.CoordinatorState, Vector, Vector]:
        """State, weights and velocity as they were kept, or as a new fleet begins."""
        store, settings, manifest = self.store, self.settings, self.bundle.manifest
        kept_bundle = store.fact(FACT_BUNDLE)
        if kept_bundle is None:
            store.set_fact(FACT_BUNDLE, self.bundle_hash.encode())
        elif kept_bundle != self.bundle_hash.encode():
            raise UsageError(
                "this fleet runs another bundle; give it that one, or a new state directory"
            )
        last = store.last_model()
        if last is None:
            weights = self.bundle.weights[: self._size].copy()
            model = model_ref(0, weights)
            store.add_model(ModelRow(0, model.hash, 0, clock.now()), to_bytes(weights))
        else:
            weights = from_bytes(store.model_weights(last.version) or b"")
            model = model_ref(last.version, weights)
        if weights.shape != (self._size,):
            raise HedgerowError(
                f"the fleet's model has {len(weights)} parameters, the bundle has {self._size}; "
                "give a new model a new fleet, or another state directory"
            )
        velocity = from_bytes(store.fact(FACT_VELOCITY) or b"")
        if velocity.shape != weights.shape:
            velocity = np.zeros_like(weights)
        row = store.last_round()
        state = fleet.CoordinatorState(
            rules=settings.rounds,
            algorithm=settings.fedavg,
            plan=settings.plan if settings.plan is not None else manifest.plan,
            parameters=self._size,
            model=model,
            members={d.id: fleet.Member(d.name) for d in store.devices() if not d.revoked},
            last_round=0 if row is None else row.number,
            rounds_done=int(store.fact(FACT_ROUNDS_DONE) or b"0"),
        )
        kept = store.fact(FACT_OPEN_ROUND)
        if kept is not None:
            saved = msgspec.msgpack.decode(kept, type=SavedRound)
            self._first_sequence = saved.first_sequence
            machine.restore_round(state, saved.round, clock.monotonic())
        return state, weights, velocity

    # Events ---------------------------------------------------------------------------------------

    def on_note(self, device: str, data: bytes) -> None:
        """A note came; the server authenticated `device` as its sender."""
        if self._began:  # what comes earlier is made good: the roll call asks for it
            self._received(device, data, in_journal=False)

    def on_state(self, up: bool) -> None:
        """The link came up or went down. What devices said in its absence is lost: ask again."""
        if up and self._began:
            again = RollCall(spread_seconds=self.settings.rounds.roll_call_seconds)
            self.tasks.spawn(self._broadcast(again))

    def on_enrol(self, device: str, data: bytes) -> None:
        """A request for enrolment came. The signature shows that it has the key it names."""
        if not self._began:
            return  # it is repeated every second
        try:
            message = codec.open_from_device(data, device, verify)
            if not isinstance(message, Enrol) or message.device != device:
                raise PeerError("misplaced", "not an enrolment of its sender")
            known = self.store.device(device)
            if known is not None and known.revoked:
                answer = NotEnrolled(device=device, reason="this device was put out of it")
                self.tasks.spawn(self._answer(device, answer))
                raise PeerError("revoked", "its owner or the fleet's put it out")
        except PeerError as error:
            log.warning("refused an enrolment of %s: %s", device, error)
            self.handle(fleet.Refused(device, error.reason))
            return
        self.handle(fleet.EnrolmentAsked(device, message.name))

    def _received(self, device: str, data: bytes, *, in_journal: bool) -> None:
        """Updates count from the journal alone, and nothing else does: what counts is replayed."""
        try:
            message = codec.open_from_device(data, device, verify)
            if isinstance(message, Update) != in_journal:
                raise PeerError("misplaced", f"a {kind_of(message)} on the wrong subject")
        except PeerError as error:
            log.warning("refused a message of %s: %s", device, error)
            self.handle(fleet.Refused(device, error.reason))
            return
        self.handle(fleet.Received(device, message))

    async def _consume(self, first: int, last: int, replayed: asyncio.Future[None]) -> None:
        """Read the journal for ever; `replayed` is done when update `last` was handled."""
        async for batch in self._link.updates(first):
            for update in batch:
                self._consumed = update.sequence
                self._received(update.device, update.data, in_journal=True)
                if update.sequence >= last and not replayed.done():
                    replayed.set_result(None)

    def handle(self, event: fleet.Event) -> None:
        """One event through the machine, and its effects; an error stops the shell."""
        with self.tasks.guarding():
            self.state, effects = machine.step(self.state, event, clock.monotonic())
            durable = [effect for effect in effects if isinstance(effect, DURABLE)]
            if durable:
                with self.store.transaction():
                    for kept in durable:
                        self._keep(kept)
            for effect in effects:
                self._act(effect)

    # Effects --------------------------------------------------------------------------------------

    def _keep(self, effect: do.Effect) -> None:
        """The durable half of an effect."""
        match effect:
            case do.Admit(device, name):
                self.store.add_device(DeviceRow(device, name, clock.now(), False))
            case do.SaveRound(number, model, cohort):
                first = self._consumed + 1
                saved = msgspec.msgpack.encode(SavedRound(effect, first))
                self.store.set_fact(FACT_OPEN_ROUND, saved)
                self.store.put_round(
                    RoundRow(number, "open", cohort, model.hash, first, clock.now())
                )
            case do.AbandonRound(number, reason):
                self.store.set_fact(FACT_OPEN_ROUND, None)
                self._close_row(number, "abandoned", reason, {})
                self.store.forget_rounds(number + 1 - ROUNDS_KEPT)

    def _act(self, effect: do.Effect) -> None:
        match effect:
            case do.Send(device, message):
                self.tasks.spawn(self._send(device, message))
            case do.Broadcast(message):
                self.tasks.spawn(self._broadcast(message))
            case do.Admit(device):
                self.tasks.spawn(self._admit(device))
            case do.TurnAway(device, reason):
                answer = NotEnrolled(device=device, reason=reason)
                self.tasks.spawn(self._answer(device, answer))
            case do.SaveRound() | do.AbandonRound():
                self._sum = ExactSum(self._size)
            case do.CountIn(term=term, weight=weight):
                self._sum.add(term, weight)
            case do.Aggregate(number):
                self.tasks.spawn(self._aggregate(number))
            case do.SetTimer(name, at_seconds):
                self._timers.set(name, at_seconds - clock.monotonic())
            case do.CancelTimer(name):
                self._timers.cancel(name)
            case do.Tell(what, fields):
                self._told(what, fields)

    async def _aggregate(self, number: int) -> None:
        """Mean, server half, kept in one transaction; then the blob, then the machine goes on."""
        digest = self._sum.digest()
        weights, velocity = server_step(
            self.settings.fedavg, self.weights, self._velocity, self._sum.mean()
        )
        version = self.state.model.version + 1
        model = model_ref(version, weights)
        with self.store.transaction():
            self.store.add_model(
                ModelRow(version, model.hash, number, clock.now()), to_bytes(weights)
            )
            self.store.forget_weights(version - 1)
            self.store.forget_rounds(number + 1 - ROUNDS_KEPT)
            self.store.set_fact(FACT_VELOCITY, to_bytes(velocity))
            self.store.set_fact(FACT_ROUNDS_DONE, str(self.state.rounds_done + 1).encode())
            self.store.set_fact(FACT_OPEN_ROUND, None)
            self._close_row(number, "closed", digest, {"terms": float(self._sum.terms)})
        self.weights, self._velocity = weights, velocity
        await self._put_blob(to_bytes(weights))
        replaced, self._replaced = self._replaced, self.state.model.hash
        self.handle(fleet.Aggregated(number, model))
        self.tasks.spawn(self._tidy(self._consumed, replaced))

    async def _put_blob(self, data: bytes) -> None:
        """Store a blob; while the server is away the round waits for it."""
        await self._patiently(lambda: self._link.put_blob(data))

    async def _last_sequence(self) -> int:
        return await self._patiently(self._link.last_sequence)

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask the server until it is there to answer."""
        while True:
            try:
                return await ask()
            except LinkDown as error:
                log.warning("waiting for the server: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _close_row(self, number: int, state: str, outcome: str, metrics: dict[str, float]) -> None:
        row = self.store.round(number)
        if row is not None:
            changes: dict[str, Any] = {"state": state, "closed_at": clock.now()}
            changes |= {"outcome": outcome, "metrics": metrics}
            self.store.put_round(RoundRow(**{**row.__dict__, **changes}))

    async def _tidy(self, consumed: int, replaced: str) -> None:
        """Updates of closed rounds, and the model before the last, are of no use any more."""
        saved = self.store.fact(FACT_OPEN_ROUND)
        if saved is not None:
            consumed = min(
                consumed, msgspec.msgpack.decode(saved, type=SavedRound).first_sequence - 1
            )
        try:
            await self._link.purge_updates(consumed + 1)
            if replaced and replaced != self.state.model.hash:
                await self._link.delete_blob(replaced)
        except LinkDown as error:
            log.info("old updates and models are cleared later: %s", error)

    async def _admit(self, device: str) -> None:
        credential = self._enroller.issue_device(device, clock.now())
        answer = Enrolled(
            device=device,
            fleet=self.settings.fleet,
            credential=credential,
            bundle=self.bundle_hash,
            bundle_bytes=len(self._bundle_bytes),
        )
        await self._answer(device, answer)

    async def _answer(self, device: str, message: FromCoordinator) -> None:
        try:
            await self._link.answer_enrolment(device, self._sealed(message))
        except LinkDown as error:
            log.info("an enrolment was not answered, the device asks again: %s", error)

    async def _send(self, device: str, message: FromCoordinator) -> None:
        try:
            await self._link.send(device, self._sealed(message))
        except LinkDown as error:
            log.info("a message was not sent, the next check-in makes it good: %s", error)

    async def _broadcast(self, message: FromCoordinator) -> None:
        try:
            await self._link.broadcast(self._sealed(message))
        except LinkDown as error:
            log.info("a broadcast was not sent, check-ins make it good: %s", error)

    def _sealed(self, message: FromCoordinator) -> bytes:
        return codec.seal(message, self._identity.public, self._identity.sign)
