"""The course of one run: rounds, measurements, and a file from which it can be taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.streams import stream
from hedgerow.sim import checkpoint
from hedgerow.sim.experiment import Experiment, Run
from hedgerow.sim.results import RoundRow, encode_lines, read_lines, spread
from hedgerow.sim.totals import Totals

ROWS = "rounds.jsonl"
CHECKPOINT = "checkpoint"


class Moving(Protocol):
    """A simulation that makes one version after the other: `Rounds` or `Fleet`."""

    totals: Totals
    loss: float | None
    held: Vector

    @property
    def now(self) -> float:
        """Virtual seconds."""

    @property
    def done(self) -> int:
        """Versions made."""

    @property
    def finished(self) -> bool:
        """Whether there is no more to do."""

    @property
    def weights(self) -> Vector:
        """The shared weights, `[S]`."""

    @property
    def joules(self) -> float:
        """Spent so far."""

    def step(self) -> bool:
        """Go on to the next version; False where there is none this time."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds."""

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint."""


class Gauge(Protocol):
    """Measures a model, given as devices have it (`pack_model`)."""

    def accuracy(self, held: Vector) -> float | None:
        """On the global test data; None where there are none."""

    def devices(self, held: Vector, clients: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each device on data of its own, as it would serve itself; NaN where it has none."""


@dataclass
class Course:
    """One run on its way. `told` hears every row, `stop` is asked after every round."""

    run: Run
    moving: Moving
    gauge: Gauge
    clients: int
    home: Path | None = None
    told: Callable[[RoundRow], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False
    rows: list[RoundRow] = field(default_factory=list)

    @property
    def experiment(self) -> Experiment:
        """Its settings."""
        return self.run.experiment

    def go(self) -> bool:
        """To the end, or until `stop` says so; False where it was stopped.

        Raises:
            UsageError: the folder holds another run.
        """
        self._take_up()
        if not self.rows:
            self._measure()
        kept = self.moving.done
        while not self.moving.finished:
            if self.stop():
                self._keep()
                return False
            made = self.moving.step()
            done = self.moving.done
            if made and (done % self.experiment.measure.every == 0 or self.moving.finished):
                self._measure()
            if made and done - kept >= self.experiment.output.checkpoint_rounds:
                self._keep()
                kept = done
        self._measure()
        self._finish()
        return True

    # Measuring ------------------------------------------------------------------------------------

    def _measure(self) -> None:
        moving, run = self.moving, self.run
        last = self.rows[-1] if self.rows else None
        if last is not None and last.round == moving.done:
            if moving.finished and last.device_mean is None:  # it was not known to be the last
                self.rows[-1] = msgspec.structs.replace(last, **self._spread())
            return
        loss = moving.loss
        row = RoundRow(
            run=run.label,
            seed=run.seed,
            round=moving.done,
            seconds=moving.now,
            accuracy=self.gauge.accuracy(moving.held),
            loss=loss if loss is None or math.isfinite(loss) else None,
            joules=moving.joules,
            **msgspec.structs.asdict(moving.totals),
        )
        row = msgspec.structs.replace(row, **self._spread())
        self.rows.append(row)
        self.told(row)

    def _spread(self) -> dict[str, float]:
        measure, moving = self.experiment.measure, self.moving
        due = measure.devices_every and moving.done % measure.devices_every == 0
        if not measure.devices_every or not (due or moving.finished):
            return {}
        some = np.arange(self.clients)
        if self.clients > measure.devices_max:
            rng = stream(self.run.seed, "measured devices")
            some = np.sort(rng.choice(self.clients, measure.devices_max, replace=False))
        return spread(self.gauge.devices(moving.held, some))

    # Keeping --------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        if self.home is None:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        kept = checkpoint.load(self.home / CHECKPOINT)
        if kept is None:
            return
        if kept["run"] != self._fingerprint:
            raise UsageError(
                f"{self.home} holds another experiment; give this one a folder of its own (--out)"
            )
        self.moving.restore(kept["moving"])
        self.rows = kept["rows"]

    def _keep(self) -> None:
        if self.home is not None:
            kept = {
                "run": self._fingerprint,
                "moving": self.moving.kept(),
                "rows": self.rows,
            }
            checkpoint.save(self.home / CHECKPOINT, kept)

    def _finish(self) -> None:
        if self.home is not None:
            partial = self.home / f"{ROWS}.partial"
            partial.write_bytes(encode_lines(self.rows))
            partial.replace(self.home / ROWS)
            (self.home / CHECKPOINT).unlink(missing_ok=True)

    @property
    def _fingerprint(self) -> bytes:
        return msgspec.json.encode(self.run)


def finished_rows(home: Path) -> list[RoundRow] | None:
    """The rows of a run that came to its end, or None."""
    path = home / ROWS
    return read_lines(path) if path.exists() else None


def rows_so_far(home: Path) -> list[RoundRow]:
    """The rows of a run, whether it came to its end or not."""
    rows = finished_rows(home)
    if rows is not None:
        return rows
    kept = checkpoint.load(home / CHECKPOINT)
    return [] if kept is None else list(kept["rows"])
