"""Hosted devices that really learn, on a few windows made up here."""

from pathlib import Path
from typing import Any

from hedgerow.io.data import Recording
from hedgerow.model.bundle import Bundle
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import Trainer
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.learning import LocalTrainer
from hedgerow.serve.memory import FACT_MEMORY, DeviceMemory
from hedgerow.serve.settings import CoordinatorSettings, load_settings
from hedgerow.serve.windows import WindowSet, windows_of
from tests.serve.agents import made_up
from tests.serve.hosting import FLEET, Host

WINDOWS = 24


def coordinator_settings(home: Path, text: str, **flags: Any) -> CoordinatorSettings:
    """Settings from a TOML file with this text, and what every fleet here has."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "coordinator.toml"
    path.write_text(text)
    given = {
        "fleet": FLEET,
        "state": str(home / "coordinator"),
        "nats.port": 0,
        "rounds.cohort": 2,
        "rounds.quorum": 2,
        "rounds.rounds": 2,
        "rounds.retry_seconds": 0.2,
    }
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(CoordinatorSettings, path, {}, {**given, **dotted})


def few_windows(wearer: int) -> WindowSet:
    recordings: list[Recording] = made_up(wearer)
    every = windows_of(recordings, app_bundle("watch").manifest.input)
    step = max(len(every.y) // WINDOWS, 1)
    return WindowSet(every.x[::step], every.y[::step])


class LearningHost(Host):
    """One device that runs the offer's algorithm on windows of its own.

    `bundle` with windows `[N, C, T]` to learn from, where it is not the watch's.
    """

    def __init__(
        self,
        name: str,
        join: JoinFile,
        state: Path,
        wearer: int,
        *,
        bundle: Bundle | None = None,
        windows: WindowSet | None = None,
        capacity: float = 1.0,
    ) -> None:
        self.windows = few_windows(wearer) if windows is None else windows
        super().__init__(name, join, state, len(self.windows.y))
        self.bundle: Bundle = app_bundle("watch") if bundle is None else bundle
        self.layout = self.bundle.manifest.layout
        self.begin = self.bundle.weights[: self.layout.shared_size]
        self.capacity = capacity
        self.learner: LocalTrainer

    def make_trainer(self) -> Trainer:
        self.learner = LocalTrainer(
            *(self.bundle, self.name, self.windows, self.memory()),
            device=self.identity.public,
            capacity=self.capacity,
        )
        return _Learning(self.learner)

    def memory(self, kept: bytes | None = None) -> DeviceMemory:
        """What it keeps, from the store unless this is newer."""
        kept = self.store.fact(FACT_MEMORY) if kept is None else kept
        size = self.bundle.manifest.layout.shared_size
        return DeviceMemory.from_bytes(kept, self.bundle.weights[size:])

    def learned(self, memory: bytes) -> None:
        self.learner.memory = self.memory(memory)


class _Learning:
    def __init__(self, learner: LocalTrainer) -> None:
        self.train = learner.train

    def personalise(self, blob: bytes, stop: Any) -> bytes:
        return blob
