"""Weights as they are stored and sent: little-endian float32, addressed by their SHA-256."""

import hashlib

import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.wire.messages import ModelRef


def to_bytes(weights: Vector) -> bytes:
    """A vector `[P]` as `4 · P` bytes."""
    return weights.astype("<f4").tobytes()


def from_bytes(data: bytes) -> Vector:
    """What `to_bytes` made."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def model_ref(version: int, weights: Vector) -> ModelRef:
    """The reference to these shared weights as a blob."""
    data = to_bytes(weights)
    return ModelRef(version=version, hash=hashlib.sha256(data).hexdigest(), bytes=len(data))
