"""What an agent does every second, every few and every ten minutes, so that everything stays kept
and bounded: notices into the store, energy settled, what is too old let go.
"""

from __future__ import annotations

import asyncio
import itertools

from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.energy import EnergyAccount, EnergyMeter, Reading
from hedgerow.protocol.owner import EnergyView
from hedgerow.serve.watching import Watching

KEEP_SECONDS = 1.0
SETTLE_SECONDS = 10.0
EXPIRE_SECONDS = 600.0


class Housekeeping:
    """Runs beside sensing; `keep` does at once what would otherwise wait for the next second."""

    def __init__(self, store: DeviceStore, watching: Watching, watts_per_core: float) -> None:
        self._store, self._watching = store, watching
        meter = EnergyMeter(watts_per_core=watts_per_core)
        self.energy = EnergyAccount(meter)
        self._reading: Reading = meter.joules()
        self._settled = self._began = clock.monotonic()
        self._expired = self._settled

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            self.keep()
            now = clock.monotonic()
            if now - self._settled >= SETTLE_SECONDS:
                self._settled, self._reading = now, self.energy.settle()
            if now - self._expired >= EXPIRE_SECONDS:
                self._expired = now
                self._store.expire()

    def keep(self) -> None:
        """Write notices and windows that wait; on a full disk they are counted and let go."""
        waiting = self._watching.to_keep
        if waiting:
            notices = list(waiting)
            waiting.clear()
            self._store.add_notices(notices, clock.now())
        if self._watching.windows_to_keep:
            windows = list(self._watching.windows_to_keep)
            self._watching.windows_to_keep.clear()
            # After another model came they may be of two shapes, and a batch has one.
            for _, alike in itertools.groupby(windows, key=lambda window: window.x.shape):
                self._store.add_windows(list(alike), clock.now())

    def energy_view(self) -> EnergyView:
        """Energy since the start, as it was last settled."""
        reading = self._reading
        seconds = self._settled - self._began
        return EnergyView(
            source=reading.source,
            estimated=reading.estimated,
            joules=reading.joules,
            watts=reading.joules / seconds if seconds > 0 else None,
            joules_per_inference=self.energy.per("inference"),
            joules_per_round=self.energy.per("round"),
        )
