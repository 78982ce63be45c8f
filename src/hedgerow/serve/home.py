"""What is on a device before anything runs: its identity, store, sensors, bundle and model."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence

import numpy as np

from hedgerow.core.layout import Vector
from hedgerow.io import clock, plugins
from hedgerow.io.actuators.base import Actuator
from hedgerow.io.data import Recording
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore, StoredWindow, StoreFull
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter
from hedgerow.io.sensors.base import Sensor
from hedgerow.model.bundle import Bundle
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.device import FACT_MODEL, decode_model
from hedgerow.serve.memory import FACT_BEFORE, FACT_MEMORY, DeviceMemory
from hedgerow.serve.settings import DeviceSettings
from hedgerow.serve.windows import WindowSet, windows_of
from hedgerow.wire.messages import ModelRef
from hedgerow.wire.weights import from_bytes, model_ref, to_bytes

log = logging.getLogger(__name__)

FACT_HISTORY = "history"


class Home:
    """One device's state directory and settings, and the bundle in use.

    Raises:
        UsageError: a setting, a file or a bundle stands in the way; says which.
    """

    def __init__(
        self, settings: DeviceSettings, sensors: Sequence[tuple[str, Sensor]] | None = None
    ) -> None:
        self.settings = settings
        self.name = settings.name or socket.gethostname()
        self.sensors: list[tuple[str, Sensor]] = [
            (str(table.get("kind")), plugins.sensor(table)) for table in settings.sensors
        ]
        if sensors is not None:
            self.sensors = list(sensors)
        self.actuators: list[tuple[str, Actuator]] = [
            (str(table.get("kind")), plugins.actuator(table)) for table in settings.actuators
        ]
        pasts = [sensor.past() for _, sensor in self.sensors]
        self.past: tuple[Sequence[Recording], Sequence[Recording]] = (
            [recording for first, _ in pasts for recording in first],
            [recording for _, rest in pasts for recording in rest],
        )
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.identity = Identity.load_or_create(settings.state / "device.nk")
        self.store = DeviceStore(settings.state / "device.db", settings.store)
        self.meter = ByteMeter()
        self.use(self._bundle_at_hand())

    @property
    def recorded_bytes(self) -> int:
        """Bytes of the labelled past, which stays here."""
        return sum(recording.samples.nbytes for part in self.past for recording in part)

    def use(self, bundle: Bundle) -> None:
        """Work with this bundle: the model last installed if it is of it, else its own weights."""
        self.bundle = bundle
        self.shared_size = bundle.manifest.layout.shared_size
        self._keep_past()
        self.model, _ = self.model_at_hand()

    def take(self, content: bytes, bundle: Bundle) -> None:
        """Keep a bundle that the fleet gave, and use it; what was of the one before goes."""
        with self.store.transaction():
            self.store.put_blob(content)
            self.store.set_fact(FACT_BUNDLE, bundle.hash.encode())
            for fact in (FACT_MODEL, FACT_MEMORY, FACT_BEFORE):
                self.store.set_fact(fact, None)
        self.use(bundle)

    def pin_bundle(self) -> None:
        """Keep the bundle in use: another release of the application may bring another one."""
        if self.store.fact(FACT_BUNDLE) is None:
            with self.store.transaction():
                self.store.put_blob(self.bundle.to_bytes())
                self.store.set_fact(FACT_BUNDLE, self.bundle.hash.encode())

    def memory(self, kept: bytes | None = None) -> DeviceMemory:
        """What the device keeps from round to round: what is stored, unless this is newer."""
        kept = self.store.fact(FACT_MEMORY) if kept is None else kept
        return DeviceMemory.from_bytes(kept, self.bundle.weights[self.shared_size :])

    def model_at_hand(self) -> tuple[ModelRef, bytes]:
        """The model last installed, or the bundle's own weights as version 0; and its bytes."""
        kept = self.store.fact(FACT_MODEL)
        if kept is not None:
            model = decode_model(kept)
            shared = self.store.blob(model.hash)
            if shared is not None and model.bytes % (4 * self.shared_size) == 0:
                return model, shared
        weights = self.bundle.weights[: self.shared_size]
        with contextlib.suppress(StoreFull):  # they are in the bundle
            self.store.put_blob(to_bytes(weights))
        return model_ref(0, weights), to_bytes(weights)

    def weights(self) -> Vector:
        """All weights `[P]` to infer with: the shared model's, and the device's private ones."""
        _, shared = self.model_at_hand()
        return np.concatenate([from_bytes(shared)[: self.shared_size], self.memory().private])

    def windows(self, purpose: str) -> WindowSet:
        """The labelled windows kept for `train` or `holdout`."""
        return WindowSet(*self.store.load_windows(purpose))

    def _bundle_at_hand(self) -> Bundle:
        """The bundle the fleet gave, or the application's own."""
        digest = self.store.fact(FACT_BUNDLE)
        kept = None if digest is None else self.store.blob(digest.decode())
        return app_bundle(self.settings.app) if kept is None else Bundle.from_bytes(kept)

    def _keep_past(self) -> None:
        """Windows of the labelled past into the store, once: some to learn from, some held out."""
        schema = self.bundle.manifest.input
        tables = "/".join(str(sorted(table.items())) for table in self.settings.sensors)
        past = f"{tables}/{self.bundle.hash}"
        if self.store.fact(FACT_HISTORY) == past.encode():
            return
        first, rest = (windows_of(list(part), schema) for part in self.past)
        now = clock.now()
        if self.store.window_count():
            self.store.clear_windows()
        with self.store.transaction():
            for purpose, windows in (("train", first), ("holdout", rest)):
                rows = zip(windows.x, windows.y, strict=True)
                self.store.add_windows(
                    [StoredWindow(x, int(y), now, purpose) for x, y in rows], now
                )
            self.store.set_fact(FACT_HISTORY, past.encode())
