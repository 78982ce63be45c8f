"""Pictures of a camera, a stream or a file, shrunk to what a model takes in.

One frame is one sample: its channels are the pixels, row by row, and for colour all of red, then of
green, then of blue. A model of single pictures has a window of 1, one of movement a longer window.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.secret import named_secret
from hedgerow.io.sensors.base import Block, Reading, Sensor, SensorDown
from hedgerow.io.sensors.grid import Pace
from hedgerow.io.sensors.mailbox import Mailbox, produced
from hedgerow.io.surroundings import Surroundings

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

_WAITING_BYTES_MAX: Final = 64 * 2**20
_WAITING_MAX: Final = 256
_GAP_SECONDS: Final = 1.0
"""Frames further apart than this have a gap between them; nearer ones hold until the next."""
_OFF_SECONDS_MAX: Final = 1.0


class _Shot(NamedTuple):
    """`seconds` from the first frame; `new`: frames are missing before it."""

    seconds: float
    pixels: NDArray[np.float32]
    new: bool
    arrived_seconds: float


class Video(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frames of `source` at the model's rate, `width` × `height`, each value from 0 to 1.

    `source` is a file, a URL such as `rtsp://camera/1`, or a camera such as `/dev/video0`.
    `values`: `grey` pixels, `colour`, or `motion`, by how much each grey pixel changed since the
    frame before. `format` and `options` go to FFmpeg.
    """

    source: str
    width: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    height: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    values: Literal["grey", "colour", "motion"] = "grey"
    stream: str = ""
    format: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    user: str = ""
    password: str = ""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    loop: bool = False

    def __post_init__(self) -> None:
        if urlsplit(self.source).password is not None:
            raise UsageError("source holds a password; put it into password, as file: or env:")

    @property
    def _live(self) -> bool:
        return bool(self.format) or "://" in self.source or self.source.startswith("/dev/")

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Frames as they come, or as they are due; see `Sensor.batches`."""
        planes = 3 if self.values == "colour" else 1
        numbers = planes * self.width * self.height
        if numbers != len(around.channels):
            raise UsageError(
                f"{self.width} × {self.height} × {planes} are {numbers} values; the model has "
                f"{len(around.channels)} channels: set width, height and values to its own"
            )
        with needs("video"):
            import av  # noqa: F401 before the thread begins
        stream = self.stream or around.device
        source = self._source()
        waiting = max(2, min(_WAITING_MAX, _WAITING_BYTES_MAX // (4 * numbers)))
        pace = Pace(around, math.inf if self._live else self.speed)
        times = _Times(around, live=self._live)

        def produce(mailbox: Mailbox[_Shot]) -> None:
            for shot in self._shots(source, around):
                if not mailbox.put(shot):
                    return

        async with produced(produce, size=waiting, lossy=self._live, name=self.source) as mailbox:
            while shots := await mailbox.take():
                for block in times.blocks(stream, shots):
                    end = block.time_seconds - times.began + len(block.samples) / around.rate_hz
                    await pace.until(end)
                    yield [block]
        if self._live:
            raise SensorDown(f"{self.source} ended; it is opened again")

    def _shots(self, source: str, around: Surroundings) -> Iterator[_Shot]:
        """Frames on the grid of the model's rate, over and over if they loop."""
        offset = 0.0
        while True:
            grid = _Grid(around.rate_hz, offset)
            for seconds, pixels in self._frames(source):
                for shot_seconds, new in grid.ticks(seconds + offset):
                    yield _Shot(shot_seconds, pixels, new, around.now())
            if self._live or not self.loop:
                return
            if grid.last <= offset:
                raise UsageError(f"{self.source} has no frames to play over and over")
            offset = grid.last + 2 * _GAP_SECONDS

    def _frames(self, source: str) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Every frame, with the seconds since the first."""
        import av

        first: float | None = None
        before: NDArray[np.float32] | None = None
        try:
            with self._opened(source) as container:
                if not container.streams.video:
                    raise UsageError(f"{self.source} has no pictures, only sound perhaps")
                video = container.streams.video[0]
                video.codec_context.thread_count = 1  # cores are for the model
                for number, frame in enumerate(container.decode(video)):
                    when = frame.time
                    if frame.pts is None:  # a bare stream of pictures tells no times
                        when = number / float(video.average_rate or 25)
                    first = when if first is None else first
                    pixels = self._pixels(frame)
                    if self.values == "motion":
                        pixels, before = self._moved(pixels, before), pixels
                    yield when - first, pixels.reshape(-1)
        except av.FFmpegError as error:
            what = f"{self.source}: {error.strerror}"  # the whole of it may hold the password
            if not self._live and isinstance(error, av.InvalidDataError):
                raise UsageError(f"{what}; convert it with ffmpeg") from error
            raise SensorDown(f"{what}; look at the camera, its address and its password") from error

    def _opened(self, source: str) -> InputContainer:
        import av

        form, options = self.format or None, dict(self.options)
        if source.startswith("/dev/"):
            form = form or "v4l2"
        if source.startswith("rtsp"):
            options.setdefault("rtsp_transport", "tcp")  # UDP loses parts of frames
        try:
            return av.open(
                source,
                format=form,
                options=options,
                timeout=(self.timeout_seconds, self.timeout_seconds),
            )
        except (FileNotFoundError, PermissionError) as error:
            reason = f"cannot open {self.source}: {error.strerror}"
            if self._live:
                raise SensorDown(
                    f"{reason}; plug the camera in, or let this user read it"
                ) from error
            raise UsageError(f"{reason}; give the path of a file that may be read") from error
        except av.FFmpegError:  # some of them are a ValueError too
            raise
        except ValueError as error:
            raise UsageError(f"FFmpeg knows no format {self.format!r}") from error

    def _pixels(self, frame: VideoFrame) -> NDArray[np.float32]:
        colour = self.values == "colour"
        small = frame.reformat(
            width=self.width,
            height=self.height,
            format="rgb24" if colour else "gray",
            interpolation="AREA",
        ).to_ndarray()
        pixels = small.astype(np.float32) / np.float32(255)
        return pixels.transpose(2, 0, 1) if colour else pixels

    def _moved(
        self, now: NDArray[np.float32], before: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        return np.zeros_like(now) if before is None else np.abs(now - before)

    def _source(self) -> str:
        if not self.user:
            return self.source
        scheme, found, rest = self.source.partition("://")
        if not found:
            raise UsageError("user is set for a source that is no URL; take it out")
        password = quote(named_secret(self.password), safe="")
        return f"{scheme}://{quote(self.user, safe='')}:{password}@{rest}"


class _Grid:
    """Which ticks a frame is for: a slow camera's for several, most of a fast one's for none."""

    def __init__(self, rate_hz: float, begins: float) -> None:
        self._period = 1.0 / rate_hz
        self._tick = begins
        self._before: float | None = None
        self.last = begins

    def ticks(self, seconds: float) -> Iterator[tuple[float, bool]]:
        """The ticks that are due with a frame of that time; whether frames are missing before."""
        missing = self._before is None or not 0 <= seconds - self._before <= _GAP_SECONDS
        self._before = seconds
        if missing:
            self._tick = seconds
        # Times are rounded to the stream's own units.
        while self._tick <= seconds + 0.01 * self._period:
            yield self._tick, missing
            missing = False
            self.last = self._tick
            self._tick += self._period


class _Times:
    """Frames as blocks on our clock: from when playing began, or for a camera by arrival."""

    def __init__(self, around: Surroundings, *, live: bool) -> None:
        self._period = 1.0 / around.rate_hz
        self._live = live
        self.began = around.now()
        self._next = math.nan

    def blocks(self, stream: str, shots: Sequence[_Shot]) -> Iterator[Block]:
        """As few blocks as there are stretches without gaps."""
        run: list[_Shot] = []
        for shot in shots:
            off = self.began + shot.seconds - shot.arrived_seconds
            if self._live and (abs(off) > _OFF_SECONDS_MAX or math.isnan(self._next)):
                self.began -= off  # the camera's clock ran away, or ours was set
                shot = shot._replace(new=True)
            if run and (shot.new or abs(shot.seconds - self._next) > self._period / 2):
                yield self._block(stream, run)
                run = []
            run.append(shot)
            self._next = shot.seconds + self._period
        if run:
            yield self._block(stream, run)

    def _block(self, stream: str, run: Sequence[_Shot]) -> Block:
        return Block(stream, self.began + run[0].seconds, np.stack([shot.pixels for shot in run]))
