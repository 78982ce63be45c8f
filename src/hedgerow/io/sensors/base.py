"""What a sensor is, for those that ship and for anybody's own.

A sensor is one frozen struct: its fields are its settings, `batches` reads. A package adds its own
by an entry point in the group `hedgerow.sensors`, whose name is the `kind` in the settings:

    class Shake(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
        port: str

        async def batches(self, around):
            async with open_port(self.port) as port:
                while True:
                    seconds, values = await port.read()
                    yield [Block("shaker", seconds, values)]
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.io.surroundings import Surroundings

if TYPE_CHECKING:
    from hedgerow.io.data import Recording


STREAM_BYTES_MAX: Final = 256
"""A stream's name where it comes from the network: it becomes a topic, a label, a key."""

SECONDS_MAX: Final = 253_402_300_799.0
"""The end of the year 9999, the last that everybody who is told of a time can write down."""


class Block(NamedTuple):
    """Consecutive samples of one stream.

    `stream` names the machine or sensor, `time_seconds` is when the first sample was taken (Unix
    seconds by the sensor's clock), `samples` f32 `[n, channels]`. `historical`: from a backlog, to
    be learned from and kept but not acted on.
    """

    stream: str
    time_seconds: float
    samples: NDArray[np.float32]
    historical: bool = False


class Label(NamedTuple):
    """What somebody says a stream did from `start_seconds` up to `end_seconds`."""

    stream: str
    start_seconds: float
    end_seconds: float
    label: str


class Gone(NamedTuple):
    """A stream ended or lost its sensor (a Sparkplug death, say): what holds of it is forgotten."""

    stream: str
    time_seconds: float
    reason: str


Reading: TypeAlias = Block | Label | Gone


def is_moment(seconds: float) -> bool:
    """Whether a time that came from the network can be one: from 1970 to 9999."""
    return 0.0 <= seconds <= SECONDS_MAX


def is_stream(name: str) -> bool:
    """Whether what came from the network can name a stream."""
    return 0 < len(name.encode(errors="replace")) <= STREAM_BYTES_MAX


class SensorDown(HedgerowError):
    """The sensor cannot be reached or ended amiss; the agent opens it again after a pause."""


class Sensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sensors; a subclass adds its settings as fields."""

    def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Open, then give readings as they come, oldest first, until closed; then release all.

        An `async def` with `yield` in the subclass. It may end when there is nothing more to come.

        Raises:
            SensorDown: the agent tries again, with a growing pause.
            UsageError: the settings cannot work; the agent stops and says so.
        """
        raise NotImplementedError

    def past(self) -> tuple[Sequence[Recording], Sequence[Recording]]:
        """Labelled recordings made before the agent ran: to learn from, and to judge by."""
        return (), ()
