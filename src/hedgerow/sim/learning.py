"""What the simulation wants of a learning engine, and how contributions become updates.

The engine trains many clients at once through the shipping graph; the codec's two ends are those
of the device and the coordinator. `Residuals` is a fleet's error feedback: what each device's last
payload lost, where the codec carries it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import Algorithm, Contribution
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.protocol.learning import Shape
from hedgerow.seal.codec import Codec

Model: TypeAlias = Mapping[str, NDArray[np.float32]]
Clients: TypeAlias = NDArray[np.int64]


class Learning(Protocol):
    """Trains clients of one fleet. `hedgerow.sim.engine.Engine` is the usual one."""

    def contributions(
        self, algorithm: Algorithm, model: Model, plan: LocalPlan, clients: Clients, round: int
    ) -> Iterator[tuple[Clients, Contribution]]:
        """Each client's contribution, some at a time and in any order."""


@dataclass
class Residuals:
    """What payloads lost, by client and vector name. Grows with the clients that took part."""

    lost: dict[int, dict[str, Vector]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """One client's update as it travels, and what is told with it."""

    payloads: tuple[bytes, ...]
    figures: tuple[float, ...]
    group: int
    loss: float
    steps: int

    @property
    def size(self) -> int:
        """Bytes of the payloads."""
        return sum(map(len, self.payloads))


def figures_of(algorithm: Algorithm, contribution: Contribution, row: int) -> tuple[float, ...]:
    """One client's figures in the order in which they travel."""
    return tuple(float(contribution.figures[name][row]) for name in algorithm.figures)


def sent_by(
    shape: Shape,
    contribution: Contribution,
    row: int,
    client: int,
    device: str,
    codec: Codec,
    seed: int,
    residuals: Residuals,
) -> Sent:
    """One row as the update of one client; its residual is booked."""
    trained, algorithm = contribution.trained, shape.algorithm
    group = 0 if contribution.group is None else int(contribution.group[row])
    form = shape.form(group)
    vectors = {name: contribution.sends[name][row] for name in algorithm.sends}
    payloads, lost = form.encode(vectors, codec, seed, device, residuals.lost.get(client, {}))
    if lost:
        residuals.lost[client] = lost
    return Sent(
        payloads=payloads,
        figures=figures_of(algorithm, contribution, row),
        group=group,
        loss=float(trained.loss[row]),
        steps=int(trained.steps[row]),
    )
