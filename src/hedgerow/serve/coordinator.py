"""A coordinator's shell: carries out what its machine asks for.

The update stream is the journal. What is kept in the database is small: who is enrolled, which
round is open since which place in the stream, and the models. After a crash the open round is
restored, the stream is read again from there, and the round goes on where it was.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.layout import Vector
from hedgerow.io import clock
from hedgerow.io.authority import Enroller
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.keys import Identity, verify
from hedgerow.io.links import CoordinatorLink, LinkDown
from hedgerow.model.bundle import Bundle
from hedgerow.protocol import coordinator as machine
from hedgerow.protocol import effects as do
from hedgerow.protocol import fleet
from hedgerow.protocol.asking import roll_call
from hedgerow.seal.codec import estimate
from hedgerow.serve.effects import Tasks, Timers
from hedgerow.serve.keeping import Keeper, Made
from hedgerow.serve.releases import Releases, inbox
from hedgerow.serve.settings import CoordinatorSettings
from hedgerow.wire import codec
from hedgerow.wire.messages import (
    CheckIn,
    Enrol,
    Enrolled,
    FromCoordinator,
    NotEnrolled,
    Trial,
    Update,
    kind_of,
)
from hedgerow.wire.weights import from_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")

UPDATE_BYTES_MAX = codec.PAYLOAD_BYTES_MAX - 64 * 1024
"""Largest update that can travel: the rest of its message and its signature take some room."""
REPLAY_SECONDS_MAX = 10.0
"""Longest silence of the journal while it is replayed."""
RETRY_SECONDS = 0.5


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
        self._link: CoordinatorLink
        self._consumed = 0
        self._replaced = ""
        self._began = False
        self._keeper = Keeper(settings, bundle, store)
        self.state = self._keeper.state
        self._check_size()
        self.tasks = Tasks()
        self._timers = Timers(
            asyncio.get_running_loop(), lambda name: self.handle(fleet.TimerFired(name))
        )
        self.releases = Releases(
            settings.rollout,
            inbox(settings.state),
            bundle,
            identity,
            store,
            self._send,
            self._put_blob,
            self.tasks,
        )

    @property
    def weights(self) -> Vector:
        """The shared weights of the current model, `[S]`."""
        return from_bytes(self._keeper.blob)[: self.state.parameters]

    def _check_size(self) -> None:
        """Raises UsageError when an update cannot travel."""
        form = self.state.shape.form(0)
        for one in self.state.codecs:
            size = len(form.algorithm.sends) * estimate(one, form.size, form.shapes)
            if size > UPDATE_BYTES_MAX:
                raise UsageError(
                    f"an update of this model takes {size:.0f} bytes, and at most "
                    f"{UPDATE_BYTES_MAX} can travel; share fewer of its tensors, choose a codec "
                    "that shrinks it, or take a smaller one"
                )

    # Start and stop -------------------------------------------------------------------------------

    async def start(self, link: CoordinatorLink) -> None:
        """Connect, offer bundle and model, replay the journal of an open round, begin."""
        self._link = link
        await link.connect()
        await self._put_blob(self._bundle_bytes)
        await self._put_blob(self._keeper.blob)
        last, kept = await self._last_sequence(), self._keeper.first_sequence
        first = last + 1 if kept is None else kept
        self._consumed = first - 1
        replayed = asyncio.get_running_loop().create_future()
        self.tasks.spawn(self._consume(first, last, replayed))
        if last >= first:
            log.info("replaying updates %d to %d of the open round", first, last)
            await self._replay(replayed, last)
        self._began = True
        await self.releases.start(tuple(self.state.members))
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
        self.releases.close()
        await self.tasks.close()
        await self._link.close()

    # Events ---------------------------------------------------------------------------------------

    def on_note(self, device: str, data: bytes) -> None:
        """A note came; the server authenticated `device` as its sender."""
        if self._began:  # what comes earlier is made good: the roll call asks for it
            self._received(device, data, in_journal=False)

    def on_state(self, up: bool) -> None:
        """The link came up or went down. What devices said in its absence is lost: ask again."""
        if up and self._began:
            self.tasks.spawn(self._broadcast(roll_call(self.state)))

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
        member = device in self.state.members
        if isinstance(message, Trial) and member:
            self.releases.heard(device, message)
            return
        self.handle(fleet.Received(device, message))
        if isinstance(message, CheckIn) and member:
            self.releases.seen(device)

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
            made = self._keeper.carry_out(self.state, effects, self._consumed)
            for effect in effects:
                self._act(effect)
            for model in made:
                self.tasks.spawn(self._publish(model))

    # Effects --------------------------------------------------------------------------------------

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
            case do.SetTimer(name, at_seconds):
                self._timers.set(name, at_seconds - clock.monotonic())
            case do.CancelTimer(name):
                self._timers.cancel(name)
            case do.Tell(what, fields):
                self._told(what, fields)

    async def _publish(self, made: Made) -> None:
        """A model was made and kept: once devices can fetch it the machine goes on."""
        await self._put_blob(made.blob)
        if made.patch is not None:
            await self._put_blob(made.patch)
        replaced, self._replaced = self._replaced, self.state.model.hash
        self.handle(fleet.Aggregated(made.round, made.model, made.patch_ref))
        gone = [digest for digest in (replaced, *made.out_of_use) if digest]
        self.tasks.spawn(self._tidy(self._keeper.journal_needed_from(self._consumed), gone))

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

    async def _tidy(self, needed: int, gone: list[str]) -> None:
        """Updates of closed rounds, and models nobody starts from, are of no use any more."""
        try:
            await self._link.purge_updates(needed)
            for digest in gone:
                if digest != self.state.model.hash:
                    await self._link.delete_blob(digest)
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
