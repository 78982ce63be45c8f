"""Whole device agents in the test's process, on recordings made up here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event as Flag

import numpy as np
import pytest

from hedgerow.io import data
from hedgerow.io.data import Recording
from hedgerow.serve.agent import DeviceAgent
from hedgerow.serve.device import Outcome
from hedgerow.serve.settings import DeviceSettings
from hedgerow.wire.messages import Offer


def made_up(wearer: int) -> list[Recording]:
    """Seven short recordings: each exercise swings the wrist at its own speed."""
    rng = np.random.default_rng(wearer)
    recordings = []
    for label in range(7):
        swing = 2 * np.pi * (0.3 + 0.4 * label) * np.arange(400) / 50 + rng.uniform(0, 6)
        samples = rng.normal(0, 0.05, (400, 6))
        samples[:, 0] += np.sin(swing)
        samples[:, 5] += 2 * np.cos(swing)
        recordings.append(Recording(samples.astype(np.float32), label, "left"))
    return recordings


@pytest.fixture
def made_up_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents find these in the place of real ones."""
    monkeypatch.setattr(data, "load_wearer", made_up)


def settings(home: Path, wearer: int, join: Path | None) -> DeviceSettings:
    return DeviceSettings(
        name=f"watch {wearer}",
        state=home / f"watch-{wearer}",
        join=join,
        check_in_seconds=2.0,
        report_seconds=0.5,
        personalise_after_seconds=0.0,
        sensors=({"kind": "replay", "wearer": str(wearer), "speed": 20.0},),
    )


class HeldAgent(DeviceAgent):
    """Trains as any agent, but is done only when `go` is set; remembers what it sent off."""

    def __init__(self, chosen: DeviceSettings) -> None:
        self.go = Flag()
        self.go.set()
        self.began: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        super().__init__(chosen)

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        self.began.append(offer.round)
        while not self.go.wait(0.01) and not stop.is_set():
            pass
        outcome = super().train(offer, blob, stop)
        if not stop.is_set():
            self.outcomes[offer.round] = outcome
        return outcome


@contextlib.asynccontextmanager
async def running_agents(*agents: DeviceAgent) -> AsyncIterator[None]:
    """Run them; one that ends by itself with an error fails the test."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(agent.run(stop)) for agent in agents]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)
