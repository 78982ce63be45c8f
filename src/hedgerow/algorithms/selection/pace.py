"""Pace steering: when a device should come again, so that a fleet never comes all at once.

Towards federated learning at scale: system design (Bonawitz et al., 2019, section 2.3). The server
keeps nothing for it. Every device has a fixed phase in 0…1, a hash of its id, and is told its next
visit from the clock, the size of the fleet and its phase; after an outage the answers alone spread
the fleet again.

A small fleet meets: all come within a short window at the start of every round period, so that a
round finds them together. A large one spreads: over as long as it takes to stay under the rate, but
no more often than rounds need devices.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Annotated

import msgspec

_DEVIATIONS = 5.0
"""Hashed phases arrive like a Poisson process: with a mean of λ = 25 a second, more than
λ + 5√λ = 50 come in one second of 300,000; the larger λ, the fewer."""


class PaceRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`check_ins_per_second_max` is r. A round wants `devices_wanted` of those that come within
    `round_seconds`; `spare` times as many are asked for, as some come and cannot take part. A fleet
    that fits into `rendezvous_seconds` at the rate meets there.
    """

    check_ins_per_second_max: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 50.0
    round_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)] = 600.0
    devices_wanted: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    spare: Annotated[float, msgspec.Meta(ge=1, le=100)] = 3.0
    rendezvous_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 30.0


class Beat(msgspec.Struct, frozen=True):
    """The rhythm of a fleet: each device comes once in every `period_seconds`, spread over the
    first `window_seconds` of it. `meets`: the fleet is small and comes together.
    """

    period_seconds: float
    window_seconds: float
    meets: bool


@functools.lru_cache(maxsize=16)
def mean_rate(peak: float) -> float:
    """The mean rate λ at which a peak of `peak` a second is not passed: λ + 5√λ = peak."""
    root = (-_DEVIATIONS + math.sqrt(_DEVIATIONS**2 + 4 * peak)) / 2
    return root * root


def beat(rules: PaceRules, fleet: int, active: int) -> Beat:
    """The rhythm for `fleet` enrolled devices of which about `active` (at most all) do come now.

    The rate is kept for the whole fleet, should all be awake; how often a device comes follows from
    those that are.
    """
    rate = mean_rate(rules.check_ins_per_second_max)
    spread = fleet / rate
    if spread <= min(rules.rendezvous_seconds, rules.round_seconds):
        return Beat(rules.round_seconds, spread, True)
    needed = rules.spare * rules.devices_wanted / rules.round_seconds
    period = max(spread, min(active, fleet) / needed, rules.round_seconds)
    return Beat(period, period, False)


def pace(rules: PaceRules, phase: float, fleet: int, active: int, now: float) -> float:
    """When (seconds, the clock of `now`) a device with this `phase` (0 to <1) should come next.

    The first of its visits that is at least half a period away, so that one who came a little early
    is not sent round twice.
    """
    rhythm = beat(rules, fleet, active)
    first = phase * rhythm.window_seconds
    period = rhythm.period_seconds
    turns = math.ceil((now + period / 2 - first) / period)
    at = first + turns * period
    return at if at > now else at + period


def phase_of(device: str) -> float:
    """A device's fixed phase, 0 to <1, from its id."""
    digest = hashlib.sha256(device.encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48
