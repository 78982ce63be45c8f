"""A fleet's error feedback: what each device's last payload lost, where the codec carries it on.

On disk, so that memory does not grow with the devices that took part: a sparse file for each
vector, without a name, gone with this object.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Vector


@dataclass
class Residuals:
    """What the payloads of `clients` devices lost, by client and vector name."""

    clients: int

    def __post_init__(self) -> None:
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._sizes: dict[str, NDArray[np.int32]] = {}

    def read(self, client: int) -> dict[str, Vector]:
        """What the client's last payload lost, where there is something."""
        return {
            name: np.array(rows[client, : self._sizes[name][client]])
            for name, rows in self._rows.items()
            if self._sizes[name][client]
        }

    def write(self, client: int, lost: Mapping[str, Vector], size: int) -> None:
        """Keep it. `size` is that of the whole model's vectors; a part of it has shorter ones."""
        for name, vector in lost.items():
            if name not in self._rows:
                self._rows[name] = _mapped((self.clients, size))
                self._sizes[name] = np.zeros(self.clients, np.int32)
            self._rows[name][client, : len(vector)] = vector
            self._sizes[name][client] = len(vector)

    def __getstate__(self) -> dict[str, Any]:
        """Of those that have something, as plain data."""
        lost = {}
        for name, rows in self._rows.items():
            who = np.flatnonzero(self._sizes[name])
            lost[name] = (rows.shape[1], who, self._sizes[name][who], np.array(rows[who]))
        return {"clients": self.clients, "lost": lost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was."""
        self.clients = state["clients"]
        self.__post_init__()
        for name, (size, who, sizes, rows) in state["lost"].items():
            self._rows[name] = _mapped((self.clients, size))
            self._sizes[name] = np.zeros(self.clients, np.int32)
            self._rows[name][who], self._sizes[name][who] = rows, sizes


def _mapped(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Zeros that take space once they are written."""
    with tempfile.TemporaryFile(prefix="hedgerow-lost-") as file:
        return np.memmap(file, np.float32, "w+", shape=shape)
