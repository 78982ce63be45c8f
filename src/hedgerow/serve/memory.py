"""What a device keeps from round to round and never sends: one blob, written with its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.core.layout import Vector
from hedgerow.io.device_store import DeviceStore
from hedgerow.wire.vectors import pack, unpack

FACT_MEMORY = "memory"
FACT_BEFORE = "memory before"


class _Saved(msgspec.Struct, frozen=True):
    algorithm: AnyAlgorithm | None
    vectors: bytes


@dataclass(frozen=True)
class DeviceMemory:
    """`private [P − S]`: tensors that are never shared. `kept [P]` and `residuals` (what the last
    payloads lost) are those of `algorithm`, the last one it took part in.
    """

    private: Vector
    algorithm: AnyAlgorithm | None = None
    kept: Mapping[str, Vector] = field(default_factory=dict)
    residuals: Mapping[str, Vector] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As it is kept."""
        tag = _tag(self.algorithm)
        vectors = {
            "private": self.private,
            **{f"{tag}/kept/{name}": part for name, part in self.kept.items()},
            **{f"{tag}/residual/{name}": part for name, part in self.residuals.items()},
        }
        return msgspec.msgpack.encode(_Saved(self.algorithm, pack(vectors, "device")))

    @classmethod
    def from_bytes(cls, data: bytes | None, private: Vector) -> DeviceMemory:
        """What was kept, or a new one with these private tensors if they do not fit."""
        if data is None:
            return cls(private)
        kept = cls._opened(data)
        return kept if kept.private.shape == private.shape else cls(private)

    @classmethod
    def _opened(cls, data: bytes) -> DeviceMemory:
        saved = msgspec.msgpack.decode(data, type=_Saved)
        found, tag = unpack(saved.vectors, "device"), _tag(saved.algorithm)

        def under(kind: str) -> dict[str, Vector]:
            head = f"{tag}/{kind}/"
            return {n.removeprefix(head): v for n, v in found.items() if n.startswith(head)}

        private = found.get("private", np.zeros(0, np.float32))
        return cls(private, saved.algorithm, under("kept"), under("residual"))

    @classmethod
    def taken_back(cls, now: bytes, before: bytes | None) -> bytes:
        """What was kept before an update that is in no sum, with the private tensors of now.

        The residuals are the old ones, as what this update said is not heard; what a device
        learned in tensors of its own needs nobody else.
        """
        private = cls._opened(now).private
        old = cls(private) if before is None else replace(cls._opened(before), private=private)
        return old.to_bytes()

    def of(self, algorithm: AnyAlgorithm) -> DeviceMemory:
        """What of it is of use to this algorithm: what another one kept is not."""
        if _tag(algorithm) == _tag(self.algorithm):
            return self
        return DeviceMemory(self.private, algorithm)


class _Before(msgspec.Struct, frozen=True):
    """The memory as it was before update `post_id`, the last that it was written with."""

    post_id: str
    memory: bytes | None


class Keeper:
    """The memory in a device's store, with the one before it until its update is in a sum.

    The one before is there as long as the update is in the outbox: what the coordinator's sums say
    and what the device keeps must both hold an update, or neither.
    """

    def __init__(self, store: DeviceStore) -> None:
        self._store = store

    def keep(self, post_id: str, memory: bytes) -> None:
        """What is kept from update `post_id` on; in one transaction with its way to the outbox."""
        before = _Before(post_id, self._store.fact(FACT_MEMORY))
        with self._store.transaction():
            self._store.set_fact(FACT_BEFORE, msgspec.msgpack.encode(before))
            self._store.set_fact(FACT_MEMORY, memory)

    def counted(self, post_id: str) -> None:
        """That update is in a sum; in one transaction with its way out of the outbox."""
        before = self._before()
        if before is not None and before.post_id == post_id:
            self._store.set_fact(FACT_BEFORE, None)

    def take_back(self) -> bytes | None:
        """The memory as it is to be, if the last update left the outbox without being counted."""
        before, now = self._before(), self._store.fact(FACT_MEMORY)
        if before is None or now is None or self._store.outbox_item(before.post_id) is not None:
            return None
        memory = DeviceMemory.taken_back(now, before.memory)
        with self._store.transaction():
            self._store.set_fact(FACT_MEMORY, memory)
            self._store.set_fact(FACT_BEFORE, None)
        return memory

    def _before(self) -> _Before | None:
        kept = self._store.fact(FACT_BEFORE)
        return None if kept is None else msgspec.msgpack.decode(kept, type=_Before)


def _tag(algorithm: AnyAlgorithm | None) -> str:
    return "" if algorithm is None else str(algorithm.__struct_config__.tag)
