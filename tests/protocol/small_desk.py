"""The coordinator in the small world: its machine, its journal, and what it keeps.

What an event makes durable is kept in one step, as the real shell keeps it in one transaction;
power may go before that step, after it, and at every effect that follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.terms import pack_model
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol import coordinator
from hedgerow.protocol.effects import (
    AbandonRound,
    Aggregate,
    Broadcast,
    CancelTimer,
    CountIn,
    Effect,
    SaveRound,
    Send,
    SetTimer,
    Tell,
)
from hedgerow.protocol.fleet import (
    Aggregated,
    CoordinatorState,
    Event,
    Member,
    Received,
    Started,
    TimerFired,
    Way,
)
from hedgerow.protocol.learning import Sums, next_server
from hedgerow.protocol.patching import make_patch
from hedgerow.wire.codec import open_from_device, seal
from hedgerow.wire.messages import BlobRef, ModelRef, Receipt, Update, base_of, round_of
from tests.protocol.small_world import Node, sign, verify

if TYPE_CHECKING:
    from tests.protocol.small_fleet import Fleet

COORDINATOR = "coordinator"
PATCH_SEED = 11


def ref_of(version: int, vector: Vector) -> ModelRef:
    """A model by its hash."""
    data = vector.astype("<f4").tobytes()
    return ModelRef(version=version, hash=sha256(data).hexdigest(), bytes=len(data))


@dataclass
class Closed:
    """A round as it was closed: whose updates of which rounds counted, and the digest of sums."""

    counted: list[tuple[str, int]]
    digest: str
    model: ModelRef


@dataclass
class Made:
    """A model that is kept, and is yet to be put where devices can fetch it."""

    number: int
    model: ModelRef
    blobs: list[bytes]
    patch: BlobRef | None


class Desk(Node):
    """The coordinator. What is durable stands first."""

    def __init__(self, fleet: "Fleet") -> None:
        super().__init__(fleet.world, COORDINATOR)
        self.fleet = fleet
        self.state: CoordinatorState
        self.journal: list[tuple[str, bytes]] = []
        self.models: list[ModelRef] = [fleet.first]
        self.held: Vector = np.frombuffer(fleet.first_blob, "<f4").astype(np.float32)
        self.server: Server = fleet.begin
        self.saved: tuple[SaveRound, int] | None = None
        self.settled: dict[str, int] = {}
        self.patches: tuple[BlobRef, ...] = ()
        self.last_round = self.rounds_done = 0
        # For the checks alone:
        self.closed: dict[int, Closed] = {}
        self.abandoned: set[int] = set()
        self.receipts: dict[tuple[str, int], set[str]] = {}
        self.told: dict[int, str] = {}
        self._reading: int | None = None

    @property
    def model(self) -> ModelRef:
        return self.models[-1]

    def start(self) -> None:
        """Put the model where it can be fetched, replay the journal of an open round, begin."""
        self.up = True
        scenario = self.fleet.scenario
        way = None
        if scenario.down is not None:
            way = Way(scenario.down, PATCH_SEED, self.patches, kept=4)
        self.state = CoordinatorState(
            rules=self.fleet.rules,
            algorithm=scenario.algorithm,
            plan=LocalPlan(),
            layout=self.fleet.layout,
            model=self.model,
            members={
                name: Member(name, settled=self.settled.get(name, 0)) for name in self.fleet.names
            },
            codecs=scenario.codecs,
            policy=scenario.policy,
            way=way,
            last_round=self.last_round,
            rounds_done=self.rounds_done,
        )
        for model in self.models[-self.state.versions_kept :]:
            self.state.recent.pop(base_of(model), None)
            self.state.recent[base_of(model)] = model.version
        self.world.put(self.held.astype("<f4").tobytes())
        self.sums, self.counted = Sums(), list[tuple[str, int]]()
        self.consumed = len(self.journal)
        if self.saved is not None:
            saved, self.consumed = self.saved
            coordinator.restore_round(self.state, saved, self.world.now)
        life = self.life
        self._read()
        if self.life == life:
            self.take(Started())

    # What comes -----------------------------------------------------------------------------------

    def hear(self, sender: str, data: bytes) -> None:
        """A note."""
        if self.up:
            self.take(Received(sender, open_from_device(data, sender, verify)))

    def journal_in(self, sender: str, data: bytes) -> None:
        """The stream keeps an update although the coordinator may be away."""
        self.journal.append((sender, data))
        if self.up:
            self._read()

    def _read(self) -> None:
        life = self.life
        while self.life == life and self.consumed < len(self.journal):
            sender, data = self.journal[self.consumed]
            self._reading = self.consumed
            self.consumed += 1
            self.take(Received(sender, open_from_device(data, sender, verify)))
        self._reading = None

    def take(self, event: Event) -> None:
        """An event, and its effects."""
        self.world.note(self.name, event)
        self.state, effects = coordinator.step(self.state, event, self.world.now)
        if self.struck():
            return
        made = self._keep(effects, event)
        if self.struck():
            return
        for effect in effects:
            self._carry_out(effect)
            if self.struck():
                return
        for model in made:
            self.later(self.world.rng.uniform(0, 2), lambda model=model: self._publish(model))  # type: ignore[misc]

    # What is kept ---------------------------------------------------------------------------------

    def _keep(self, effects: Iterable[Effect], event: Event) -> list[Made]:
        made = []
        for effect in effects:
            match effect:
                case Tell() | Send() | SetTimer():
                    pass
                case CountIn(number, who, term, weight, group):
                    assert isinstance(event, Received)
                    assert isinstance(event.message, Update)
                    assert self.saved is not None
                    assert number == self.saved[0].number
                    self.sums.add(term, weight, group)
                    self.counted.append((who, event.message.round))
                case SaveRound():
                    assert self.saved is None
                    assert effect.number > self.last_round
                    self.saved, self.last_round = (effect, self.consumed), effect.number
                    self.sums, self.counted = Sums(), []
                case Aggregate():
                    made.append(self._aggregate(effect))
                case AbandonRound(number):
                    self.saved = None
                    self.abandoned.add(number)
        return made

    def _aggregate(self, effect: Aggregate) -> Made:
        assert self.saved is not None
        assert effect.round == self.saved[0].number
        self.server = next_server(self.fleet.shape, self.server, self.sums, len(self.fleet.names))
        version, wanted, patch = self.model.version + 1, pack_model(self.server), None
        blobs, down = [], self.fleet.scenario.down
        if down is None:
            self.held = wanted
        else:
            data, self.held = make_patch(
                down, PATCH_SEED, version, self.held, wanted, self.fleet.layout
            )
            patch = BlobRef(sha256=sha256(data).digest(), bytes=len(data))
            blobs.append(data)
            assert self.state.way is not None
            self.patches = self.state.way.after(patch).blobs
        self.models.append(ref_of(version, self.held))
        blobs.append(self.held.astype("<f4").tobytes())
        self.settled |= dict(effect.settled)
        self.closed[effect.round] = Closed(self.counted, self.sums.digest(), self.model)
        self.saved, self.rounds_done = None, self.rounds_done + 1
        return Made(effect.round, self.model, blobs, patch)

    def _publish(self, made: Made) -> None:
        for blob in made.blobs:
            self.world.put(blob)
        self.take(Aggregated(made.number, made.model, made.patch))

    # What is sent ---------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                pass
            case Send(who, message):
                if isinstance(message, Receipt):
                    told = self.receipts.setdefault((who, round_of(message.id)), set())
                    told.add(message.outcome)
                    if self._reading is not None:
                        first = self.told.setdefault(self._reading, message.outcome)
                        place = f"{message.id} at {self._reading} of the journal"
                        assert first == message.outcome, (
                            f"{place} was told {first}, and after a restart {message.outcome}"
                        )
                self._send(who, seal(message, COORDINATOR, sign))
            case Broadcast(message):
                data = seal(message, COORDINATOR, sign)
                for name in self.fleet.names:
                    self._send(name, data)
            case SetTimer(name, moment):
                self.set_timer(name, moment, self._fire)
            case CancelTimer(name):
                self.cancel_timer(name)

    def _fire(self, name: str) -> None:
        self.take(TimerFired(name))

    def _send(self, who: str, data: bytes) -> None:
        hear = self.fleet.watches[who].hear
        self.world.carry(who, lambda: hear(data))
