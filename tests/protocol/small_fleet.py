"""A fleet in memory: device machines and a coordinator over a network that loses, copies and
reorders, with crashes, all drawn from one seed. For the tests of the machines alone; nothing
durable survives but what an effect said to keep.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256

import msgspec
import numpy as np

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.fedavg import FedAvg, weight_of
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.protocol import coordinator, device
from hedgerow.protocol.effects import (
    AbandonRound,
    Aggregate,
    Broadcast,
    CancelTimer,
    CountIn,
    Effect,
    Fetch,
    Forget,
    Install,
    Personalise,
    Post,
    Resend,
    SaveRound,
    Send,
    SendNote,
    SetTimer,
    StopTraining,
    Train,
)
from hedgerow.protocol.fleet import (
    Aggregated,
    CoordinatorState,
    Event,
    Member,
    Received,
    RoundRules,
    Started,
    TimerFired,
)
from hedgerow.wire.codec import open_from_coordinator, open_from_device, seal
from hedgerow.wire.messages import ModelRef, Receipt, Update

PARAMETERS = 8
COORDINATOR = "coordinator"


def sign(data: bytes) -> bytes:
    """Stands in for Ed25519, which is tested elsewhere."""
    return blake2b(data, digest_size=16).digest()


def verify(_: str, data: bytes, signature: bytes) -> bool:
    """Whether `sign` made the signature."""
    return sign(data) == signature


def model_of(version: int, digest: str) -> ModelRef:
    """A model made of a sum with this digest."""
    name = sha256(f"{version} {digest}".encode()).hexdigest()
    return ModelRef(version=version, hash=name, bytes=4 * PARAMETERS)


@dataclass(frozen=True)
class Weather:
    """How bad things are, until `ends_at`; from then on all is well."""

    loss: float = 0.2
    copies: float = 0.2
    delay_seconds: float = 3.0
    fetch_failure: float = 0.2
    crash: float = 0.01
    ends_at: float = 200.0


@dataclass
class Closed:
    """A round as it was closed: who was counted, and the digest of the sum."""

    counted: list[str]
    digest: str


class Node:
    """What devices and the coordinator have in common: timers that a crash forgets."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.fleet, self.name = fleet, name
        self.life = 0
        self.up = False
        self.timers: dict[str, float] = {}

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in this life, unless it ends before."""
        life = self.life
        self.fleet.at(
            self.fleet.now + seconds, lambda: action() if self.up and life == self.life else None
        )

    def set_timer(self, name: str, at: float, fire: Callable[[str], None]) -> None:
        self.timers[name] = at
        self.later(
            max(at - self.fleet.now, 0.0),
            lambda: fire(name) if self.timers.get(name) == at else None,
        )

    def kill(self, start: Callable[[], None]) -> None:
        """Power loss; it starts again after a while."""
        self.up, self.life = False, self.life + 1
        self.timers.clear()
        self.fleet.faults["crash"] += 1
        self.fleet.at(self.fleet.now + self.fleet.rng.uniform(0.1, 20), start)


class Watch(Node):
    """One device: its durable outbox and model, and the machine."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        super().__init__(fleet, name)
        self.outbox: dict[str, bytes] = {}
        self.model = fleet.first
        self.job = 0
        self.outcomes: dict[int, list[str]] = {}
        self.start()

    def start(self) -> None:
        self.up = True
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
        if self.up:
            message = open_from_coordinator(data, COORDINATOR, verify)
            self.take(device.Received(message))

    def take(self, event: device.Event) -> None:
        self.fleet.count_event(self.name, event)
        self.state, effects = device.step(self.state, event, self.fleet.now)
        for effect in effects:
            self.carry_out(effect)
            if self.fleet.strikes():
                self.kill(self.start)
                return

    def carry_out(self, effect: Effect) -> None:
        fleet, rng = self.fleet, self.fleet.rng
        match effect:
            case SetTimer(name, at):
                self.set_timer(name, at, lambda name: self.take(device.TimerFired(name)))
            case CancelTimer(name):
                self.timers.pop(name, None)
            case SendNote(message):
                data = seal(message, self.name, sign)
                fleet.carry(lambda: fleet.desk.hear(self.name, data))
            case Post(post_id, message):
                assert isinstance(message, Update)
                self.outbox[post_id] = seal(message, self.name, sign)
                self.send(post_id)
            case Resend(post_id):
                self.send(post_id)
            case Forget(post_id):
                del self.outbox[post_id]
            case Fetch(ref):
                failed = rng.random() < fleet.now_weather.fetch_failure
                done = device.FetchFailed(ref.hash, "gone") if failed else device.Fetched(ref.hash)
                self.later(rng.uniform(0, 2), lambda: self.take(done))
            case Install(ref):
                self.model = ref
            case Train(offer):
                self.job += 1
                job, payload = self.job, rng.normal(size=PARAMETERS).astype("<f4").tobytes()
                trained = device.Trained(offer.round, payload, int(rng.integers(1, 99)), {})
                seconds = rng.uniform(0.1, 8)
                self.later(seconds, lambda: self.take(trained) if job == self.job else None)
            case Personalise():
                self.job += 1
                job = self.job
                done_ = device.Personalised()
                self.later(3.0, lambda: self.take(done_) if job == self.job else None)
            case StopTraining():
                self.job += 1

    def send(self, post_id: str) -> None:
        data = self.outbox[post_id]
        self.fleet.carry(lambda: self.fleet.desk.journal_in(self.name, data))

    def flap(self) -> None:
        """The link goes down, and comes up again."""
        if self.up and self.state.online:
            self.take(device.LinkDown())
            self.later(self.fleet.rng.uniform(0.1, 15), lambda: self.take(device.LinkUp()))


