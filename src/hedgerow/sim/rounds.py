"""Rounds without machines: the algorithm alone, for comparisons and for millions of clients.

A round's learning is exact. Its time, bytes and energy are worked out from the models of devices
and network as the machines would spend them: devices that are there check in and fetch every model,
offers go to those invited, the round ends with the `cohort`-th update or at the deadline, and
whoever is too slow or goes away has worked in vain. Messages are not lost here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Server
from hedgerow.algorithms.selection import (
    Candidate,
    FedLECC,
    Memory,
    Outcome,
    RoundFacts,
    Uniform,
    observe,
    over_selected,
    select,
    skew_rewards,
)
from hedgerow.algorithms.terms import pack_model, unpack_model
from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.model.bundle import Bundle
from hedgerow.protocol.learning import Shape, next_server, seed_of
from hedgerow.protocol.patching import make_patch
from hedgerow.sim.data import FederatedData
from hedgerow.sim.devices import Devices
from hedgerow.sim.experiment import Experiment
from hedgerow.sim.learning import Clients
from hedgerow.sim.postage import Postage
from hedgerow.sim.shares import Lesson, Share, Sharing
from hedgerow.sim.totals import Totals

POOL_MAX = 10_000
"""A larger fleet is chosen from among so many of its devices, drawn anew for each round."""
WAIT_SECONDS = 60.0
WAITS_MAX = 10_000
NEVER = -1
Seconds = NDArray[np.float64]


@dataclass
class Rounds:
    """One run, round by round. What has to be kept between two rounds is in `kept`.

    `held` is the model as devices have it: with patches that is not quite the server's. `patches`
    are the bytes of every version's patch, `versions [N]` the version each device holds: the first,
    0, came with its bundle, unless the algorithm brings more than weights. Check-ins are billed up
    to `heard`.
    """

    experiment: Experiment
    seed: int
    bundle: Bundle
    data: FederatedData
    sharing: Sharing
    totals: Totals = field(default_factory=Totals)
    now: float = 0.0
    done: int = 0
    number: int = 0
    loss: float | None = None

    def __post_init__(self) -> None:
        algorithm, layout = self.experiment.algorithm, self.bundle.manifest.layout
        self.plan: LocalPlan = self.experiment.plan or self.bundle.manifest.plan
        self.devices = Devices.draw(self.experiment.surroundings, len(self.data), self.seed)
        self.shape = Shape(algorithm, layout, self.bundle.parts[1:])
        self.form = self.shape.form(0)
        chosen = self.experiment
        self.postage = Postage.of(self.form, chosen.codec, self.plan, chosen.down)
        self.server: Server = algorithm.begin(self.bundle.weights[: layout.shared_size].copy())
        self.held: Vector = pack_model(self.server)
        self.bundled = NEVER if algorithm.brings else 0
        self.versions: NDArray[np.int32] = np.full(len(self.data), self.bundled, np.int32)
        self.patches: list[int] = []
        self.heard = -self.experiment.devices.check_in_seconds
        self.memory = Memory()
        self.labels: dict[int, tuple[float, ...] | None] = {}

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
        limits = self.experiment
        over = 0 < limits.seconds_max <= self.now
        return over or 0 < limits.rounds.rounds <= self.done

    # A round --------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One round; False where it was abandoned.

        Raises:
            HedgerowError: nobody can be asked, however long one waits.
        """
        rules = self.experiment.rounds
        self.number += 1
        invited = self._invited(over_selected(rules.cohort, rules.over_selection))
        present = self.devices.present(self.now)
        ends = self._ends(invited)
        self._bill_all(present)
        target = min(rules.cohort, len(invited))
        order = np.argsort(ends, kind="stable")
        there = order[:target][ends[order[:target]] <= rules.deadline_seconds]
        seconds = float(ends[there[-1]]) if len(there) == target else rules.deadline_seconds
        enough = len(there) >= min(rules.quorum, target)
        self._bill(invited, ends, seconds)
        arrived = int((ends <= seconds).sum())
        self.totals.wasted += arrived - (len(there) if enough else 0)
        if not enough:
            self.totals.abandoned += 1
            self.now += seconds + rules.retry_seconds
            return False
        self._learn(np.sort(invited[there]), invited)
        self.now += seconds + rules.pause_seconds
        self.done += 1
        if self.finished:
            self._bill_all(self.devices.present(self.now), last=True)
        return True

    def _invited(self, count: int) -> Clients:
        """Who is asked; time passes until enough devices are there."""
        rules = self.experiment.rounds
        wanted = min(max(rules.quorum, rules.devices_min, 1), len(self.data))
        for attempt in range(WAITS_MAX):
            candidates = self._candidates(attempt)
            if len(candidates) >= wanted:
                rng = stream(self.seed, "cohort", self.number)
                policy = self.experiment.selection
                chosen = select(policy, candidates, count, self.number, self.memory, rng)
                if chosen:
                    return np.array([int(name) for name in chosen], np.int64)
            if not self._wait(len(candidates)):
                break
        raise HedgerowError(
            f"round {self.number} found fewer than {wanted} devices, however long it waited; let "
            "more devices be there (availability, energy, selection.budget) or ask for fewer "
            "(rounds.quorum)"
        )

    def _wait(self, present: int) -> bool:
        """A minute; where nobody is there, until somebody of the first thousands comes (False:
        nobody ever will).
        """
        later = self.now + WAIT_SECONDS
        if not present:
            some = range(min(len(self.data), POOL_MAX))
            comes = min(self.devices.change_after(client, self.now) for client in some)
            charges = self.experiment.energy.capacity_joules > 0
            if not np.isfinite(comes) and not charges:
                return False
            later = later if charges else max(later, comes)
        self.now = later
        return True

    def _candidates(self, attempt: int) -> list[Candidate]:
        """Devices that are there and may train; of a large fleet, of a part drawn by lot."""
        fleet, devices = len(self.data), self.devices
        pool = np.arange(fleet)
        if fleet > POOL_MAX:
            rng = stream(self.seed, "pool", self.number, attempt)
            pool = np.unique(rng.integers(0, fleet, POOL_MAX))
        counts, links, batteries = self.data.counts, devices.links, devices.batteries
        return [
            Candidate(
                id=_name(client),
                samples=int(counts[client]),
                battery=batteries.share(client, self.now),
                metered=bool(links.metered[client]),
                link_bytes_per_second=float(links.up[client]),
                labels=self._labels(client),
            )
            for client in pool.tolist()
            if counts[client] > 0
            and devices.online(client, self.now)
            and batteries.may_train(client, self.now)
        ]

    def _labels(self, client: int) -> tuple[float, ...] | None:
        """The client's samples by label, for the one policy that reads it."""
        if not isinstance(self.experiment.selection, FedLECC) or not self.data.classes:
            return None
        if client not in self.labels:
            y = self.data.samples(client).y
            counts = None if y is None else np.bincount(y.astype(np.int64), None, self.data.classes)
            self.labels[client] = None if counts is None else tuple(map(float, counts))
        return self.labels[client]

    def _work(self, invited: Clients) -> Seconds:
        """Seconds of training, `[K]`."""
        seen = np.ceil(self.plan.epochs * self.data.counts[invited]).astype(np.int64)
        return self.devices.train_seconds(invited, seen)

    def _ends(self, invited: Clients) -> Seconds:
        """Seconds from now until each one's update is there; infinity where it goes away before."""
        down, links = self._model_bytes(invited), self.devices.links
        carried = links.seconds(invited, self.postage.up, down + self.postage.offer + self._way)
        ends: Seconds = self._work(invited) + carried
        for place, client in enumerate(invited.tolist()):
            if self.devices.change_after(client, self.now) < self.now + ends[place]:
                ends[place] = np.inf
        return ends

    def _bill_all(self, present: Clients, *, last: bool = False) -> None:
        """Bytes and joules of all who are there: check-ins since the last round, and the news of a
        model with its download, for those who lack it; a run ends with the `last` news. Devices
        that are out of reach then hear of it, and fetch it, when they are back.
        """
        postage, every = self.postage, self.experiment.devices.check_in_seconds
        extra, version = self.experiment.network.overhead_bytes, len(self.patches)
        times = (self.now - self.heard) / every
        self.heard = self.now
        lacking = self._model_bytes(present)
        news = postage.published + (postage.way + postage.blob) * self._way_known(lacking) + extra
        up = np.full(len(present), times * (postage.check_in + extra))
        down = (self.versions[present] < version) * news
        if not last:
            down = down + lacking + extra * (lacking > 0)
            self.versions[present] = version
        self._book(present, up, down)

    def _bill(self, invited: Clients, ends: Seconds, seconds: float) -> None:
        """Bytes and joules of everybody who was asked, up to the end of the round. A device that
        checks in while it is at work is offered the round again, and accepts again.
        """
        postage, batteries = self.postage, self.devices.batteries
        extra, work = self.experiment.network.overhead_bytes, self._work(invited)
        there = np.minimum(ends, seconds)
        times = 1 + np.floor(there / self.experiment.devices.check_in_seconds)
        arrived = ends <= seconds
        up = times * (postage.accept + extra) + arrived * (postage.up + extra)
        down = times * (postage.offer + extra) + self._way + arrived * (postage.receipt + extra)
        for client, busy in zip(invited.tolist(), np.minimum(work, seconds).tolist(), strict=True):
            batteries.compute(client, busy, self.now)
        self._book(invited, up, down)

    def _book(self, clients: Clients, up: Seconds, down: Seconds) -> None:
        self.totals.bytes_up += round(float(up.sum()))
        self.totals.bytes_down += round(float(down.sum()))
        self.devices.batteries.carry_all(clients, up, down, self.now)

    @property
    def _way(self) -> int:
        """What an offer says of the patches to its model: as a rule one since the device was heard
        of last.
        """
        last = np.array(self.patches[-1:] or [0])
        return int(self._way_known(last)[0]) * (self.postage.way + self.postage.blob)

    def _way_known(self, fetched: Clients) -> NDArray[np.bool_]:
        """Which of these downloads are patches, `[K]`."""
        patched = self.experiment.down is not None
        return (fetched > 0) & (fetched < 4 * len(self.held)) & patched

    def _model_bytes(self, clients: Clients) -> Clients:
        """The whole model, or the patches since the one the device holds, `[K]`."""
        held, version = self.versions[clients], len(self.patches)
        whole = np.full(len(clients), 4 * len(self.held), np.int64)
        if self.experiment.down is not None:
            total = np.concatenate([[0], np.cumsum(self.patches, dtype=np.int64)])
            missed = total[-1] - total[np.maximum(held, 0)]
            near = (held != NEVER) & (version - held <= self.experiment.patches_kept)
            whole = np.where(near, np.minimum(missed, whole), whole)
        return np.where(held == version, 0, whole)

    # Learning -------------------------------------------------------------------------------------

    def _learn(self, clients: Clients, invited: Clients) -> None:
        """Train, sum, and make the next model."""
        experiment, algorithm = self.experiment, self.experiment.algorithm
        layout = self.form.layout
        lesson = Lesson(
            model=unpack_model(algorithm, self.held, layout.shared_size),
            plan=algorithm.plan_of_round(self.plan, self.done, experiment.rounds.rounds),
            codec=experiment.codec,
            seed=seed_of(self.seed, "round", self.number),
            round=self.number,
            each=experiment.selection != Uniform(),
            changes=experiment.selection.wants_rewards,
        )
        share = self.sharing.learn(self.shape, lesson, clients)
        self.totals.updates += share.sums.terms
        self.totals.wasted += len(clients) - share.sums.terms
        self.totals.bytes_up += share.payload_bytes - self.postage.payloads * len(clients)
        if share.sums.terms:
            self.server = next_server(self.shape, self.server, share.sums, len(self.data))
        self._hand_down()
        self._remember(share, invited)

    def _hand_down(self) -> None:
        """What devices will hold next, and what the way there weighs."""
        codec, wanted = self.experiment.down, pack_model(self.server)
        if codec is None:
            self.held = wanted
            self.patches.append(4 * len(wanted))
            return
        seed, version = seed_of(self.seed, "patches"), len(self.patches) + 1
        data, self.held = make_patch(codec, seed, version, self.held, wanted, self.form.layout)
        self.patches.append(len(data))

    def _remember(self, share: Share, invited: Clients) -> None:
        """Tell the policy how it went."""
        self.loss = share.loss
        if self.experiment.selection == Uniform():
            return  # it wants no memory
        counts, rewards = self.data.counts, _rewards(share, self.data.counts)
        told = [
            Outcome(
                id=_name(client),
                samples=int(counts[client]),
                loss=loss if loss == loss else None,
                seconds=seconds,
                reward=rewards.get(client),
            )
            for client, loss, seconds in zip(
                share.clients.tolist(),
                share.losses.tolist(),
                self._work(share.clients).tolist(),
                strict=True,
            )
        ]
        chosen = tuple(_name(client) for client in invited.tolist())
        facts = RoundFacts(round=self.number, chosen=chosen, outcomes=tuple(told))
        self.memory = observe(self.experiment.selection, self.memory, facts)

    # Keeping --------------------------------------------------------------------------------------

    KEPT = (
        *("server", "held", "versions", "patches", "heard", "memory", "totals", "now", "done"),
        *("number", "loss"),
    )

    def kept(self) -> dict[str, Any]:
        """All that the next round depends on."""
        kept = {name: getattr(self, name) for name in self.KEPT}
        return {**kept, "made": self.devices.kept(), "sharing": self.sharing.kept()}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `kept` gave."""
        for name in self.KEPT:
            setattr(self, name, kept[name])
        self.devices.restore(kept["made"])
        self.sharing.restore(kept["sharing"])


def _rewards(share: Share, counts: NDArray[np.int64]) -> dict[int, float]:
    """FedACS' reward of each client whose change is known."""
    who = sorted(share.changes)
    if not who:
        return {}
    rewards = skew_rewards(counts[who], [np.stack([share.changes[client] for client in who])])
    return dict(zip(who, rewards.tolist(), strict=True))


def _name(client: int) -> str:
    return f"{client:09d}"
