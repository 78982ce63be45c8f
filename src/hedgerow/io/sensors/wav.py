"""WAV files, a piece at a time: integer and float samples, plain and extensible headers.

The standard library's `wave` refuses what measuring devices write: float samples, and before
Python 3.12 every extensible header. Source: *Multimedia Programming Interface and Data
Specifications 1.0* (IBM and Microsoft, 1991); `mmreg.h` for the extensible format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FRAMES_AT_ONCE: Final = 16_384
_CHANNELS_MAX: Final = 256


class WavFormat(NamedTuple):
    """`channels` interleaved at `rate_hz`, each sample of `width` bytes."""

    rate_hz: float
    channels: int
    width: int
    is_float: bool
    data_at: int
    data_bytes: int


def wav_format(path: Path) -> WavFormat:
    """What the header says.

    Raises:
        UsageError: it cannot be read, or holds no samples that are plain numbers.
    """
    try:
        with path.open("rb") as file:
            return _header(file, path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def wav_pieces(path: Path, form: WavFormat) -> Iterator[NDArray[np.float32]]:
    """Samples f32 `[n, channels]`, full scale ±1; the last frame may be cut off and is left out."""
    frame = form.channels * form.width
    left = form.data_bytes // frame
    try:
        with path.open("rb") as file:
            file.seek(form.data_at)
            while left > 0:
                data = file.read(min(left, _FRAMES_AT_ONCE) * frame)
                count = len(data) // frame
                if not count:
                    return
                left -= count
                yield _samples(data[: count * frame], form).reshape(count, form.channels)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _header(file: BinaryIO, path: Path) -> WavFormat:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise UsageError(f"{path} is no WAV file; convert it to one")
    size = path.stat().st_size
    form: tuple[int, int, int, int] | None = None
    while len(chunk := file.read(8)) == 8:
        name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data" and form is not None:
            kind, channels, rate, bits = form
            at = file.tell()
            # A recorder that was switched off leaves 0 or the most there is: then to the end.
            there = size - at
            length = there if length in {0, 0xFFFFFFFF} else min(length, there)
            return WavFormat(float(rate), channels, bits // 8, kind == _FLOAT, at, length)
        if name == b"fmt ":
            form = _form(file.read(min(length, 40)), path)
            length -= min(length, 40)
        file.seek(length + (length & 1), 1)
    raise UsageError(f"{path} holds no samples; its header ends early")


def _form(data: bytes, path: Path) -> tuple[int, int, int, int]:
    if len(data) < 16:
        raise UsageError(f"{path} has a header that is cut off")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data)
    if kind == _EXTENSIBLE and len(data) >= 26:
        kind = int.from_bytes(data[24:26], "little")
    fits = bits in ({32, 64} if kind == _FLOAT else {8, 16, 24, 32})
    if kind not in {_PCM, _FLOAT} or not fits or not 0 < channels <= _CHANNELS_MAX or not rate:
        raise UsageError(
            f"{path} has format {kind} with {bits} bits, {channels} channels at {rate} Hz; wanted "
            "plain samples (PCM of 8 to 32 bits, or float): convert it"
        )
    return kind, channels, rate, bits


def _samples(data: bytes, form: WavFormat) -> NDArray[np.float32]:
    if form.is_float:
        return np.frombuffer(data, f"<f{form.width}").astype(np.float32)
    if form.width == 1:  # 8 bits alone have no sign
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if form.width == 3:  # into the upper bytes of 32
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.reshape(-1).view("<i4").astype(np.float32) / np.float32(2**31)
    whole: NDArray[np.float32] = np.frombuffer(data, f"<i{form.width}").astype(np.float32)
    return whole / np.float32(2 ** (8 * form.width - 1))
