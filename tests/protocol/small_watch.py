"""One device in the small world: its machine, what it keeps through a power loss, and its learning.

It learns by the real device half of the fleet's algorithm; only the gradient is made up.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from hedgerow.algorithms.base import LocalTask
from hedgerow.algorithms.drive import drive
from hedgerow.algorithms.terms import unpack_model
from hedgerow.core.errors import PeerError
from hedgerow.core.layout import Vector
from hedgerow.model.passes import Losses, Pass, Trained
from hedgerow.protocol import device
from hedgerow.protocol.effects import (
    COUNTED,
    CancelTimer,
    Effect,
    Fetch,
    Forget,
    Install,
    Personalise,
    Post,
    Resend,
    SendNote,
    SetTimer,
    StopTraining,
    Tell,
    Train,
)
from hedgerow.protocol.patching import apply_patches
from hedgerow.wire.codec import open_from_coordinator, seal
from hedgerow.wire.messages import ModelRef, Offer, Update
from tests.protocol.small_world import Node, sign, verify

if TYPE_CHECKING:
    from tests.protocol.small_fleet import Fleet

COORDINATOR = "coordinator"
SOFT_SECONDS = 1.0


@dataclass
class Memory:
    """What a device keeps from round to round and never sends."""

    kept: dict[str, Vector] = field(default_factory=dict)
    residuals: dict[str, Vector] = field(default_factory=dict)


class Watch(Node):
    """One device. What is durable: the outbox, the model, and the memory."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        super().__init__(fleet.world, name)
        self.fleet = fleet
        self.outbox: dict[str, bytes] = {}
        self.model, self.blob, self.memory = fleet.first, fleet.first_blob, Memory()
        self.outcomes: dict[str, set[str]] = {}
        self.patched = self.whole = 0
        self._learned = Memory()
        self._before: tuple[str, Memory] = ("", Memory())
        self._fetched: dict[str, bytes] = {}
        self._soft: list[str | ModelRef] = []
        self._job = 0
        self.start()

    def start(self) -> None:
        self.up = True
        self._fetched = {self.model.hash: self.blob}
        self._soft.clear()
        self.state = device.DeviceState(
            self.name,
            self.name,
            self.model,
            check_in_seconds=5.0,
            personalise_after_seconds=4.0,
            samples=16,
            unacknowledged=set(self.outbox),
        )
        self.take(device.LinkUp())

    def hear(self, data: bytes) -> None:
        if self.up and self.state.online:
            self.take(device.Received(open_from_coordinator(data, COORDINATOR, verify)))

    def flap(self) -> None:
        """The link goes down, and comes up again."""
        if self.up and self.state.online:
            self.take(device.LinkDown())
            self.later(self.world.rng.uniform(0.1, 15), lambda: self.take(device.LinkUp()))

    def take(self, event: device.Event) -> None:
        """An event, and its effects: power may go before what is kept, and at every one after."""
        self.world.note(self.name, event)
        self.state, effects = device.step(self.state, event, self.world.now)
        if self.struck():
            return
        for effect in effects:
            if type(effect) is Post:
                self._keep(effect)
        for effect in effects:
            self._carry_out(effect)
            if self.struck():
                return

    # What it keeps --------------------------------------------------------------------------------

    def _keep(self, post: Post) -> None:
        """One transaction: the update, what was learned beside it, and what may be written late."""
        self.outbox[post.id] = seal(post.message, self.name, sign)
        self._before = (post.id, self.memory)
        self.memory = self._learned
        self._keep_soft()

    def _keep_soft(self) -> None:
        for item in self._soft:
            if isinstance(item, str):
                self.outbox.pop(item, None)
            else:
                self.model, self.blob = item, self._fetched[item.hash]
        self._soft.clear()

    def _keep_soon(self, item: str | ModelRef) -> None:
        self._soft.append(item)
        self.set_timer("soft", self.world.now + SOFT_SECONDS, lambda _: self._keep_soft())

    # What it does ---------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                pass
            case SetTimer():
                self.set_timer(effect.name, effect.at_seconds, self._fire)
            case SendNote():
                self._note(seal(effect.message, self.name, sign))
            case Post() | Resend():
                self._post(self.outbox[effect.id])
            case CancelTimer(name):
                self.cancel_timer(name)
            case Forget(post_id, outcome):
                last, before = self._before
                if outcome not in COUNTED:
                    self.outbox.pop(post_id, None)
                    self.memory = before if post_id == last else self.memory
                else:
                    self._keep_soon(post_id)
            case Fetch():
                self._soon(self.world.rng.uniform(0, 2), self._fetch, effect)
            case Install(ref):
                self._keep_soon(ref)
            case Train() | Personalise() | StopTraining():
                self._turn_to(effect)

    def _turn_to(self, effect: Train | Personalise | StopTraining) -> None:
        """Another job, or none: what was begun before is not heard of again."""
        self._job += 1
        match effect:
            case Train(offer):
                self._soon(self.fleet.pace(self), self._train, offer, self._job)
            case Personalise():
                self._soon(3.0, self._personalised, self._job)

    def _soon(self, seconds: float, act: Callable[..., None], *given: object) -> None:
        self.later(seconds, lambda: act(*given))

    def _note(self, data: bytes) -> None:
        self.world.carry(self.name, lambda: self.fleet.desk.hear(self.name, data))

    def _post(self, data: bytes) -> None:
        self.world.carry(self.name, lambda: self.fleet.desk.journal_in(self.name, data))

    def _fire(self, name: str) -> None:
        self.take(device.TimerFired(name))

    def _fetch(self, fetch: Fetch) -> None:
        ref = fetch.model
        blob = self._fetched.get(ref.hash) or self._by_patches(fetch)
        if blob is None:
            blob = self.world.fetch(self.name, ref.hash)
            self.whole += blob is not None
        if blob is None:
            self.take(device.FetchFailed(ref.hash, "gone"))
            return
        assert sha256(blob).hexdigest() == ref.hash
        self._fetched[ref.hash] = blob
        self.take(device.Fetched(ref.hash))

    def _by_patches(self, fetch: Fetch) -> bytes | None:
        way, held = fetch.patches, self.state.model
        if way is None or way.since != held.version:
            return None
        parts = [self.world.fetch(self.name, ref.hash) for ref in way.blobs]
        if None in parts:
            return None
        vector = np.frombuffer(self._fetched[held.hash], "<f4")
        try:
            made = apply_patches(
                way.codec, way.seed, way.since, vector, [p for p in parts if p], self.fleet.layout
            )
        except (PeerError, ValueError):
            return None
        blob = made.astype("<f4").tobytes()
        if sha256(blob).hexdigest() != fetch.model.hash:
            return None
        self.patched += 1
        return blob

    def _personalised(self, job: int) -> None:
        if job == self._job:
            self.take(device.Personalised())

    def _train(self, offer: Offer, job: int) -> None:
        """Training is over: the algorithm's own half, on a gradient that is drawn."""
        if job != self._job:
            return
        layout, size = self.fleet.layout, self.fleet.layout.size
        vector = np.frombuffer(self._fetched[offer.model.hash], "<f4")
        model = unpack_model(offer.algorithm, vector, layout.shared_size)
        keeps = offer.algorithm.keeps
        fresh = any(name not in self.memory.kept for name in keeps)
        zeros = np.zeros(size, np.float32)
        samples = self.world.rng.randrange(1, 99)
        task = LocalTask(
            weights=np.array(model["weights"], np.float32)[None],
            brought={name: part for name, part in model.items() if name != "weights"},
            kept={n: (zeros if fresh else self.memory.kept[n])[None] for n in keeps},
            fresh=np.array([fresh]),
            samples=np.array([samples]),
            plan=offer.plan,
            layout=layout,
        )
        done = drive(offer.algorithm.local(task), self._learn, self._losses)
        form, group = self.fleet.shape.form(0), done.group
        index = self.world.rng.randrange(len(offer.codecs))
        payloads, lost = form.encode(
            {name: vectors[0] for name, vectors in done.sends.items()},
            *(offer.codecs[index], offer.seed, self.name, self.memory.residuals),
        )
        kept = {name: vectors[0] for name, vectors in done.kept.items()}
        self._learned = Memory(kept, lost)
        self.take(
            device.Trained(
                round=offer.round,
                payloads=payloads,
                samples=samples,
                metrics={"loss": float(done.trained.loss[0])},
                figures=tuple(float(done.figures[n][0]) for n in offer.algorithm.figures),
                group=0 if group is None else int(group[0]),
                codec=index,
            )
        )

    def _learn(self, ask: Pass) -> Trained:
        moved = self.world.vectors.normal(0, 0.1, ask.weights.shape).astype(np.float32)
        one = np.ones(1, np.int64)
        loss = np.array([self.world.rng.uniform(0.1, 2)])
        return Trained(ask.weights + moved, 5 * one, 80 * one, loss)

    def _losses(self, ask: Losses) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        return self.world.vectors.random((1, len(ask.weights)))


def update_in(data: bytes, sender: str) -> Update | None:
    """The update in an envelope, if it is one."""
    from hedgerow.wire.codec import open_from_device

    message = open_from_device(data, sender, verify)
    return message if isinstance(message, Update) else None
