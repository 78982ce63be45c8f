"""The work every peer does, and how it is reported: NumPy and the standard library alone.

Each of `CLIENTS` clients has 64 samples of 64 features in 10 classes, drawn around a centre for
each class. All take part in every round: one epoch of SGD on an MLP 64-64-10 in batches of 16 from
the common model, then the mean of all.
"""

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

CLIENTS = int(os.environ.get("PEERS_CLIENTS", "1000"))
SECONDS = float(os.environ.get("PEERS_SECONDS", "20"))
SAMPLES, FEATURES, HIDDEN, CLASSES, BATCH = 64, 64, 64, 10, 16
RATE = 0.2


def _labelled(name: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).standard_normal((CLASSES, FEATURES)) * 0.3
    rng = np.random.default_rng([1, name])
    y = rng.integers(0, CLASSES, count)
    x = centres[y] + rng.standard_normal((count, FEATURES))
    return x.astype(np.float32), y


def client(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples `[64, 64]` and labels `[64]` of one client."""
    return _labelled(number, SAMPLES)


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """2,000 samples of nobody."""
    return _labelled(10**6, 2000)


def weights() -> dict[str, np.ndarray]:
    """The first model: `w1 [64, 64]`, `b1 [64]`, `w2 [64, 10]`, `b2 [10]`, inputs first."""
    rng = np.random.default_rng(2)
    return {
        "w1": (rng.standard_normal((FEATURES, HIDDEN)) / 8).astype(np.float32),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": (rng.standard_normal((HIDDEN, CLASSES)) / 8).astype(np.float32),
        "b2": np.zeros(CLASSES, np.float32),
    }


def accuracy(model: dict[str, np.ndarray]) -> float:
    """Share of the held-out samples that a model as in `weights` gets right."""
    x, y = held_out()
    hidden = np.maximum(x @ model["w1"] + model["b1"], 0)
    return float(((hidden @ model["w2"] + model["b2"]).argmax(1) == y).mean())


def cpu_seconds() -> float:
    """Processor time of this process and all below it, from /proc (Linux)."""
    parents, spent = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.parent.name)] = int(fields[1])
        spent[int(entry.parent.name)] = sum(map(int, fields[11:15]))
    mine, total = {os.getpid()}, 0
    while mine:
        total += sum(spent.get(process, 0) for process in mine)
        mine = {child for child, parent in parents.items() if parent in mine}
    return total / os.sysconf("SC_CLK_TCK")


class Clock:
    """Times of rounds: the first is for warming up, those after it count."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.spent: list[float] = []

    def round(self) -> None:
        """A round ended."""
        self.ends.append(time.perf_counter())
        self.spent.append(cpu_seconds())

    @property
    def enough(self) -> bool:
        """Whether there is something to report: three rounds, or `SECONDS` and one."""
        measured = len(self.ends) - 1
        return measured >= 1 and (
            self.ends[-1] - self.ends[0] >= SECONDS or (measured >= 3 and SECONDS == 0)
        )


def report(peer: str, clock: Clock, model: dict[str, np.ndarray], how: str, *packages: str) -> None:
    """One line of JSON on standard output."""
    spans = np.diff(clock.ends)
    line = {
        "peer": peer,
        "client_updates_per_s": round(CLIENTS * len(spans) / float(spans.sum()), 1),
        "fastest_round_updates_per_s": round(CLIENTS / float(spans.min()), 1),
        "client_updates_per_cpu_s": round(
            CLIENTS * len(spans) / (clock.spent[-1] - clock.spent[0]), 1
        ),
        "clients": CLIENTS,
        "rounds": len(spans),
        "accuracy": round(accuracy(model), 4),
        "how": how,
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": ".".join(map(str, sys.version_info[:3]))},
    }
    sys.stdout.write("RESULT " + json.dumps(line) + "\n")
    sys.stdout.flush()
