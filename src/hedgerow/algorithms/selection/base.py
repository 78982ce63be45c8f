"""What selection is made of: facts about devices, memory of rounds, and the base of all policies.

A policy is settings; it draws from the `rng` it is handed and remembers what `observe` wrote into
`Memory`, a plain value that the coordinator keeps with its round. The same candidates in any order,
the same memory and the same generator give the same devices.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import SAMPLES_MAX
from hedgerow.algorithms.selection.budget import Budget
from hedgerow.algorithms.selection.facts import Candidate
from hedgerow.core.errors import UsageError

Places: TypeAlias = NDArray[np.int64]
"""Indexes into a pool."""
Floats: TypeAlias = NDArray[np.float64]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]

LOSS_MAX = 1e6
"""A larger loss counts as this: one device's word decides no round."""
SECONDS_MAX = 1e7
DEVICES_MAX = 1_000_000
"""A memory holds no more devices; those picked longest ago are forgotten first."""


# Memory -------------------------------------------------------------------------------------------


class Past(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of a device: how often and when (round) it was last picked, its last
    samples, mean loss, mean squared loss, seconds of training, and reward.
    """

    picked: int = 0
    last: int = 0
    samples: int = 0
    loss: float | None = None
    loss_squared: float | None = None
    seconds: float | None = None
    reward: float | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy keeps from round to round; grows with the fleet and no further.

    `past` by device id. `duels`: of the last rounds, ids and rewards of those that answered
    (FedACS). `utilities`: the sum of utility each of the last rounds gained, and `quantile`, how
    patient the pacer has become (Oort).
    """

    past: dict[str, Past] = msgspec.field(default_factory=dict)
    duels: tuple[tuple[tuple[str, float], ...], ...] = ()
    utilities: tuple[float, ...] = ()
    quantile: float | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one device's answer told: any of it may be missing. `loss` is the mean over its samples
    before training, `loss_squared` the mean of the squares; `seconds` is how long it trained.
    """

    id: str
    samples: int = 0
    loss: float | None = None
    loss_squared: float | None = None
    seconds: float | None = None
    reward: float | None = None


class RoundFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A round that ended: its number (from 1), who had been chosen, and what came back."""

    round: int
    chosen: tuple[str, ...]
    outcomes: tuple[Outcome, ...] = ()


# The pool -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """N candidates as columns, in the order of their ids. What is unknown is NaN.

    `samples` and `picked` are counts, `last` the round of the last pick (0: never).
    """

    candidates: tuple[Candidate, ...]
    round: int
    memory: Memory
    samples: Floats
    loss: Floats
    loss_squared: Floats
    seconds: Floats
    picked: Floats
    last: Floats

    @classmethod
    def of(cls, candidates: Iterable[Candidate], memory: Memory, round: int) -> Pool:
        """What the candidates say of themselves, and the rest from memory.

        Raises:
            UsageError: two candidates have the same id.
        """
        ordered = tuple(sorted(candidates, key=_id))
        for one, other in pairwise(ordered):
            if one.id == other.id:
                raise UsageError(f"candidate {one.id!r} is there twice; give each device once")
        nothing = Past()
        pasts = [memory.past.get(each.id, nothing) for each in ordered]
        loss = _known(LOSS_MAX, [c.loss for c in ordered], [p.loss for p in pasts])
        squared = _known(
            LOSS_MAX * LOSS_MAX,
            [c.loss_squared_mean for c in ordered],
            [p.loss_squared for p in pasts],
        )
        return cls(
            ordered,
            round,
            memory,
            samples=_known(SAMPLES_MAX, [c.samples for c in ordered]),
            loss=loss,
            loss_squared=np.where(np.isnan(squared), loss * loss, squared),
            seconds=_known(
                SECONDS_MAX, [c.train_seconds for c in ordered], [p.seconds for p in pasts]
            ),
            picked=_known(math.inf, [c.times_picked for c in ordered], [p.picked for p in pasts]),
            last=_known(math.inf, [c.last_round for c in ordered], [p.last for p in pasts]),
        )

    def __len__(self) -> int:
        return len(self.candidates)

    def take(self, places: Places) -> Pool:
        """The candidates at those places only."""
        columns = (self.samples, self.loss, self.loss_squared, self.seconds, self.picked, self.last)
        candidates = tuple(self.candidates[place] for place in places)
        return Pool(candidates, self.round, self.memory, *(column[places] for column in columns))


_id = operator.attrgetter("id")


def _known(most: float, *told: Sequence[float | None]) -> Floats:
    """The first of several columns that holds a finite number, from 0 to `most`; NaN if none."""
    result: Floats = np.array(told[0], np.float64)  # None becomes NaN
    unknown = ~np.isfinite(result)
    for column in told[1:]:
        if not unknown.any():
            break
        result[unknown] = np.array(column, np.float64)[unknown]
        unknown = ~np.isfinite(result)
    result[unknown] = np.nan
    return np.minimum(np.maximum(result, 0.0), most)


# Policies -----------------------------------------------------------------------------------------


class Policy(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="policy"
):
    """Base of all policies. `budget` says who may be asked at all; `fairness_share` is the share
    of the places that goes to those picked least often, whatever the policy prefers.
    `wants_rewards`: it asks for each outcome's `reward`, for which single updates must be seen.
    """

    wants_rewards: ClassVar[bool] = False

    budget: Budget = Budget()
    fairness_share: Share = 0.1

    def choose(self, pool: Pool, count: int, rng: np.random.Generator) -> Places:
        """The places in the pool of `count` < len(pool) devices, each once."""
        raise NotImplementedError

    def remember(self, memory: Memory, facts: RoundFacts) -> Memory:
        """What this policy alone keeps of a round; `memory.past` is already up to date."""
        return memory


def fair_places(share: float, count: int, round: int) -> int:
    """How many of `count` places of this round the fairness floor takes.

    ⌊share·count·round⌋ − ⌊share·count·(round − 1)⌋: over any number of rounds exactly the share,
    even where that is less than one place a round.
    """
    before, after = (math.floor(share * count * r + 1e-9) for r in (round - 1, round))
    return min(max(after - before, 0), count)


def least_picked(pool: Pool, count: int, rng: np.random.Generator) -> Places:
    """The `count` picked least often; of those, longest ago; of those, by lot."""
    return np.lexsort((rng.random(len(pool)), pool.last, pool.picked))[:count].astype(np.int64)


def weighted(weights: Floats, count: int, rng: np.random.Generator) -> Places:
    """`count` places without replacement, each draw in proportion to the weights that are left.

    Efraimidis and Spirakis, 2006: the smallest of one exponential draw over its weight each.
    Weights of 0 come last.
    """
    keys = rng.standard_exponential(len(weights)) / np.maximum(weights, 1e-300)
    return np.argsort(keys, kind="stable")[:count].astype(np.int64)


def highest(scores: Floats, count: int, rng: np.random.Generator) -> Places:
    """The `count` highest scores, ties by lot; NaN (unknown) is higher than any number."""
    known = np.where(np.isnan(scores), np.inf, scores)
    return np.lexsort((rng.random(len(scores)), -known))[:count].astype(np.int64)


# The two functions that everything else is for ----------------------------------------------------


def select(
    policy: Policy,
    candidates: Iterable[Candidate],
    count: int,
    round: int,
    memory: Memory,
    rng: np.random.Generator,
) -> list[str]:
    """Who takes part in `round` (from 1): at most `count` ids, sorted.

    All that the budget admits, where they are no more than `count`.

    Raises:
        UsageError: two candidates have the same id.
    """
    pool = Pool.of(candidates, memory, round)
    if policy.budget != Budget():
        admits = zip(pool.candidates, pool.last.tolist(), strict=True)
        refusals = [policy.budget.refusal(each, round, int(last)) for each, last in admits]
        pool = pool.take(np.flatnonzero([reason is None for reason in refusals]))
    if count >= len(pool):
        return [candidate.id for candidate in pool.candidates]
    if count <= 0:
        return []
    floor = fair_places(policy.fairness_share, count, round)
    if floor == 0:
        places = policy.choose(pool, count, rng)
    elif floor == count:
        places = least_picked(pool, count, rng)
    else:
        fair = least_picked(pool, floor, rng)
        others = np.delete(np.arange(len(pool)), fair)
        chosen = policy.choose(pool.take(others), count - floor, rng)
        places = np.concatenate([fair, others[chosen]])
    return [pool.candidates[place].id for place in np.sort(places)]


def observe(policy: Policy, memory: Memory, facts: RoundFacts) -> Memory:
    """The memory after a round. Numbers that are none are taken as not told."""
    past = dict(memory.past)
    for device in facts.chosen:
        before = past.get(device, Past())
        past[device] = msgspec.structs.replace(
            before, picked=before.picked + 1, last=max(before.last, facts.round)
        )
    for outcome in facts.outcomes:
        past[outcome.id] = _updated(past.get(outcome.id, Past()), outcome)
    if len(past) > DEVICES_MAX:
        latest = sorted(past, key=lambda device: (-past[device].last, device))[:DEVICES_MAX]
        past = {device: past[device] for device in latest}
    return policy.remember(msgspec.structs.replace(memory, past=past), facts)


def _updated(past: Past, outcome: Outcome) -> Past:
    def told(value: float | None, most: float, before: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return before
        return min(max(value, 0.0), most)

    reward = outcome.reward
    return msgspec.structs.replace(
        past,
        samples=min(max(outcome.samples, 0), SAMPLES_MAX),
        loss=told(outcome.loss, LOSS_MAX, past.loss),
        loss_squared=told(outcome.loss_squared, LOSS_MAX**2, past.loss_squared),
        seconds=told(outcome.seconds, SECONDS_MAX, past.seconds),
        reward=reward if reward is not None and math.isfinite(reward) else past.reward,
    )


def forget(memory: Memory, devices: Sequence[str]) -> Memory:
    """The memory without devices that left the fleet."""
    gone = set(devices)
    return msgspec.structs.replace(
        memory,
        past={device: past for device, past in memory.past.items() if device not in gone},
        duels=tuple(
            tuple(entry for entry in round if entry[0] not in gone) for round in memory.duels
        ),
    )
