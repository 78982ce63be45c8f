"""Sound and whatever else a sound card digitises: a microphone, or WAV files."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.extras import needs
from hedgerow.io.sensors.base import Block, Reading, Sensor, SensorDown
from hedgerow.io.sensors.grid import Pace, SampleClock
from hedgerow.io.sensors.mailbox import Mailbox, produced
from hedgerow.io.sensors.resample import Resampler
from hedgerow.io.sensors.wav import wav_format, wav_pieces
from hedgerow.io.surroundings import Surroundings

_BLOCKS_WAITING: Final = 64
_SILENCE_SECONDS: Final = 5.0


class _Sound(NamedTuple):
    arrived_seconds: float
    samples: NDArray[np.float32]
    lost: bool


class Audio(Sensor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Samples at full scale ±1, from `files` or from the sound `device`.

    `device` is a part of its name or its number; empty, the system's own choice. `take` says which
    of its channels become the model's, from 0; by default the first ones. Another rate than the
    model's is converted.
    """

    files: tuple[str, ...] = ()
    device: str | int = ""
    take: tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...] = ()
    stream: str = ""
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    loop: bool = False
    pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    block_seconds: Annotated[float, msgspec.Meta(ge=0.005, le=60)] = 0.1

    async def batches(self, around: Surroundings) -> AsyncGenerator[Sequence[Reading], None]:
        """Blocks of `block_seconds`; see `Sensor.batches`."""
        if self.take and len(self.take) != len(around.channels):
            raise UsageError(
                f"take names {len(self.take)} channels; the model wants {len(around.channels)}: "
                f"{', '.join(around.channels)}"
            )
        take = self.take or tuple(range(len(around.channels)))
        stream = self.stream or around.device
        if not self.files:
            async with aclosing(self._listen(around, stream, take)) as heard:
                async for block in heard:
                    yield [block]
            return
        pace = Pace(around, self.speed)
        begun, offset = around.now(), 0.0
        files = [Path(file).expanduser() for file in self.files]
        while True:
            played = False
            for file in files:
                for samples in self._played(file, around.rate_hz, take):
                    first, offset = offset, offset + len(samples) / around.rate_hz
                    await pace.until(offset)
                    yield [Block(stream, begun + first, samples)]
                    played = True
                offset += self.pause_seconds
            if not self.loop:
                return
            if not played:
                raise UsageError(f"{files[0]} is too short to play over and over")

    def _played(
        self, file: Path, rate_hz: float, take: Sequence[int]
    ) -> Iterator[NDArray[np.float32]]:
        """One file at the model's rate, in blocks."""
        form = wav_format(file)
        if form.data_bytes < form.channels * form.width:
            raise UsageError(f"{file} holds no samples")
        self._check(f"{file}", form.channels, take)
        resampler = _resampler(form.rate_hz, rate_hz, len(take))
        size = max(1, round(self.block_seconds * rate_hz))
        waiting = np.empty((0, len(take)), np.float32)
        for piece in wav_pieces(file, form):
            samples = piece[:, take]
            if resampler is not None:
                samples = resampler.push(samples)
            waiting = np.concatenate([waiting, samples])
            whole = len(waiting) // size * size
            yield from np.split(waiting[:whole], range(size, whole, size)) if whole else ()
            waiting = waiting[whole:]
        if len(waiting):
            yield waiting

    async def _listen(
        self, around: Surroundings, stream: str, take: Sequence[int]
    ) -> AsyncGenerator[Block, None]:
        """What the sound card hears."""
        with needs("audio"):
            sounddevice = _sounddevice()
        rate_hz, channels = self._card(sounddevice, around.rate_hz, take)
        resampler = _resampler(rate_hz, around.rate_hz, len(take))
        clock = SampleClock(around.rate_hz)

        def listen(mailbox: Mailbox[_Sound]) -> None:
            def heard(data: Any, _frames: int, _times: Any, status: Any) -> None:
                samples = np.array(data[:, take], np.float32)
                mailbox.put(_Sound(around.now(), samples, bool(status.input_overflow)))

            try:
                with sounddevice.InputStream(
                    samplerate=rate_hz,
                    blocksize=max(1, round(self.block_seconds * rate_hz)),
                    device=_device(self.device),
                    channels=channels,
                    dtype="float32",
                    callback=heard,
                ) as open_stream:
                    while not mailbox.closed and open_stream.active:
                        sounddevice.sleep(50)  # milliseconds
            except sounddevice.PortAudioError as error:
                raise SensorDown(f"{self._name} ended: {error}") from error
            if not mailbox.closed:
                raise SensorDown(f"{self._name} was taken away; plug it in again")

        async with produced(listen, size=_BLOCKS_WAITING, lossy=True, name=self._name) as mailbox:
            lost = 0
            while sounds := await mailbox.take():
                if mailbox.lost > lost:
                    lost = mailbox.lost
                    clock.lost()
                for sound in sounds:
                    if sound.lost:
                        clock.lost()
                    samples = sound.samples
                    arrived = sound.arrived_seconds
                    if resampler is not None:
                        samples = resampler.push(samples)
                        arrived -= resampler.delay_seconds
                    if len(samples):
                        yield Block(stream, clock.stamp(len(samples), arrived), samples)

    def _card(self, sounddevice: Any, rate_hz: float, take: Sequence[int]) -> tuple[float, int]:
        """At which rate it can be opened, the model's if it can, and with how many channels."""
        try:
            card = sounddevice.query_devices(_device(self.device), "input")
        except (ValueError, sounddevice.PortAudioError) as error:
            raise SensorDown(
                f"no sound device to record from ({error}); plug it in, or set device to one of: "
                + "; ".join(str(each["name"]) for each in sounddevice.query_devices())
            ) from error
        self._check(card["name"], int(card["max_input_channels"]), take)
        channels = max(take) + 1
        for rate in (rate_hz, float(card["default_samplerate"])):
            try:
                sounddevice.check_input_settings(
                    _device(self.device), channels, "float32", samplerate=rate
                )
            except (ValueError, sounddevice.PortAudioError) as error:
                reason = error
            else:
                return rate, channels
        raise UsageError(
            f"{card['name']} takes neither {rate_hz} Hz, which the model wants, nor its own "
            f"{card['default_samplerate']} Hz with {channels} channels: {reason}"
        )

    def _check(self, name: str, channels: int, take: Sequence[int]) -> None:
        if max(take) >= channels:
            raise UsageError(
                f"{name} has {channels} channels; the model wants {len(take)}, taken from "
                f"{', '.join(map(str, take))} (from 0): set take"
            )

    @property
    def _name(self) -> str:
        return f"sound device {self.device!r}" if self.device != "" else "the sound device"


def _device(device: str | int) -> str | int | None:
    if isinstance(device, str) and device.isdigit():  # from the environment or a flag
        return int(device)
    return None if device == "" else device


def _resampler(from_hz: float, to_hz: float, channels: int) -> Resampler | None:
    same = math.isclose(from_hz, to_hz, rel_tol=1e-6)
    return None if same else Resampler(from_hz, to_hz, channels)


def _sounddevice() -> Any:
    try:
        import sounddevice  # type: ignore[import-untyped]
    except OSError as error:  # the package is there, the library behind it is not
        raise UsageError(
            f"a microphone needs the library PortAudio ({error}); install it with "
            "apt install libportaudio2 or the like"
        ) from error
    return sounddevice
