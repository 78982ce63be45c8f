"""What decides, what wants to, and how a model is opened to answer beside the one in use."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Vector
from hedgerow.io.device_store import DeviceStore
from hedgerow.model.bundle import Bundle
from hedgerow.protocol.trial_state import Source, Version
from hedgerow.wire.weights import from_bytes, to_bytes

if TYPE_CHECKING:
    from hedgerow.model.predictor import Predictor

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Serving:
    """The model that decides: a bundle and weights `[P]` for it. `name` is what people call it."""

    bundle: Bundle
    weights: Vector
    name: str
    source: Source
    why: str = ""
    release: int = 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that is to be tried. No bundle: the one in use; no weights: the bundle's own."""

    bundle: Bundle | None
    weights: Vector | None
    name: str
    source: Literal["fleet", "site", "owner"]
    why: str = ""


class Shadow(Protocol):
    """A model that was opened to answer beside the one in use."""

    async def infer(self, x: Array) -> Array:
        """Answers `[B, size]` to inputs `[B, *shape]`. Raises HedgerowError: it cannot answer."""

    async def close(self) -> None:
        """Let go of it."""


OpenShadow = Callable[[Bundle, Vector, str], Awaitable[Shadow]]
"""Opens a bundle with weights `[P]` under a name. Raises HedgerowError: it cannot be run."""


class InProcess:
    """A model in a thread of this process. One that crashes takes the process along."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def infer(self, x: Array) -> Array:
        """See Shadow."""
        return await asyncio.to_thread(self._predictor, x)

    async def close(self) -> None:
        """See Shadow."""


async def in_process(bundle: Bundle, weights: Vector, name: str) -> Shadow:
    """Opens models in this process (`OpenShadow`)."""
    return InProcess(await asyncio.to_thread(_predictor, bundle, weights))


def _predictor(bundle: Bundle, weights: Vector) -> Predictor:
    from hedgerow.model.predictor import Predictor  # a guarded agent has no ONNX Runtime itself

    return Predictor(bundle, weights=weights)


def blobs_of(bundle: Bundle, weights: Vector) -> tuple[str, str, Mapping[str, bytes]]:
    """Hash of the bundle, hash of the weights (empty: its own), and the bytes of both by hash."""
    archive = bundle.to_bytes()
    if np.array_equal(weights, bundle.weights):
        return bundle.hash, "", {bundle.hash: archive}
    data = to_bytes(weights)
    digest = hashlib.sha256(data).hexdigest()
    return bundle.hash, digest, {bundle.hash: archive, digest: data}


def loaded(store: DeviceStore, version: Version, known: Mapping[str, Bundle]) -> Serving:
    """A version as it lies in the store; bundles that are `known` are not read again.

    Raises:
        HedgerowError: a blob is gone or damaged.
    """
    bundle = known.get(version.bundle)
    if bundle is None:
        archive = store.blob(version.bundle)
        if archive is None:
            raise HedgerowError(f"the bundle of {version.name} is no longer in the store")
        bundle = Bundle.from_bytes(archive)
    weights = bundle.weights
    if version.weights:
        data = store.blob(version.weights)
        if data is None or len(data) != 4 * bundle.manifest.layout.size:
            raise HedgerowError(f"the weights of {version.name} are no longer in the store")
        weights = from_bytes(data)
    return Serving(bundle, weights, version.name, version.source, version.why, version.release)
