"""A world in memory for the machines: time, a bad network, blobs, and parties that may crash.

Everything is drawn from one seed, so that whatever went wrong goes wrong again.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from hedgerow.core.streams import stream

Action = Callable[[], None]


def sign(data: bytes) -> bytes:
    """Stands in for Ed25519, which is tested elsewhere: what is signed ends with the digest."""
    return data[-16:]


def verify(_: str, data: bytes, signature: bytes) -> bool:
    """Whether `sign` made the signature."""
    return data[-16:] == signature


@dataclass(frozen=True)
class Weather:
    """How bad things are, until `ends_at`; from then on all is well.

    `loss`, `copies` and `fetch_failure` are probabilities of a message or a blob, `crash` of power
    going at any one effect of any party. `partitions` is how often some devices are cut off without
    anybody being told.
    """

    loss: float = 0.2
    copies: float = 0.2
    delay_seconds: float = 3.0
    fetch_failure: float = 0.2
    crash: float = 0.01
    partitions: int = 3
    ends_at: float = 200.0


FAIR = Weather(loss=0, copies=0, fetch_failure=0, crash=0, partitions=0, ends_at=0)


class World:
    """Time and network. `now` is in seconds."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.rng = random.Random(f"world {seed}")
        self.vectors = stream(seed, "vectors")
        self.weather = weather
        self.now = 0.0
        self.events = 0
        self.faults: Counter[str] = Counter()
        self.blobs: dict[str, bytes] = {}
        self.cut: dict[str, float] = {}
        self._queue: list[tuple[float, int, Action]] = []
        self._order = 0
        self._trace: list[tuple[float, str, str]] = []
        self.until_strike = self._drawn()
        self.victim, self._place = "", 0

    @property
    def bad(self) -> bool:
        """Whether the weather still is."""
        return self.now < self.weather.ends_at

    def at(self, moment: float, action: Action) -> None:
        """Do something at that moment."""
        self._order += 1
        heapq.heappush(self._queue, (moment, self._order, action))

    def step(self) -> bool:
        """Do what comes next; whether there was something."""
        if not self._queue:
            return False
        self.now, _, action = heapq.heappop(self._queue)
        action()
        return True

    def strike(self, victim: str, place: int) -> None:
        """Let it strike that party once, at its effect number `place`."""
        self.victim, self._place = victim, place

    def strikes(self, who: str) -> bool:
        """Whether lightning strikes that party right here."""
        if who == self.victim:
            self._place -= 1
            if self._place == 0:
                return True
        self.until_strike -= 1
        if self.until_strike > 0 or self.now >= self.weather.ends_at:
            return False
        self.until_strike = self._drawn()
        return True

    def _drawn(self) -> int:
        """After how many effects it strikes: one draw instead of one for each."""
        if self.weather.crash <= 0:
            return 1 << 60
        return 1 + int(self.rng.expovariate(self.weather.crash))

    def carry(self, device: str, deliver: Action) -> None:
        """Between a device and the rest: once, or twice, or never; each after a time of its own."""
        draw, weather = self.rng.random, self.weather
        copies, now = 1, self.now
        if now < weather.ends_at:
            if draw() < weather.loss or self.cut.get(device, -1.0) > now:
                self.faults["lost"] += 1
                return
            if draw() < weather.copies:
                self.faults["copied"] += 1
                copies = 2
        for _ in range(copies):
            self._order += 1
            moment = now + draw() * weather.delay_seconds
            heapq.heappush(self._queue, (moment, self._order, deliver))

    def put(self, data: bytes) -> None:
        """A blob that whoever knows its hash can fetch."""
        self.blobs[sha256(data).hexdigest()] = data

    def fetch(self, device: str, digest: str) -> bytes | None:
        """A blob, if it is there and comes through."""
        lost = self.bad and (
            self.rng.random() < self.weather.fetch_failure or self.cut.get(device, -1.0) > self.now
        )
        return None if lost else self.blobs.get(digest)

    def note(self, who: str, event: object) -> None:
        """An event of a machine, into the trace."""
        self.events += 1
        self._trace.append((self.now, who, type(event).__name__))

    @property
    def trace(self) -> str:
        """Tells one run from another."""
        return sha256(repr(self._trace).encode()).hexdigest()


class Node:
    """What devices and the coordinator have in common: timers, which a crash forgets."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.life = 0
        self.up = False
        self._timers: dict[str, float] = {}

    def start(self) -> None:
        """Begin with what is durable."""
        raise NotImplementedError

    def later(self, seconds: float, action: Action) -> None:
        """Do something in this life, unless it ends before."""
        life = self.life

        def alive() -> None:
            if self.up and life == self.life:
                action()

        self.world.at(self.world.now + seconds, alive)

    def set_timer(self, name: str, moment: float, fire: Callable[[str], None]) -> None:
        """Replaces the timer of that name."""
        self._timers[name] = moment
        life, world = self.life, self.world

        def ring() -> None:
            if self.up and life == self.life and self._timers.get(name) == moment:
                del self._timers[name]
                fire(name)

        world.at(world.now + max(moment - world.now, 0.0), ring)

    def cancel_timer(self, name: str) -> None:
        """Forget it, if it is set."""
        self._timers.pop(name, None)

    def struck(self) -> bool:
        """Power may go right here: then it starts again after a while."""
        world = self.world
        if self.name != world.victim and world.until_strike > 1:  # by far the most often
            world.until_strike -= 1
            return False
        if not world.strikes(self.name):
            return False
        self.up, self.life = False, self.life + 1
        self._timers.clear()
        world.faults["crash"] += 1
        world.at(world.now + world.rng.uniform(0.1, 20), self.start)
        return True
