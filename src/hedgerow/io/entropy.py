"""The only place that asks the operating system for randomness.

Everything else is handed a generator, so that a run can be repeated from its seed.
"""

from __future__ import annotations

import secrets

import numpy as np


def secret_bytes(count: int) -> bytes:
    """`count` unpredictable bytes, fit for keys."""
    return secrets.token_bytes(count)


def seed() -> int:
    """An unpredictable 128-bit seed, for the root of named random streams."""
    return secrets.randbits(128)


def generator() -> np.random.Generator:
    """A NumPy generator from an unpredictable seed, where nobody will want a repeat (jitter)."""
    return np.random.default_rng(seed())
