"""Synthetic vibration of rotating machines: where no recording is, and said so wherever it is used.

A machine is broad noise coloured by the resonances of its housing, harmonics of its shaft and of a
gear, and the accelerometer's own noise. Its load wanders and its speed with it, slowly. A damaged
bearing adds what McFadden and Smith (J. Sound Vib. 96, 1984) describe: an impulse each time a ball
rolls over the place, which rings in a resonance, with a jitter of 1% as balls slip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE_HZ: Final = 12_000.0
WINDOW: Final = 2048
HOP: Final = 2048
BANDS: Final = 64
SCALE_G: Final = 0.01
"""About the noise of a good MEMS accelerometer: what lies below it is told from nothing."""

Array = NDArray[np.float32]
Load = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """One machine, in g and Hz.

    `tones` are multiples of the shaft with their amplitudes, `resonances` centre, width and gain
    in place of the broad noise's 1. `load_swing` is the deviation of the logarithm of the load, and
    `load_seconds` how long it stays.
    """

    shaft_hz: float
    noise_g: float
    tones: tuple[tuple[float, float], ...]
    resonances: tuple[tuple[float, float, float], ...]
    load_swing: float
    load_seconds: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Machine:
        """Some machine of a mixed hall."""
        teeth = int(rng.integers(9, 40))
        multiples = [1.0, 2.0, 3.0, float(teeth), 2.0 * teeth]
        return cls(
            shaft_hz=float(rng.uniform(10, 60)),
            noise_g=float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))),
            tones=tuple((m, float(np.exp(rng.normal(-3, 1)))) for m in multiples),
            resonances=tuple(
                (
                    float(rng.uniform(300, 5500)),
                    float(rng.uniform(80, 600)),
                    float(rng.uniform(1, 8)),
                )
                for _ in range(int(rng.integers(2, 6)))
            ),
            load_swing=float(rng.uniform(0.02, 0.35)),
            load_seconds=float(rng.uniform(1, 120)),
        )


def wandering(machine: Machine, windows: int, rng: np.random.Generator) -> Load:
    """The logarithm of the load at each of so many windows: an Ornstein-Uhlenbeck process."""
    keep = float(np.exp(-WINDOW / RATE_HZ / machine.load_seconds))
    drawn = rng.standard_normal(windows) * machine.load_swing
    load = np.empty(windows)
    last = drawn[0]
    for place in range(windows):
        last = keep * last + np.sqrt(1 - keep**2) * drawn[place]
        load[place] = last
    return load


def vibration(
    machine: Machine, load: Load, rng: np.random.Generator, *, fault: float = 0.0
) -> Array:
    """Windows f32 `[n, 2048]` in g, one after the other, at 12 kHz, under a `wandering` load `[n]`.

    `fault` is the height of the impulses over the broad noise; 0 is a machine that is well.
    """
    out = _coloured(machine, len(load), rng) * np.exp(load)[:, None].astype(np.float32)
    out += _tones(machine, load, rng)
    if fault > 0:
        out += np.float32(fault * machine.noise_g) * _impulses(machine, load, rng)
    out += np.float32(SCALE_G) * rng.standard_normal(out.shape, np.float32)
    return out


def _coloured(machine: Machine, windows: int, rng: np.random.Generator) -> Array:
    bins = WINDOW // 2 + 1
    hertz = np.arange(bins) * RATE_HZ / WINDOW
    gain = np.ones(bins)
    for centre, width, height in machine.resonances:
        gain += height / (1 + ((hertz - centre) / width) ** 2)
    gain *= machine.noise_g / np.sqrt(np.mean(gain**2))
    drawn = rng.standard_normal((windows, bins, 2), np.float32).view(np.complex64)[..., 0]
    drawn *= (gain * np.sqrt(WINDOW / 2)).astype(np.float32)
    noise: Array = np.fft.irfft(drawn, WINDOW, axis=1).astype(np.float32)
    return noise


def _tones(machine: Machine, load: Load, rng: np.random.Generator) -> Array:
    # A motor slips under load: a hundredth of its speed for an e-fold of load.
    hertz = machine.shaft_hz * (1 - 0.01 * load)
    turns = np.cumsum(np.repeat(hertz / RATE_HZ, WINDOW)).reshape(len(load), WINDOW)
    out = np.zeros(turns.shape, np.float32)
    for multiple, amplitude in machine.tones:
        if multiple * machine.shaft_hz < RATE_HZ / 2:
            phase = (2 * np.pi * ((turns * multiple + rng.random()) % 1)).astype(np.float32)
            out += np.float32(amplitude * machine.noise_g * 5) * np.sin(phase)
    return out


def _impulses(machine: Machine, load: Load, rng: np.random.Generator) -> Array:
    """Impulses at the rate of a bearing's outer race (3.24 a turn), ringing in a resonance."""
    total = len(load) * WINDOW
    period = RATE_HZ / (3.24 * machine.shaft_hz)
    count = int(total / period) + 2
    places = np.cumsum(period * (1 + 0.01 * rng.standard_normal(count))).astype(np.int64)
    train = np.zeros(total, np.float32)
    places = places[places < total]
    train[places] = np.exp(load[places // WINDOW])
    seconds = np.arange(int(0.02 * RATE_HZ)) / RATE_HZ
    centre = max(machine.resonances, key=lambda resonance: resonance[2])[0]
    ringing = np.exp(-seconds * 400) * np.sin(2 * np.pi * centre * seconds)
    size = 1 << (total + len(ringing) - 1).bit_length()
    both = np.fft.rfft(train, size) * np.fft.rfft(ringing, size)
    rung = np.fft.irfft(both, size)[:total].reshape(len(load), WINDOW)
    return 10 * rung.astype(np.float32)
