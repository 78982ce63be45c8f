"""Sound: WAV files of all forms, and a microphone.

No machine that runs the tests has a sound card, so PortAudio is played by a stand-in with the calls
of `sounddevice` that the sensor makes; files are real.
"""

from __future__ import annotations

import asyncio
import math
import struct
import sys
import threading
import time
import wave
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Reading, SensorDown
from hedgerow.io.sensors.wav import wav_format, wav_pieces
from tests.io.sensing import Clock, around, blocks, first, gaps, joined, sensor

RATE = 16_000
LOST_SECONDS = 0.5


def tone(rate: float, count: int, *, first: int = 0) -> NDArray[np.float64]:
    made: NDArray[np.float64] = np.sin(2 * np.pi * 440 * (first + np.arange(count)) / rate) / 2
    return made


def riff(path: Path, form: bytes, data: bytes, *, length: int | None = None) -> Path:
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"LIST\x03\x00\x00\x00abc\x00"  # of odd length, so padded
    chunks += b"data" + struct.pack("<I", len(data) if length is None else length) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def form(kind: int, bits: int, channels: int = 1, rate: int = RATE) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)


def whole(path: Path) -> NDArray[np.float32]:
    return np.concatenate(list(wav_pieces(path, wav_format(path))))


def test_what_the_standard_library_writes_is_read(tmp_path: Path) -> None:
    wanted = np.round(tone(RATE, 40_000) * 32_768) / 32_768
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        both = np.stack([wanted, -wanted], axis=1) * 32_768
        file.writeframes(both.astype("<i2").tobytes())
    assert wav_format(tmp_path / "a.wav")[:4] == (RATE, 2, 2, False)
    np.testing.assert_array_equal(whole(tmp_path / "a.wav"), np.stack([wanted, -wanted], 1))


def test_every_width_and_float_and_the_extensible_header(tmp_path: Path) -> None:
    values = np.array([0.0, 0.5, -0.5, -1.0])
    bytes24 = (values * 2**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    extended = form(0xFFFE, 24) + struct.pack("<HHIH", 22, 24, 0, 1) + bytes(14)
    files = {
        "8": (form(1, 8), (values * 128 + 128).astype(np.uint8).tobytes()),
        "16": (form(1, 16), (values * 2**15).astype("<i2").tobytes()),
        "24": (form(1, 24), bytes24),
        "32": (form(1, 32), (values * 2**31).astype("<i4").tobytes()),
        "float": (form(3, 32), values.astype("<f4").tobytes()),
        "double": (form(3, 64), values.astype("<f8").tobytes()),
        "extensible": (extended, bytes24),
    }
    for name, (head, data) in files.items():
        read = whole(riff(tmp_path / f"{name}.wav", head, data))
        assert read.dtype == np.float32 and read.ravel().tolist() == values.tolist(), name


def test_a_recorder_that_was_switched_off_leaves_what_it_wrote(tmp_path: Path) -> None:
    data = np.arange(4, dtype="<i2").tobytes() + b"\x01"  # half a sample at the end
    for length in (0, 0xFFFFFFFF, 1000):
        assert len(whole(riff(tmp_path / "a.wav", form(1, 16), data, length=length))) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no WAV file"),
        (b"RIFF\0\0\0\0WAVE", "header ends early"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcd", "cut off"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + form(85, 16), "format 85"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + form(1, 12), "12 bits"),
    ],
)
def test_what_is_no_plain_sound_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        wav_format(tmp_path / "a.wav")


def sounds(path: Path, rate: int, count: int, channels: int = 1) -> str:
    data = np.repeat(tone(rate, count)[:, None], channels, axis=1) * np.arange(1, channels + 1)
    return str(riff(path, form(3, 32, channels, rate), data.astype("<f4").tobytes()))


def test_files_play_at_their_speed_in_blocks(tmp_path: Path) -> None:
    clock = Clock()
    files = [sounds(tmp_path / f"{name}.wav", RATE, RATE) for name in "ab"]
    given = sensor("audio", files=files, stream="pump", speed=2.0, pause_seconds=0.5)
    ours = blocks(asyncio.run(first(given, around(["sound"], RATE, clock=clock))))
    assert {block.stream for block in ours} == {"pump"}
    assert [len(block.samples) for block in ours] == [1600] * 20
    np.testing.assert_allclose(joined(ours[:10])[:, 0], tone(RATE, RATE), atol=1e-6)
    jumps = [gap for gap in gaps(ours, RATE) if abs(gap) > 0.5]
    assert jumps == [pytest.approx(RATE / 2, abs=0.1)]
    assert clock.passed == pytest.approx(1.25)  # 2.5 s at twice the speed


def test_another_rate_is_converted_and_channels_are_chosen(tmp_path: Path) -> None:
    file = sounds(tmp_path / "a.wav", 44_100, 44_100, channels=3)
    given = sensor("audio", files=[file], take=[2, 0], speed=math.inf)
    ours = blocks(asyncio.run(first(given, around(["x", "y"], RATE, clock=Clock()))))
    made = joined(ours)
    wanted = tone(RATE, len(made))
    assert len(made) > 0.99 * RATE and max(map(abs, gaps(ours, RATE))) < 0.01
    np.testing.assert_allclose(
        made[100:-100], np.stack([3 * wanted, wanted], 1)[100:-100], atol=2e-3
    )


