"""The machines and sensors that are watched, each with its own windows and its own decision."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema
from hedgerow.decide.notice import Notice
from hedgerow.decide.rules import RuleState
from hedgerow.io.sensors.base import Block
from hedgerow.protocol.owner import Signal
from hedgerow.sense.blocks import BlockWindower
from hedgerow.sense.quality import QualityCheck, QualityLimits
from hedgerow.sense.windows import Window


class Stream:
    """One stream: the window in the making, what holds, and the last word on it.

    `row` numbers the stream among all of them, for arrays over streams.
    """

    __slots__ = (
        "_schema",
        "decided",
        "gone",
        "name",
        "notice",
        "row",
        "state",
        "windower",
        "windows",
    )

    def __init__(self, name: str, row: int, schema: InputSchema, check: QualityCheck) -> None:
        self.name = name
        self.row = row
        self.windower = BlockWindower(schema, check)
        self.state = RuleState()
        self.notice: Notice | None = None
        self.windows = 0
        self.decided = 0
        self.gone = ""
        """Why its sensor ended; empty while it lives."""
        self._schema = schema

    @property
    def window_seconds(self) -> float:
        """How long its windows are."""
        return self._schema.window / self._schema.rate_hz

    def signal(self, window: Window, samples_max: int) -> Signal:
        """A window as people see it: at most so many samples of each channel."""
        every = -(-window.samples.shape[1] // samples_max)
        rate_hz = self._schema.rate_hz
        return Signal(
            rate_hz=rate_hz / every,
            end_seconds=window.start_seconds + window.samples.shape[1] / rate_hz,
            channels=list(self._schema.channels),
            samples=window.samples[:, ::every].tolist(),
        )


class Cut(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One window of one stream; `historical`: not to be acted on."""

    stream: Stream
    window: Window
    historical: bool


def rows_of(cuts: Sequence[Cut]) -> NDArray[np.int64]:
    """The row of each window's stream, i64 `[B]`."""
    return np.fromiter((cut.stream.row for cut in cuts), np.int64, len(cuts))


class Streams:
    """All streams by name, at most `most`; blocks of further ones are `refused` and counted.

    `names` are known from before: they have the first rows, in this order.
    """

    def __init__(self, schema: InputSchema, most: int, names: Sequence[str] = ()) -> None:
        self._schema = schema
        self._most = most
        self._check = check = QualityCheck(schema, QualityLimits())  # its arrays serve all
        self._by_name = {name: Stream(name, row, schema, check) for row, name in enumerate(names)}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def all(self) -> list[Stream]:
        """In the order in which they first came."""
        return list(self._by_name.values())

    def named(self, name: str) -> Stream | None:
        """The stream of that name, if it ever came."""
        return self._by_name.get(name)

    def cut(self, block: Block) -> list[Cut]:
        """The windows that these samples completed, oldest first.

        Raises:
            UsageError: the samples do not fit the model's channels; says how.
        """
        stream = self._by_name.get(block.stream)
        if stream is None:
            if len(self._by_name) >= self._most:
                self.refused += 1
                return []
            stream = Stream(block.stream, len(self._by_name), self._schema, self._check)
        windows = stream.windower.push(block.samples, block.time_seconds)
        self._by_name.setdefault(block.stream, stream)  # only what fits takes a place
        stream.gone = ""
        return [Cut(stream, window, block.historical) for window in windows]

    def end(self, name: str, reason: str) -> None:
        """A stream's sensor ended: what was decided holds no longer, nor what was half sensed."""
        stream = self._by_name.get(name)
        if stream is not None:
            stream.windower = BlockWindower(self._schema, self._check)
            stream.state = RuleState()
            stream.notice = None
            stream.gone = reason or "its sensor ended"
