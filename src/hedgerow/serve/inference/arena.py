"""Memory that two processes share, without a name in the file system: inputs in, answers out.

It has a few slots, so that one batch can be filled while another is answered. Each is the inputs
f32 `[batch_max, *shape]` followed by the answers f32 `[batch_max, size]`. Behind the slots there is
room for one vector of weights and for a word about it.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
SLOTS = 2
"""Batches that may be on their way at once."""
SINGLE = SLOTS
"""The slot of windows that come one by one."""
WEIGHTS = SLOTS + 1
"""Not a slot: other weights lie in the arena, to be answered with from now on."""
WORD_BYTES_MAX = 65_536
"""Room for what the process says of them."""


class ArenaShape(msgspec.Struct, frozen=True):
    """What lies in an arena: `batch_max` rows of inputs of `shape` and of `size` answers a slot,
    and `weights` numbers.
    """

    batch_max: int
    shape: tuple[int, ...]
    size: int
    weights: int

    @property
    def slot_numbers(self) -> int:
        """Floats in one slot."""
        return self.batch_max * (math.prod(self.shape) + self.size)

    @property
    def bytes(self) -> int:
        """Bytes of the whole arena."""
        return 4 * ((SLOTS + 1) * self.slot_numbers + self.weights) + WORD_BYTES_MAX


class Arena:
    """The slots as arrays; `inputs[k]` and `answers[k]` are those of slot k."""

    def __init__(self, shape: ArenaShape, descriptor: int) -> None:
        """Over the file `descriptor`, which stays the caller's."""
        self.shape = shape
        self._map = mmap.mmap(descriptor, shape.bytes)
        whole = (SLOTS + 1) * shape.slot_numbers
        numbers = np.frombuffer(self._map, np.float32, whole)
        self.weights: Array = np.frombuffer(self._map, np.float32, shape.weights, 4 * whole)
        self._word = 4 * (whole + shape.weights)
        rows, width = shape.batch_max, math.prod(shape.shape)
        self.inputs: list[Array] = []
        self.answers: list[Array] = []
        for slot in range(SLOTS + 1):
            part = numbers[slot * shape.slot_numbers : (slot + 1) * shape.slot_numbers]
            self.inputs.append(part[: rows * width].reshape(rows, *shape.shape))
            self.answers.append(part[rows * width :].reshape(rows, shape.size))

    def write_word(self, word: bytes) -> None:
        """Leave a word of at most `WORD_BYTES_MAX` less 4 bytes."""
        self._map[self._word : self._word + 4] = len(word).to_bytes(4, "little")
        self._map[self._word + 4 : self._word + 4 + len(word)] = word

    def read_word(self) -> bytes:
        """The word that was left last; empty where its length cannot be."""
        size = int.from_bytes(self._map[self._word : self._word + 4], "little")
        if size > WORD_BYTES_MAX - 4:
            return b""
        return self._map[self._word + 4 : self._word + 4 + size]


def anonymous_file(size: int) -> int:
    """A descriptor of a file of `size` zeros in memory that nobody else can open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("hedgerow")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def file_of(data: bytes) -> int:
    """A descriptor of such a file that holds `data`."""
    descriptor = anonymous_file(len(data))
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)
    return descriptor