class Desk(Node):
    """The coordinator: its durable store and journal, and the machine."""

    def __init__(self, fleet: "Fleet", rules: RoundRules, devices: list[str]) -> None:
        super().__init__(fleet, COORDINATOR)
        self.rules, self.devices = rules, devices
        self.model, self.last_round, self.rounds_done = fleet.first, 0, 0
        self.saved: SaveRound | None = None
        self.journal: list[tuple[str, bytes]] = []
        self.closed: dict[int, Closed] = {}
        self.abandoned: set[int] = set()
        self.receipts: dict[tuple[str, int], set[str]] = {}

    def start(self) -> None:
        self.up = True
        self.state = CoordinatorState(
            rules=self.rules,
            algorithm=FedAvg(),
            plan=LocalPlan(),
            parameters=PARAMETERS,
            model=self.model,
            members={name: Member(name) for name in self.devices},
            last_round=self.last_round,
            rounds_done=self.rounds_done,
        )
        self.sum, self.counted = ExactSum(PARAMETERS), list[str]()
        if self.saved is not None:
            self.state = coordinator.restore_round(self.state, self.saved, self.fleet.now)
        life = self.life
        for sender, data in list(self.journal):
            self.read(sender, data)
            if self.life != life:
                return
        self.take(Started())

    def hear(self, sender: str, data: bytes) -> None:
        if self.up:
            self.read(sender, data)

    def journal_in(self, sender: str, data: bytes) -> None:
        """The stream keeps an update although the coordinator may be away."""
        self.journal.append((sender, data))
        self.hear(sender, data)

    def read(self, sender: str, data: bytes) -> None:
        self.take(Received(sender, open_from_device(data, sender, verify)))

    def take(self, event: Event) -> None:
        self.fleet.count_event(self.name, event)
        self.state, effects = coordinator.step(self.state, event, self.fleet.now)
        for effect in effects:
            self.carry_out(effect)
            if self.fleet.strikes():
                self.kill(self.start)
                return

    def carry_out(self, effect: Effect) -> None:
        fleet = self.fleet
        match effect:
            case SetTimer(name, at):
                self.set_timer(name, at, lambda name: self.take(TimerFired(name)))
            case CancelTimer(name):
                self.timers.pop(name, None)
            case SaveRound():
                assert self.saved is None
                assert effect.number not in self.closed
                self.saved, self.last_round = effect, effect.number
                self.sum, self.counted = ExactSum(PARAMETERS), []
            case CountIn(number, who, term, weight):
                assert self.saved is not None
                assert number == self.saved.number
                self.sum.add(term, weight)
                self.counted.append(who)
            case Aggregate(number):
                self.later(fleet.rng.uniform(0, 2), lambda: self.aggregate(number))
            case AbandonRound(number):
                self.saved = None
                self.abandoned.add(number)
            case Send(who, message):
                if isinstance(message, Receipt):
                    number = int(message.id.split("/")[1])
                    self.receipts.setdefault((who, number), set()).add(message.outcome)
                data = seal(message, COORDINATOR, sign)
                fleet.carry(lambda: fleet.watches[who].hear(data))
            case Broadcast(message):
                data = seal(message, COORDINATOR, sign)
                for watch in fleet.watches.values():
                    fleet.carry(lambda watch=watch: watch.hear(data))  # type: ignore[misc]

    def aggregate(self, number: int) -> None:
        """One transaction: the model is kept and the round is over. Then the machine is told."""
        self.closed[number] = Closed(list(self.counted), self.sum.digest())
        self.model = model_of(self.model.version + 1, self.sum.digest())
        self.saved, self.rounds_done = None, self.rounds_done + 1
        if self.fleet.strikes():
            self.kill(self.start)
        else:
            self.take(Aggregated(number, self.model))


