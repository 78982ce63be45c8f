"""A whole fleet in virtual time: the shipping machines, the shipping codec, a made-up world.

Every device and the coordinator is its protocol machine (`hedgerow.protocol`), asked by `step` and
taken at its word: what it sends is sealed, weighed, carried over a link that is slow, lossy, cut
off or gone, opened again and handed to the other side. What it trains is trained. Only time, power
and the network are models.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.selection import Uniform
from hedgerow.algorithms.terms import pack_model
from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.bundle import Bundle
from hedgerow.protocol import coordinator as machine
from hedgerow.protocol import effects as do
from hedgerow.protocol import fleet
from hedgerow.protocol.learning import Shape, Sums, next_server, seed_of
from hedgerow.protocol.patching import make_patch
from hedgerow.seal.codec import Codec
from hedgerow.sim.batches import Batches
from hedgerow.sim.clock import Clock, Happening
from hedgerow.sim.data import FederatedData
from hedgerow.sim.device import DESK, Device
from hedgerow.sim.devices import Devices
from hedgerow.sim.experiment import Experiment
from hedgerow.sim.keeping import given_back, names_of, taken
from hedgerow.sim.learning import Learning
from hedgerow.sim.postage import COORDINATOR, client_of, device_id, sign, verify
from hedgerow.sim.residuals import Residuals
from hedgerow.sim.states import ClientStates
from hedgerow.sim.totals import Totals
from hedgerow.wire import codec
from hedgerow.wire.messages import BlobRef, FromCoordinator, Update
from hedgerow.wire.weights import model_ref

AGGREGATE_SECONDS = 0.1
SILENCE_SECONDS_MAX = 30 * 86_400.0
"""A fleet that makes no model for so long never will."""


@dataclass
class Fleet:
    """One run, event by event. Devices come into being with their first event.

    `server` is the coordinator's learning state, `held` the model as devices have it, `models` the
    versions that can be fetched.
    """

    experiment: Experiment
    seed: int
    bundle: Bundle
    data: FederatedData
    engine: Learning
    clock: Clock = field(default_factory=Clock)
    totals: Totals = field(default_factory=Totals)
    nodes: dict[int, Device] = field(default_factory=dict)
    models: dict[str, Vector] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    timers: dict[str, float] = field(default_factory=dict)
    events: int = 0
    loss: float | None = None
    states: ClientStates | None = None
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        experiment, layout = self.experiment, self.bundle.manifest.layout
        algorithm = experiment.algorithm
        self.devices = Devices.draw(experiment.surroundings, len(self.data), self.seed)
        self.batches = Batches(Residuals(len(self.data)))
        self.shape = Shape(algorithm, layout, self.bundle.parts[1:])
        self.form = self.shape.form(0)
        self.server: Server = algorithm.begin(self.bundle.weights[: layout.shared_size].copy())
        self.held: Vector = pack_model(self.server)
        self.sums = Sums()
        first = model_ref(0, self.held)
        self.models[first.hash] = self.held
        # What comes with the bundle: another model than the first, if the algorithm brings more.
        self.bundled = model_ref(0, self.held[: layout.shared_size])
        rules = _seeded(experiment, self.seed)
        down = experiment.down
        self.state = fleet.CoordinatorState(
            rules=rules,
            algorithm=algorithm,
            plan=experiment.plan or self.bundle.manifest.plan,
            layout=layout,
            model=first,
            members={device_id(client): fleet.Member() for client in range(len(self.data))},
            parts=self.bundle.parts[1:],
            codecs=(experiment.codec,),
            policy=experiment.selection,
            way=None
            if down is None
            else fleet.Way(down, _down_seed(self.seed), kept=experiment.patches_kept),
        )
        for client in range(len(self.data)):
            self._expect(client, 0.0)
        self.clock.plan(0.0, DESK, "start")

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.clock.now

    @property
    def done(self) -> int:
        """Versions made so far."""
        return self.state.rounds_done

    @property
    def weights(self) -> Vector:
        """The shared weights as devices have them, `[S]`."""
        return self.held[: self.form.layout.shared_size]

    @property
    def joules(self) -> float:
        """Spent by all devices so far."""
        return self.devices.batteries.total

    @property
    def finished(self) -> bool:
        """Whether the last round is done, or the time is up."""
        over = 0 < self.experiment.seconds_max <= self.now
        return over or 0 < self.experiment.rounds.rounds <= self.done

    def step(self) -> bool:
        """Events until the next version is made; False where the run ended before.

        Raises:
            HedgerowError: the fleet will never make another version.
        """
        done, since = self.done, self.now
        while self.done == done and not self.finished:
            happening = self.clock.next()
            if happening is None or self.now - since > SILENCE_SECONDS_MAX:
                raise HedgerowError(
                    f"version {done + 1} was not made within "
                    f"{SILENCE_SECONDS_MAX / 86_400:.0f} days of virtual time; let more devices be "
                    "there (availability, energy) or ask for fewer (rounds.quorum)"
                )
            self._happens(happening)
        return self.done > done

    # What happens ---------------------------------------------------------------------------------

    def _happens(self, happening: Happening) -> None:
        self.events += 1
        if happening.who != DESK:
            self.node(happening.who).happens(self, happening.what, happening.values)
            return
        match happening.what, happening.values:
            case "start", ():
                self._take(fleet.Started())
            case "hear", (sender, data):
                self._hear(sender, data)
            case "timer", (name, at) if self.timers.get(name) == at:
                del self.timers[name]
                self._take(fleet.TimerFired(name))
            case "aggregated", (number, ref, patch):
                self._take(fleet.Aggregated(number, ref, patch))

    def node(self, client: int) -> Device:
        """The device, made now if this is the first that is heard of it."""
        if client not in self.nodes:
            samples = int(self.data.counts[client])
            self.nodes[client] = Device.new(self, client, self.bundled, samples)
        return self.nodes[client]

    @property
    def facts_matter(self) -> bool:
        """Whether the selection looks at what devices say of themselves."""
        return self.experiment.selection != Uniform()

    def train_seconds(self, client: int, plan: LocalPlan) -> float:
        """How long the device trains by this plan."""
        seen = math.ceil(plan.epochs * int(self.data.counts[client]))
        return float(self.devices.train_seconds(np.array([client]), np.array([seen]))[0])

    def _expect(self, client: int, since: float) -> None:
        """Plan when the device comes up first; those that are there come over one interval."""
        if self.devices.online(client, since):
            spread = self.experiment.devices.check_in_seconds
            moment = spread * (client + 0.5) / max(len(self.data), 1)
        else:
            moment = self.devices.change_after(client, since)
        if np.isfinite(moment):
            self.clock.plan(moment, client, "up")

    def _hear(self, sender: str, data: bytes) -> None:
        """Bytes came from a device."""
        message = codec.open_from_device(data, sender, verify)
        current, behind = self.state.open, 0
        if isinstance(message, Update) and current is not None:
            behind = current.version - self.state.recent.get(message.base, current.version)
        for what, fields in self._take(fleet.Received(sender, message)):
            if what == "update":
                self._booked(fields, behind)

    def _booked(self, fields: dict[str, Any], behind: int) -> None:
        """An update has its outcome."""
        self.outcomes[fields["outcome"]] += 1
        if fields["outcome"] == "counted":
            self.totals.updates += 1
            self.totals.stale += behind > 0
            self.losses.append(fields["metrics"].get("loss", np.nan))
        elif fields["outcome"] != "duplicate":
            self.totals.wasted += 1

    # Effects --------------------------------------------------------------------------------------

    def _take(self, event: fleet.Event) -> list[tuple[str, dict[str, Any]]]:
        """One event through the coordinator, and its effects; what it told."""
        self.state, effects = machine.step(self.state, event, self.now)
        told = []
        for effect in effects:
            match effect:
                case do.Tell(what, fields):
                    told.append((what, fields))
                case do.Send(device, message):
                    self._send(client_of(device), message)
                case do.Broadcast(message):
                    self._broadcast(message)
                case do.CountIn(_, _, term, weight, group):
                    self.sums.add(term, weight, group)
                case do.SaveRound():
                    self.sums = Sums()
                case do.AbandonRound():
                    self.totals.abandoned += 1
                case do.Aggregate(number):
                    self._aggregate(number)
                case do.SetTimer(name, at):
                    self.timers[name] = at
                    self.clock.plan(at, DESK, "timer", name, at)
                case do.CancelTimer(name):
                    self.timers.pop(name, None)
        return told

    def _send(self, client: int, message: FromCoordinator) -> None:
        data = codec.seal(message, COORDINATOR, sign)
        self._carry_down(client, codec.open_from_coordinator(data, COORDINATOR, verify), len(data))

    def _broadcast(self, message: FromCoordinator) -> None:
        """To every device that has a link now; what nobody hears is nobody's bill."""
        data = codec.seal(message, COORDINATOR, sign)
        opened = codec.open_from_coordinator(data, COORDINATOR, verify)
        for client in self.nodes:
            self._carry_down(client, opened, len(data))

    def _carry_down(self, client: int, message: FromCoordinator, size: int) -> None:
        node = self.node(client)
        if node.linked and node.running:
            self.bill(client, down=size)
            arrivals = self.devices.links.arrivals(client, size, up=False, moment=self.now)
            for at in arrivals:
                self.clock.plan(at, client, "hear", node.spell, message)

    def bill(self, client: int, *, up: int = 0, down: int = 0) -> None:
        """Book bytes of a device."""
        extra = self.experiment.network.overhead_bytes
        up, down = up + extra * (up > 0), down + extra * (down > 0)
        self.totals.bytes_up += up
        self.totals.bytes_down += down
        self.devices.batteries.carry(client, up, down, self.now)

    def _aggregate(self, number: int) -> None:
        """Mean, server half, the next model and the patch to it."""
        self.server = next_server(self.shape, self.server, self.sums, len(self.data))
        known = [loss for loss in self.losses if np.isfinite(loss)]
        self.loss, self.losses = float(np.mean(known)) if known else None, []
        wanted, patch = pack_model(self.server), None
        down: Codec | None = self.experiment.down
        version = self.state.rounds_done + 1
        if down is None:
            self.held = wanted
        else:
            seed, layout = _down_seed(self.seed), self.form.layout
            data, self.held = make_patch(down, seed, version, self.held, wanted, layout)
            patch = BlobRef(sha256=number.to_bytes(32, "big"), bytes=len(data))
        ref = model_ref(version, self.held)
        self.models.pop(ref.hash, None)  # an old version's bits again are the newest now
        self.models[ref.hash] = self.held
        while len(self.models) > self.state.versions_kept + 2:
            del self.models[next(iter(self.models))]
        self.clock.plan(self.now + AGGREGATE_SECONDS, DESK, "aggregated", number, ref, patch)

    # Keeping --------------------------------------------------------------------------------------

    KEPT = (
        *("clock", "totals", "batches", "nodes", "models", "outcomes", "timers", "events", "loss"),
        *("losses", "server", "held", "sums", "state"),
    )

    def kept(self) -> dict[str, Any]:
        """All that the next event depends on."""
        kept = {name: getattr(self, name) for name in self.KEPT} | {"made": self.devices.kept()}
        if self.states is not None:
            kept["clients"] = taken(self.states, self._names, self.nodes)
        return kept

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `kept` gave."""
        for name in self.KEPT:
            setattr(self, name, kept[name])
        self.devices.restore(kept["made"])
        if self.states is not None:
            given_back(self.states, self._names, kept["clients"])

    @property
    def _names(self) -> dict[str, int]:
        return names_of(self.shape.algorithm, self.shape.layout)


def _down_seed(seed: int) -> int:
    return seed_of(seed, "patches")


def _seeded(experiment: Experiment, seed: int) -> fleet.RoundRules:
    return msgspec.structs.replace(experiment.rounds, seed=seed)
