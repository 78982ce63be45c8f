"""A small fleet in a bad world, and what must hold of it whatever happened.

`python -m tests.protocol.small_fleet SEED [SCENARIO]` replays one run and says how it went.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.ifca import Ifca
from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.algorithms.selection import AnyPolicy, Oort, Uniform
from hedgerow.algorithms.terms import pack_model
from hedgerow.core.layout import Layout, TensorSpec, Vector
from hedgerow.protocol.fleet import RoundRules
from hedgerow.protocol.learning import Shape, Sums, next_server, seed_of
from hedgerow.protocol.patching import make_patch
from hedgerow.seal.codec import Codec
from hedgerow.seal.quantise import Quantise
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK
from hedgerow.wire.messages import Update, base_of
from tests.protocol.small_desk import PATCH_SEED, Desk, ref_of
from tests.protocol.small_watch import Watch, update_in
from tests.protocol.small_world import FAIR, Weather, World

__all__ = ["FAIR", "Fleet", "Scenario", "Weather"]

LAYOUT = Layout((TensorSpec("w", (4, 4)), TensorSpec("b", (8,))))
WEATHER = Weather()
STC = Codec(stages=(TopK(share=0.25), Ternary()), feedback=True)
RULES = RoundRules(
    cohort=3, quorum=2, over_selection=0.25, deadline_seconds=40, retry_seconds=2, rounds=6
)


@dataclass(frozen=True)
class Scenario:
    """What the fleet runs."""

    algorithm: AnyAlgorithm = field(default_factory=FedAvg)
    codecs: tuple[Codec, ...] = (Codec(),)
    down: Codec | None = None
    policy: AnyPolicy = field(default_factory=Uniform)


SCENARIOS = {
    "fedavg": Scenario(),
    "scaffold": Scenario(Scaffold()),
    "fedbuff": Scenario(FedBuff(buffer=3, staleness_max=3)),
    "ifca": Scenario(Ifca(count=3)),
    "stc": Scenario(codecs=(STC,), down=STC),
    "fedbuff, stc": Scenario(
        FedBuff(buffer=3, momentum=0.5),
        codecs=(Codec(), STC),
        down=Codec(stages=(Quantise(bits=8),), feedback=True),
    ),
    "scaffold, oort": Scenario(Scaffold(), codecs=(STC,), down=STC, policy=Oort()),
}
NAMES = tuple(SCENARIOS)


@dataclass
class Fleet:
    """`size` devices and a coordinator, run until `ends_at + calm_seconds` of world time."""

    seed: int
    name: str = ""
    size: int = 5
    weather: Weather = WEATHER
    rules: RoundRules = RULES
    calm_seconds: float = 900.0
    vanish: bool = True
    layout: Layout = field(default=LAYOUT)

    def __post_init__(self) -> None:
        self.name = self.name or NAMES[self.seed % len(NAMES)]
        self.scenario = SCENARIOS[self.name]
        self.rules = msgspec.structs.replace(self.rules, seed=self.seed)
        self.world = World(self.seed, self.weather)
        self.shape = Shape(self.scenario.algorithm, self.layout)
        start = np.linspace(-1, 1, self.layout.size).astype(np.float32)
        self.begin: Server = self.scenario.algorithm.begin(start)
        vector = pack_model(self.begin)
        self.first, self.first_blob = ref_of(1, vector), vector.astype("<f4").tobytes()
        self.names = [f"watch-{index}" for index in range(self.size)]
        self.watches: dict[str, Watch] = {}
        self.desk = Desk(self)
        for name in self.names:
            self.watches[name] = Watch(self, name)
        self.desk.start()
        rng = self.world.rng
        for _ in range(2 * self.size):
            self.world.at(rng.uniform(0, self.weather.ends_at), self._flap)
        for _ in range(self.weather.partitions):
            self.world.at(rng.uniform(0, self.weather.ends_at), self._partition)

    def _flap(self) -> None:
        self.watches[self.world.rng.choice(self.names)].flap()

    def _partition(self) -> None:
        """Some devices are cut off from the rest, and nobody is told."""
        rng = self.world.rng
        self.world.faults["partition"] += 1
        for name in rng.sample(self.names, rng.randrange(1, self.size)):
            self.world.cut[name] = self.world.now + rng.uniform(5, 60)

    def pace(self, watch: Watch) -> float:
        """Seconds of training: devices differ, and while the weather is bad some never end."""
        rng = self.world.rng
        slow = 1 + self.names.index(watch.name) % 3
        if self.vanish and self.world.bad and rng.random() < 0.03:
            self.world.faults["endless"] += 1
            return 300.0
        return slow * rng.uniform(0.1, 6)

    def run(self) -> "Fleet":
        """Until the end of the calm, or until nothing is left to do but checking in."""
        end, world = self.weather.ends_at + self.calm_seconds, self.world
        calm, step = self.weather.ends_at + 20, world.step
        with self._replayable():
            while world.now < end and step():
                if world.now > calm and self.settled():
                    break
        return self

    @contextlib.contextmanager
    def _replayable(self) -> Iterator[None]:
        """Whatever fails says how to see it fail again."""
        try:
            yield
        except Exception as error:
            command = f"python -m tests.protocol.small_fleet {self.seed} {self.name!r}"
            raise AssertionError(f"{error!r}\nreplay it with: {command}") from error

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

    # What must hold -------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError with the command that replays the run."""
        with self._replayable():
            self._check_counts()
            self._check_receipts()
            self._check_bits()
            assert self.settled(), f"not settled: {self._where()}"
            assert len(self.desk.closed) == self.rules.rounds

    def _check_counts(self) -> None:
        """No update counts twice, in any round, across all restarts."""
        seen: set[tuple[str, int]] = set()
        for number, closed in self.desk.closed.items():
            for item in closed.counted:
                assert item not in seen, f"{item} counted again in round {number}"
                seen.add(item)
            terms = len(closed.counted)
            assert self.rules.quorum <= terms, f"round {number} closed with {terms}"
            if not self.scenario.algorithm.asynchronous:
                assert terms <= self.rules.cohort
                assert all(of == number for _, of in closed.counted)

    def _check_receipts(self) -> None:
        """What was acknowledged as counted is in a model, unless its round was abandoned."""
        counted = {item for closed in self.desk.closed.values() for item in closed.counted}
        for (who, number), outcomes in self.desk.receipts.items():
            if "counted" in outcomes and number not in self.desk.abandoned:
                waits = (who, number) in self.desk.counted and self.desk.saved is not None
                assert (who, number) in counted or waits, f"{who}/{number} was lost"
            known = {"counted", "duplicate", "late", "stale"}
            assert outcomes <= known, f"{who}/{number}: {outcomes}"
        assert not self.desk.closed.keys() & self.desk.abandoned

    def _check_bits(self) -> None:
        """The same updates, in another order and from the journal alone, give the same models."""
        updates: dict[tuple[str, int], Update] = {}
        for sender, data in self.desk.journal:
            update = update_in(data, sender)
            assert update is not None
            # A device that forgot, after its receipt, may train for an old copy of the offer; that
            # one comes second, and is a duplicate or late.
            updates.setdefault((sender, update.round), update)
        server, held = self.begin, pack_model(self.begin)
        versions = {base_of(self.first): 1}
        for version, (number, closed) in enumerate(sorted(self.desk.closed.items()), start=2):
            sums = Sums()
            for who, of in sorted(closed.counted):
                update = updates[who, of]
                form = self.shape.form(update.group)
                vectors = form.decode(
                    update.payloads,
                    self.scenario.codecs[update.codec],
                    seed_of(self.seed, "round", of),
                    who,
                )
                staleness = version - 1 - versions[update.base]
                loss = update.metrics["loss"]
                term, weight = self.shape.term_of(
                    vectors, update.figures, update.samples, staleness, loss
                )
                sums.add(term, weight, update.group)
            assert sums.digest() == closed.digest, f"round {number} has another sum"
            server = next_server(self.shape, server, sums, self.size)
            held = self._next_held(version, held, server)
            model = ref_of(version, held)
            assert model == closed.model, f"round {number} has another model"
            versions[base_of(model)] = version

    def _next_held(self, version: int, held: Vector, server: Server) -> Vector:
        wanted, down = pack_model(server), self.scenario.down
        if down is None:
            return wanted
        return make_patch(down, PATCH_SEED, version, held, wanted, self.layout)[1]

    def _where(self) -> str:
        outboxes = [len(watch.outbox) for watch in self.watches.values()]
        versions = [watch.state.model.version for watch in self.watches.values()]
        state = self.desk.state
        return (
            f"{state.phase} after {self.world.now:.0f} s, {len(self.desk.closed)} rounds, "
            f"outboxes {outboxes}, models {versions} of {self.desk.model.version}, "
            f"slots {state.slots}"
        )


if __name__ == "__main__":
    fleet = Fleet(int(sys.argv[1]), "".join(sys.argv[2:3])).run()
    print(fleet.name, fleet.world.events, "events,", dict(fleet.world.faults))  # noqa: T201
    print(dict(fleet.desk.state.outcomes), fleet._where())  # noqa: T201
    fleet.check()
    print("all holds")  # noqa: T201
