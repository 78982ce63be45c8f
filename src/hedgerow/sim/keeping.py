"""What clients keep, as plain data for a checkpoint: only of those that ever took part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hedgerow.algorithms.base import Algorithm
from hedgerow.core.layout import Layout
from hedgerow.sim.states import ClientStates


def names_of(algorithm: Algorithm, layout: Layout) -> dict[str, int]:
    """The vectors an engine keeps for each client: names in its states, and sizes."""
    names = {f"kept-{name}": layout.size for name in algorithm.keeps}
    private = layout.size - layout.shared_size
    return {**names, "private": private} if private else names


def taken(states: ClientStates, names: dict[str, int], clients: Iterable[int]) -> Any:
    """What those clients keep."""
    some = np.array(sorted(clients), np.int64)
    out = {}
    for name, size in names.items():
        states.open(name, size)
        rows, known = states.read(name, some)
        out[name] = (some[known], rows[known])
    return out


def given_back(states: ClientStates, names: dict[str, int], kept: Any) -> None:
    """Put back what `taken` gave; everybody else is new."""
    for name, size in names.items():
        states.open(name, size)
    states.forget()
    for name, (clients, rows) in kept.items():
        states.write(name, clients, rows)
