"""Who may be asked at all: rules on power, link and data, applied before any policy.

They keep a policy that likes a device from spending its battery or its owner's data allowance;
they only ever take candidates away. The device's own agent has the last word all the same.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from hedgerow.algorithms.selection.facts import Candidate


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device is passed over if one of these does not hold; the defaults hold for all.

    `battery_min` (0 to 1): charge of a device that is not on power. `power_only`: it must be on
    power. `metered`: False passes over metered links. `link_bytes_per_second_min`: a slower link.
    `data_age_seconds_max`: its newest sample is older (0: any age). `samples_min`: fewer samples.
    `rest_rounds`: it was picked within so many rounds. `unknown`: False passes over devices that do
    not tell what a rule needs to know.
    """

    battery_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    power_only: bool = False
    metered: bool = True
    link_bytes_per_second_min: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0
    data_age_seconds_max: Annotated[float, msgspec.Meta(ge=0, le=1e10)] = 0.0
    samples_min: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    rest_rounds: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    unknown: bool = True

    def refusal(self, candidate: Candidate, round: int, last_round: int) -> str | None:
        """Why the device is passed over, a stable word to count by; None if it may be asked.

        `last_round` is when it was last picked (0: never).
        """
        on_power = candidate.on_power
        link, age = candidate.link_bytes_per_second, candidate.data_age_seconds
        rules = (
            ("samples", True, candidate.samples >= self.samples_min),
            (
                "resting",
                self.rest_rounds > 0,
                last_round == 0 or round - last_round > self.rest_rounds,
            ),
            ("no_power", self.power_only, on_power),
            ("battery", self.battery_min > 0, self._charged(candidate)),
            ("metered", not self.metered, _negated(candidate.metered)),
            (
                "slow_link",
                self.link_bytes_per_second_min > 0,
                None if link is None else link >= self.link_bytes_per_second_min,
            ),
            (
                "old_data",
                self.data_age_seconds_max > 0,
                None if age is None else age <= self.data_age_seconds_max,
            ),
        )
        for reason, applies, holds in rules:
            if applies and not (self.unknown if holds is None else holds):
                return reason
        return None

    def _charged(self, candidate: Candidate) -> bool | None:
        if candidate.on_power:
            return True
        return None if candidate.battery is None else candidate.battery >= self.battery_min


def _negated(fact: bool | None) -> bool | None:
    return None if fact is None else not fact
