"""What a federated algorithm is: settings, a device's half and a server's half, both pure.

The device's half is a generator. It yields what it wants learned (`Pass`) or measured (`Losses`)
and is sent the answer, so the same lines run on one device (K = 1) and in the simulator (K clients
in lockstep): every array leads with K. The server's half is handed exact means and answers with
the next model. Neither reads a clock, draws a number or keeps anything.

    P   all weights of one model;  S   the leading part that travels (`layout.shared_size`)
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Layout, Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Counts, Losses, Pass, Rows, Trained

SAMPLES_UNIT = 1024
SAMPLES_MAX = 64 * SAMPLES_UNIT
"""A device counts for no more samples than this, so that no claim outweighs a fleet."""
FIGURE_MAX = 1024.0
"""Largest size of a figure."""
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
ServerRate: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=100)]


# The device's half --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalTask:
    """What the device's half is given.

    `weights [K, P]`: the model that came, with each client's own private tensors behind it.
    `brought`: the other vectors of the model by the names of `Algorithm.brings`, `[S]`, or
    `[C, S]` where there are several. `kept`: what each client kept from its last round `[K, …]`, by
    the names of `Algorithm.keeps`; a client's first time it is zeros, and `fresh [K]` says so.
    `samples [K]`: number of training samples. `width`: which of the bundle's widths `weights` and
    `layout` are of, 0 the whole model (`resource_aware`).
    """

    weights: Rows
    brought: Mapping[str, NDArray[np.float32]]
    kept: Mapping[str, Rows]
    fresh: NDArray[np.bool_]
    samples: Counts
    plan: LocalPlan
    layout: Layout
    width: int = 0


Ask: TypeAlias = Pass | Losses
Answer: TypeAlias = Trained | NDArray[np.float64]


@dataclass(frozen=True)
class Contribution:
    """What the device's half ends with.

    `sends`: vectors `[K, S]` by the names of `Algorithm.sends`, in that order on the wire.
    `figures [K]`: numbers by the names of `Algorithm.figures`, averaged like the vectors.
    `group [K]`: which of the algorithm's groups each counts in. `weights [K, P]`: what was
    trained; its private tensors stay on the device. `kept`: what the device keeps, never sent.
    """

    sends: Mapping[str, Rows]
    weights: Rows
    trained: Trained
    figures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    group: Counts | None = None
    kept: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """What one device has to infer with: the newest model and what it keeps.

    `weights [P]`, with its private tensors; `brought` as in `LocalTask`; `kept [P]` by the names of
    `Algorithm.keeps`, empty before its first round.
    """

    weights: Vector
    brought: Mapping[str, NDArray[np.float32]]
    kept: Mapping[str, Vector]
    layout: Layout


LocalHalf: TypeAlias = Generator[Ask, Answer, Contribution]


# The server's half --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """The exact weighted mean of one group: vectors `[S]` and figures by name.

    `weight` is the sum of the weights, `terms` the number of updates. `covers [S]`: the elements
    this group trained, where a group holds a part of the model only (None: all of them).
    """

    vectors: Mapping[str, Vector]
    figures: Mapping[str, float]
    weight: float
    terms: int
    covers: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Server:
    """All the server's half knows: vectors by name, float32.

    `model` holds what devices download: `weights [S]` first, then the names of `Algorithm.brings`.
    `kept` stays on the server (velocities and the like).
    """

    model: Mapping[str, NDArray[np.float32]]
    kept: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def weights(self) -> Vector:
        """The model proper, `[S]`."""
        return self.model["weights"]


# Settings common to all ---------------------------------------------------------------------------


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The devices' learning rate: constant, or along a half cosine down to `end` of itself, which
    is above 0: a rate of 0 trains nothing, and no learner takes it.
    """

    kind: Literal["constant", "cosine"] = "constant"
    end: Annotated[float, msgspec.Meta(ge=1e-4, le=1)] = 0.1

    def factor(self, index: int, rounds: int) -> float:
        """What the rate is multiplied with in round `index` (from 0); 0 rounds: without end."""
        if self.kind == "constant" or rounds < 2:
            return 1.0
        progress = min(index / (rounds - 1), 1.0)
        return float(self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress)))


