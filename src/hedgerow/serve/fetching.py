"""The models of a device: brought here whole or by patches, held until they are kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from hedgerow.core.errors import HedgerowError
from hedgerow.core.layout import Layout
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.links import DeviceLink, LinkDown
from hedgerow.protocol import device as machine
from hedgerow.protocol.patching import apply_patches
from hedgerow.wire.messages import ModelRef, Patches
from hedgerow.wire.weights import from_bytes, to_bytes

log = logging.getLogger(__name__)


class Models:
    """What was fetched, beside what the store has."""

    def __init__(
        self,
        store: DeviceStore,
        state: Callable[[], machine.DeviceState],
        layout: Layout | None = None,
    ) -> None:
        """`layout` is that of the models that come; without it, patches to them are not used."""
        self._store, self._state, self._layout = store, state, layout
        self._fetched: dict[str, bytes] = {}

    def blob(self, digest: str) -> bytes:
        """The model of that hash, which is here. Raises HedgerowError when it is not."""
        data = self._fetched.get(digest) or self._store.blob(digest)
        if data is None:
            raise HedgerowError(f"model {digest} is no longer in the store; it is fetched again")
        return data

    def hold(self, digest: str, data: bytes) -> None:
        """Keep what was fetched, beside what is in use and may not be in the store yet."""
        state = self._state()
        used = {state.model.hash, "" if state.offer is None else state.offer.model.hash}
        self._fetched = {one: blob for one, blob in self._fetched.items() if one in used}
        self._fetched[digest] = data

    async def fetch(self, link: DeviceLink, model: ModelRef, patches: Patches | None) -> bytes:
        """The model, from wherever it comes soonest. Raises LinkDown or PeerError."""
        data = self._store.blob(model.hash)
        if data is None and patches is not None:
            data = await self._patched(link, model, patches)
        if data is None:
            data = await link.fetch_blob(model.hash, model.bytes)
        return data

    async def _patched(self, link: DeviceLink, model: ModelRef, patches: Patches) -> bytes | None:
        """The model as patches make it of the installed one; None if that is not what was meant."""
        installed = self._state().model
        if self._layout is None or installed.version != patches.since:
            return None
        try:
            held = from_bytes(self.blob(installed.hash))
            found = [await link.fetch_blob(blob.hash, blob.bytes) for blob in patches.blobs]
            made = to_bytes(
                apply_patches(patches.codec, patches.seed, patches.since, held, found, self._layout)
            )
        except LinkDown:
            raise
        except (HedgerowError, ValueError) as error:
            log.warning("patches to model %d are of no use: %s", model.version, error)
            return None
        if hashlib.sha256(made).hexdigest() != model.hash:
            log.warning("patches to model %d make another one; it is fetched whole", model.version)
            return None
        return made