def test_a_file_without_the_channels_says_so(tmp_path: Path) -> None:
    file = sounds(tmp_path / "a.wav", RATE, 10)
    for settings, said in (
        ({}, "has 1 channels; the model wants 2"),
        ({"take": [0]}, "take names 1"),
    ):
        with pytest.raises(UsageError, match=said):
            asyncio.run(first(sensor("audio", files=[file], **settings), around("xy", RATE)))


class Card:
    """A sound card as PortAudio shows it: a tone, taken at one rate only, and faults on demand."""

    class PortAudioError(Exception):
        pass

    def __init__(self, rate: float, *, any_rate: bool = False, there: bool = True) -> None:
        self.rate, self.any_rate, self.there = rate, any_rate, there
        self.asked: list[float] = []
        self.open = 0
        self.unplugged = False
        self.overflows_at = -1
        self.clock = Clock()

    def query_devices(self, device: object = None, kind: str | None = None) -> Any:
        if kind is None:
            return [{"name": "USB Microphone"}]
        if not self.there or device not in {None, 3, "USB"}:
            raise ValueError(f"No input device matching {device!r}")
        return {
            "name": "USB Microphone",
            "max_input_channels": 2,
            "default_samplerate": self.rate,
        }

    def check_input_settings(
        self, device: object, channels: int, dtype: str, *, samplerate: float
    ) -> None:
        self.asked.append(samplerate)
        if samplerate != self.rate and not self.any_rate:
            raise self.PortAudioError("Invalid sample rate")

    def sleep(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)

    def InputStream(self, **settings: Any) -> _Stream:
        return _Stream(self, **settings)


class _Stream:
    def __init__(
        self,
        card: Card,
        *,
        samplerate: float,
        blocksize: int,
        device: object,
        channels: int,
        dtype: str,
        callback: Callable[[Any, int, Any, Any], None],
    ) -> None:
        self._card, self._rate, self._size = card, samplerate, blocksize
        self._channels, self._callback = channels, callback
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def active(self) -> bool:
        return not self._card.unplugged

    def __enter__(self) -> _Stream:
        self._card.open += 1
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._card.open -= 1

    def _run(self) -> None:
        at = 0
        while not self._stop.wait(self._size / self._rate / 4):
            sound = tone(self._rate, self._size, first=at)[:, None]
            data = np.repeat(sound, self._channels, axis=1).astype(np.float32)
            status = SimpleNamespace(input_overflow=at // self._size == self._card.overflows_at)
            self._card.clock.passed += self._size / self._rate
            if status.input_overflow:  # nobody heard these
                self._card.clock.passed += LOST_SECONDS
            self._callback(data, self._size, None, status)
            data[:] = 9  # PortAudio's buffer is not ours to keep
            at += self._size


def heard(
    card: Card, monkeypatch: pytest.MonkeyPatch, count: int, **settings: object
) -> list[Block]:
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    surroundings = around(["sound"], RATE, clock=card.clock)

    async def run() -> list[Reading]:
        taken: list[Reading] = []
        given = sensor("audio", **settings)
        async with asyncio.timeout(90), aclosing(given.batches(surroundings)) as batches:
            async for batch in batches:
                taken += batch
                if len(taken) >= count:
                    break
        return taken

    return blocks(asyncio.run(run()))


def test_a_microphone_gives_blocks_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(RATE)
    ours = heard(card, monkeypatch, 10)
    np.testing.assert_allclose(joined(ours)[:, 0], tone(RATE, 16_000), atol=1e-6)
    assert ours[0].stream == "press 4" and card.asked == [RATE]
    assert card.open == 0


def test_a_microphone_of_another_rate_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(48_000)
    ours = heard(card, monkeypatch, 10, device="3")
    made = joined(ours)[:, 0]
    assert card.asked == [RATE, 48_000]
    np.testing.assert_allclose(made[100:], tone(RATE, len(made))[100:], atol=2e-3)


def test_sound_that_was_lost_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(RATE)
    card.overflows_at = 4
    ours = heard(card, monkeypatch, 8)
    wide = {number: gap for number, gap in enumerate(gaps(ours, RATE)) if abs(gap) > 1.5}
    assert wide == {3: pytest.approx(LOST_SECONDS * RATE, rel=1e-3)}


def test_a_microphone_that_goes_or_never_was_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(RATE)
    threading.Timer(0.5, lambda: setattr(card, "unplugged", True)).start()
    with pytest.raises(SensorDown, match="taken away"):
        heard(card, monkeypatch, 10**6)
    assert card.open == 0
    with pytest.raises(SensorDown, match="one of: USB Microphone"):
        heard(Card(RATE, there=False), monkeypatch, 1)


def test_what_the_card_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="has 2 channels; the model wants 1, taken from 5"):
        heard(Card(RATE), monkeypatch, 1, take=[5])
    card = Card(RATE)
    monkeypatch.setattr(card, "check_input_settings", _refuse)
    with pytest.raises(UsageError, match="takes neither 16000 Hz"):
        heard(card, monkeypatch, 1)


def _refuse(*_: object, **__: object) -> None:
    raise Card.PortAudioError("Invalid sample rate")
