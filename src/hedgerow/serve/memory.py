"""What a device keeps from round to round and never sends: one blob, written with its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.core.layout import Vector
from hedgerow.wire.vectors import pack, unpack


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
        saved = msgspec.msgpack.decode(data, type=_Saved)
        found, tag = unpack(saved.vectors, "device"), _tag(saved.algorithm)

        def under(kind: str) -> dict[str, Vector]:
            head = f"{tag}/{kind}/"
            return {n.removeprefix(head): v for n, v in found.items() if n.startswith(head)}

        own = found.get("private", private)
        if own.shape != private.shape:
            return cls(private)
        return cls(own, saved.algorithm, under("kept"), under("residual"))

    def of(self, algorithm: AnyAlgorithm) -> DeviceMemory:
        """What of it is of use to this algorithm: what another one kept is not."""
        if _tag(algorithm) == _tag(self.algorithm):
            return self
        return DeviceMemory(self.private, algorithm)


def _tag(algorithm: AnyAlgorithm | None) -> str:
    return "" if algorithm is None else str(algorithm.__struct_config__.tag)