class Weighting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an update counts in the mean.

    `by`: the number of samples, or all equal. `staleness_power` a: an update trained from a model
    s versions old counts (1 + s)^−a of that (Asynchronous federated optimization, Xie, Koyejo,
    Gupta, 2019; FedBuff takes 0.5). `loss_power` q: it counts (ε + loss)^q of that, so that devices
    the model serves badly count more (after q-FedAvg: Fair resource allocation in federated
    learning, Li, Sanjabi, Beirami, Smith, 2020; there the sum is divided by a bound on curvature,
    here by the sum of the weights). The loss is the mean over the device's training, ε is 10⁻³,
    and a loss counts for at most 10.
    """

    by: Literal["samples", "equal"] = "samples"
    staleness_power: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.5
    loss_power: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0

    def of(self, samples: int, staleness: int, loss: float) -> float:
        """The weight: above 0, at most 64; 1 stands for 1,024 samples."""
        weight = 1.0 if self.by == "equal" else min(samples, SAMPLES_MAX) / SAMPLES_UNIT
        weight *= (1.0 + staleness) ** -self.staleness_power
        if self.loss_power and math.isfinite(loss):
            weight *= min(max(loss, 0.0) + 1e-3, 10.0) ** self.loss_power
        return float(min(max(weight, 2.0**-16), 64.0))


class Algorithm(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    """Base of all algorithms: plain FedAvg, of which each overrides what differs.

    Subclasses are final, tagged by `name`, and live in one file with their paper.
    """

    schedule: Schedule = Schedule()
    weighting: Weighting = Weighting()

    sends: ClassVar[tuple[str, ...]] = ("delta",)
    """Vectors `[S]` of an update, the delta first."""
    figures: ClassVar[tuple[str, ...]] = ()
    """Numbers of an update that are averaged too, each at most 1,024 in size."""
    keeps: ClassVar[tuple[str, ...]] = ()
    """Vectors `[P]` a device keeps from round to round; they never leave it."""

    @property
    def brings(self) -> Mapping[str, int]:
        """What devices download besides the weights: name and number of vectors `[S]`."""
        return {}

    @property
    def groups(self) -> int:
        """How many means are formed, for instance one a cluster."""
        return 1

    @property
    def asynchronous(self) -> bool:
        """Whether the coordinator takes updates as they come, without rounds (FedBuff)."""
        return False

    def travels(self, layout: Layout) -> NDArray[np.bool_] | None:
        """Which of the S elements travel in an update (None: all); means hold 0 at the others."""
        return None

    def plan_of_round(self, plan: LocalPlan, index: int, rounds: int) -> LocalPlan:
        """The plan offered in round `index` (from 0) of `rounds`; 0 rounds means without end."""
        factor = self.schedule.factor(index, rounds)
        return plan if factor == 1.0 else msgspec.structs.replace(plan, rate=plan.rate * factor)

    def local(self, task: LocalTask) -> LocalHalf:
        """The device's half."""
        trained = yield from training(task)
        return Contribution({"delta": delta_of(task, trained)}, trained.weights, trained)

    def serving(self, held: Held) -> Vector:
        """The weights `[P]` a device infers with: the model and private tensors it was given,
        its own of what it `keeps`, or one of what the model `brings`.
        """
        return held.weights

    def begin(self, weights: Vector) -> Server:
        """The server's state before the first round, from the starting weights `[S]`."""
        zeros = {
            name: np.zeros((rows, len(weights)) if rows > 1 else len(weights), np.float32)
            for name, rows in self.brings.items()
        }
        return Server({"weights": weights, **zeros})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The next state. `means` holds each group somebody counted in; `fleet` devices exist."""
        weights = server.weights + means[0].vectors["delta"]
        return Server({**server.model, "weights": weights}, server.kept)


class Averaged(Algorithm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Abstract: the mean of the deltas with the server's `rate` and `momentum`.

    v ← momentum · v + mean(delta);    w ← w + rate · v
    """

    rate: ServerRate = 1.0
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    def begin(self, weights: Vector) -> Server:
        """Starts without velocity."""
        server = super().begin(weights)
        return Server(server.model, {**server.kept, "velocity": np.zeros_like(weights)})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formula above."""
        velocity = np.float32(self.momentum) * server.kept["velocity"] + means[0].vectors["delta"]
        weights = server.weights + np.float32(self.rate) * velocity
        return Server({**server.model, "weights": weights}, {**server.kept, "velocity": velocity})


# What many device halves need ---------------------------------------------------------------------


def training(
    task: LocalTask,
    *,
    plan: LocalPlan | None = None,
    start: Rows | None = None,
    centre: Rows | None = None,
    shift: NDArray[np.float32] | None = None,
    trainable: NDArray[np.bool_] | None = None,
    ascent: float = 0.0,
    ascent_along: Vector | None = None,
    name: str = "train",
) -> Generator[Ask, Answer, Trained]:
    """Asks for a pass over the clients' data from `start [K, P]` (the model that came) by `plan`
    (the task's), and ends with the answer: `trained = yield from training(task)`.

    With `plan.pull` each client is pulled to its own row of `centre [K, P]` (its start). All share
    one anchor, so what a client's centre differs by is made up by its shift: with
    `shift += pull·(anchor − centre)` the sum is `pull·(w − centre)`. The anchor is the model that
    came, 0 for private tensors: the same whoever else is in the batch, and so are all bits.
    `shift [K, S]` or `[S]` is that of the shared tensors.
    """
    plan = task.plan if plan is None else plan
    start = task.weights if start is None else start
    size, shared = task.layout.size, task.layout.shared_size
    if shift is not None and shared < size:
        behind = [(0, 0)] * (shift.ndim - 1) + [(0, size - shared)]
        shift = np.pad(shift, behind)
    anchor: Vector | None = None
    if plan.pull:
        anchor = np.zeros(size, np.float32)
        anchor[:shared] = task.weights[0, :shared]
        makes_up = np.float32(plan.pull) * (anchor - (start if centre is None else centre))
        if makes_up.any():
            shift = makes_up if shift is None else shift + makes_up
    ask = Pass(start, plan, anchor, shift, trainable, ascent, ascent_along, name)
    answer = yield ask
    assert isinstance(answer, Trained)
    return answer


def delta_of(task: LocalTask, trained: Trained, start: Rows | None = None) -> Rows:
    """What training changed of the shared tensors, `[K, S]`; it began at `start` (what came)."""
    size = task.layout.shared_size
    begun = task.weights if start is None else start
    delta: Rows = trained.weights[:, :size] - begun[:, :size]
    return delta
