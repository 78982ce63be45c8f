"""What a run has cost so far, and what some clients of a round came to."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from hedgerow.protocol.learning import Sums

LOSS_ONE = 1 << 20


class Totals(msgspec.Struct):
    """Sums since the run began; the fields of `RoundRow` of the same names."""

    bytes_up: int = 0
    bytes_down: int = 0
    updates: int = 0
    stale: int = 0
    wasted: int = 0
    abandoned: int = 0


@dataclass
class Round:
    """What some clients came to. Merging parts in any order gives the same, bit by bit.

    `diverged` clients left the finite numbers; `refused` ones sent what no fleet would count in.
    """

    sums: Sums = field(default_factory=Sums)
    clients: int = 0
    samples: int = 0
    steps: int = 0
    loss_total: int = 0
    diverged: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The mean loss over all samples seen; NaN for none."""
        return self.loss_total / LOSS_ONE / self.samples if self.samples else float("nan")

    def merge(self, other: Round) -> None:
        """Count in another part."""
        self.sums.merge(other.sums)
        self.clients += other.clients
        self.samples += other.samples
        self.steps += other.steps
        self.loss_total += other.loss_total
        self.diverged = sorted(self.diverged + other.diverged)
        self.refused = sorted(self.refused + other.refused)
