"""Plays files again, each as a stream of its own or all as one, at any speed."""

from __future__ import annotations

import glob
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from heapq import merge
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Label, Reading, Sensor
from hedgerow.io.sensors.grid import Pace, in_order
from hedgerow.io.sensors.resample import Resampler
from hedgerow.io.sensors.tables import SUFFIXES, Column, Piece, Wanted, read_pieces
from hedgerow.io.surroundings import Surroundings

_GAP_PERIODS = 1.5


class Recordings(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plays `files` (paths, with `*` and `**`) at `speed` times real time; `inf` does not wait.

    Each file is a stream named as the file and they play side by side; with `stream` they play one
    after the other as that one, `pause_seconds` apart. `columns` says where the channels are, by
    name or number from 0; without it columns have the channels' names, and tables without names
    have them in the model's order. `rate_hz` is that of the files where it is not the model's.
    Samples get times from now on; with `recorded_times` those in the column `time`.
    """

    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    stream: str = ""
    columns: dict[str, Column] = msgspec.field(default_factory=dict)
    time: Column | None = None
    label: Column | None = None
    rate_hz: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    loop: bool = False
    recorded_times: bool = False
    pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    block_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 0.25

    def __post_init__(self) -> None:
        if self.recorded_times and (self.time is None or self.loop):
            raise UsageError(
                "recorded_times wants the column of them in time, and no loop, whose times would "
                "run backwards"
            )

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Blocks as they are due, each after the labels of its time; see `Sensor.batches`."""
        paths = self._paths()
        pace = Pace(around, self.speed)
        begun = around.now()
        if self.stream:
            players = [_Player(self, around, self.stream, paths, begun)]
        else:
            players = [_Player(self, around, name, [path], begun) for name, path in _named(paths)]
        played = merge(*(player.due() for player in players), key=lambda due: due.seconds)
        for due in played:
            await pace.until(due.seconds)
            yield due.readings

    def _paths(self) -> list[Path]:
        found: dict[Path, None] = {}
        for pattern in self.files:
            matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 absolute patterns too
            paths = [Path(match) for match in matches]
            if not paths:
                raise UsageError(
                    f"no file fits {pattern!r}; files lists paths, * and ** may stand in"
                )
            found.update(dict.fromkeys(path for path in paths if path.is_file()))
        wrong = [str(path) for path in found if path.suffix.lower() not in SUFFIXES]
        if wrong or not found:
            raise UsageError(
                f"{', '.join(wrong[:3]) or 'a directory'} is no recording; wanted files that end "
                f"in {', '.join(SUFFIXES)}"
            )
        return list(found)


class _Due(NamedTuple):
    """What is to be handed over so many seconds after the start."""

    seconds: float
    readings: list[Reading]


class _Player:
    """One stream: the files of it one after the other, over and over if they loop."""

    def __init__(
        self,
        sensor: Recordings,
        around: Surroundings,
        stream: str,
        paths: Sequence[Path],
        begun: float,
    ) -> None:
        self._sensor = sensor
        self._around = around
        self._stream = stream
        self._paths = paths
        self._begun = begun
        self._block = max(1, round(sensor.block_seconds * around.rate_hz))

    def due(self) -> Iterator[_Due]:
        """Readings with when they are due, in order."""
        offset = 0.0  # where in the playing this file begins
        while True:
            began = offset
            for path in self._paths:
                end = offset
                for stretch in self._stretches(path):
                    for due in self._blocks(stretch, offset):
                        yield due
                        end = due.seconds
                offset = end + self._sensor.pause_seconds
            if not self._sensor.loop:
                return
            if offset - began <= self._sensor.pause_seconds * len(self._paths):
                raise UsageError(f"{self._paths[0]} has no samples to play over and over")

    def _blocks(self, stretch: _Stretch, offset: float) -> Iterator[_Due]:
        rate = self._around.rate_hz
        for first in range(0, len(stretch.samples), self._block):
            samples = stretch.samples[first : first + self._block]
            begins = offset + stretch.offset + first / rate
            ends = begins + len(samples) / rate
            shift = self._begun
            if self._sensor.recorded_times:
                shift = stretch.began_seconds - (offset + stretch.offset)
            readings: list[Reading] = []
            if stretch.labels is not None:
                readings += _labels(
                    self._stream, stretch.labels[first : first + self._block], begins + shift, rate
                )
            readings.append(Block(self._stream, begins + shift, samples))
            yield _Due(ends, readings)

    def _stretches(self, path: Path) -> Iterator[_Stretch]:
        """The file at the model's rate, cut where samples are missing."""
        around, sensor = self._around, self._sensor
        recorded_hz = sensor.rate_hz or around.rate_hz
        if sensor.label is not None and recorded_hz != around.rate_hz:
            raise UsageError(
                f"labels of {path} go with samples at {recorded_hz} Hz, and the model wants "
                f"{around.rate_hz} Hz; resample the file first, or leave label out"
            )
        cut = _Cut(recorded_hz)
        resampler: Resampler | None = None
        for piece in read_pieces(path, self._wanted()):
            for part, is_new in cut.parts(piece):
                samples, at = part.samples, part.offset
                if recorded_hz != around.rate_hz:
                    if resampler is None or is_new:
                        resampler = Resampler(recorded_hz, around.rate_hz, samples.shape[1])
                        origin, made = part, 0
                    samples = resampler.push(samples)
                    at = origin.offset + made / around.rate_hz
                    made += len(samples)
                    part = part._replace(began_seconds=origin.began_seconds + at - origin.offset)
                yield part._replace(samples=samples, offset=at)

    def _wanted(self) -> Wanted:
        sensor = self._sensor
        if sensor.columns:
            columns = in_order(sensor.columns, self._around, "columns")
            return Wanted(columns, sensor.time, sensor.label)
        return Wanted(self._around.channels, sensor.time, sensor.label, or_in_order=True)


class _Stretch(NamedTuple):
    """Samples without a gap, `offset` seconds into the file, the first at `began_seconds`."""

    samples: NDArray[np.float32]
    offset: float
    began_seconds: float
    labels: Sequence[str] | None


class _Cut:
    """Cuts pieces of one file where their times say that samples are missing."""

    def __init__(self, rate_hz: float) -> None:
        self._period = 1.0 / rate_hz
        self._next = 0.0  # offset of the sample to come
        self._first_seconds = math.nan
        self._last_seconds = math.nan

    def parts(self, piece: Piece) -> Iterator[tuple[_Stretch, bool]]:
        """The stretches of a piece; whether each begins anew, rather than go on."""
        count = len(piece.samples)
        if piece.seconds is None or not count:
            new = self._next == 0.0
            yield _Stretch(piece.samples, self._next, self._next, piece.labels), new
            self._next += count * self._period
            return
        seconds = piece.seconds
        if math.isnan(self._first_seconds):
            self._first_seconds = float(seconds[0])
        steps = np.diff(seconds, prepend=self._last_seconds)
        edges = np.flatnonzero(~((steps > 0) & (steps <= _GAP_PERIODS * self._period)))
        if (steps[1:] <= 0).any() or steps[0] <= 0:
            raise UsageError("the times of a recording run backwards; sort its rows by time")
        bounds = sorted({0, *edges.tolist(), count})
        for first, end in pairwise(bounds):
            began = float(seconds[first])
            labels = None if piece.labels is None else piece.labels[first:end]
            offset = began - self._first_seconds
            yield _Stretch(piece.samples[first:end], offset, began, labels), first in edges
        self._last_seconds = float(seconds[-1])


def _labels(stream: str, labels: Sequence[str], begins: float, rate_hz: float) -> Iterator[Label]:
    """One label for each run of equal words; an empty one says nothing."""
    at = 0
    for label, run in groupby(labels):
        count = sum(1 for _ in run)
        if label:
            yield Label(stream, begins + at / rate_hz, begins + (at + count) / rate_hz, label)
        at += count


def _named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Each file's name without its ending; with as many directories as it takes to be its own."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return list(zip(names, paths, strict=True))
    return [(str(path), path) for path in paths]