@dataclass
class Fleet:
    """`size` devices and a coordinator, run until `ends_at + calm_seconds`."""

    seed: int
    size: int = 5
    weather: Weather = Weather()
    rules: RoundRules = RoundRules(
        cohort=3, quorum=2, over_selection=0.25, deadline_seconds=40, retry_seconds=2, rounds=6
    )
    calm_seconds: float = 600.0
    now: float = 0.0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = stream(self.seed, "fleet")
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = 0
        self.trace = sha256()
        self.first = model_of(1, "")
        names = [f"watch-{index}" for index in range(self.size)]
        self.desk = Desk(self, msgspec.structs.replace(self.rules, seed=self.seed), names)
        self.watches: dict[str, Watch] = {}
        for name in names:
            self.watches[name] = Watch(self, name)
        self.desk.start()
        for moment in self.rng.uniform(0, self.weather.ends_at, 2 * self.size):
            watch = self.watches[names[int(self.rng.integers(self.size))]]
            self.at(float(moment), watch.flap)

    @property
    def now_weather(self) -> Weather:
        """Fair once the bad weather has ended."""
        if self.now < self.weather.ends_at:
            return self.weather
        return replace(self.weather, loss=0, copies=0, fetch_failure=0, crash=0)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.queue, (moment, self.order, action))

    def strikes(self) -> bool:
        """Whether lightning strikes right here."""
        crash = self.now_weather.crash
        return crash > 0 and self.rng.random() < crash

    def carry(self, deliver: Callable[[], None]) -> None:
        """Deliver once, or twice, or never; each after a time of its own."""
        weather = self.now_weather
        if self.rng.random() < weather.loss:
            self.faults["lost"] += 1
            return
        copies = 2 if self.rng.random() < weather.copies else 1
        self.faults["copied"] += copies - 1
        for _ in range(copies):
            self.at(self.now + self.rng.uniform(0, weather.delay_seconds), deliver)

    def count_event(self, who: str, event: object) -> None:
        self.events += 1
        self.trace.update(f"{self.now:.9f} {who} {type(event).__name__}".encode())

    def run(self) -> "Fleet":
        """Until the end of the calm, or until nothing is left to do but checking in."""
        while self.queue and self.now < self.weather.ends_at + self.calm_seconds:
            self.now, _, action = heapq.heappop(self.queue)
            action()
            if self.now > self.weather.ends_at + 20 and self.settled():
                break
        return self

    def settled(self) -> bool:
        """All rounds are done, every outbox is empty and every device has the last model."""
        desk = self.desk
        return (
            desk.up
            and desk.state.phase == "done"
            and all(
                watch.up and not watch.outbox and watch.model == desk.model
                for watch in self.watches.values()
            )
        )

    def sum_of_first(self, number: int, counted: list[str]) -> str:
        """The digest of a round by another way: the first update of each in the journal."""
        first: dict[str, Update] = {}
        for sender, data in self.desk.journal:
            message = open_from_device(data, sender, verify)
            if isinstance(message, Update) and message.round == number:
                first.setdefault(sender, message)
        total = ExactSum(PARAMETERS)
        for name in sorted(counted):
            weight = weight_of(FedAvg(), first[name].samples)
            term = to_fixed(np.frombuffer(first[name].payload, "<f4"), weight)
            total.add(term, weight_to_fixed(weight))
        return total.digest()
