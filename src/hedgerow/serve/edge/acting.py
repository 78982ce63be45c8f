"""Keeping actuators open: each has its own bounded queue, so that a slow one holds up nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import numpy as np

from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Actuator, ActuatorDown
from hedgerow.io.surroundings import Surroundings
from hedgerow.serve.edge.reading import Health, Pause

WAITING_MAX = 10_000
"""Notices that wait for one actuator; then the oldest goes, and is counted."""
BATCH_MAX = 500
TRIES = 3
"""After so many errors that speak of a value, notices go one by one; after as many again, the one
that it is goes.
"""
_OF_A_VALUE = (ValueError, TypeError, ArithmeticError, LookupError)


class Acting:
    """One actuator and what waits for it."""

    def __init__(
        self, actuator: Actuator, around: Surroundings, health: Health, rng: np.random.Generator
    ) -> None:
        self._actuator, self._around, self.health = actuator, around, health
        self._waiting: deque[Notice] = deque()
        self._some = asyncio.Event()
        self._alerting: set[str] = set()
        """Streams whose alert was told and whose end was not; no more than there are streams."""
        self._pause = Pause(around, rng)
        self._choked = 0
        """Errors of that kind since a batch was taken in."""

    def tell(self, notices: Iterable[Notice]) -> None:
        """Queue what this actuator's `when` lets through."""
        for notice in notices:
            if self._passes(notice):
                if len(self._waiting) >= WAITING_MAX:
                    self._waiting.popleft()
                    self.health.dropped += 1
                self._waiting.append(notice)
        if self._waiting:
            self._some.set()

    def _passes(self, notice: Notice) -> bool:
        """An alert is told where it begins and where it ends, not with every window between."""
        turned = notice.decided and notice.alert != (notice.stream in self._alerting)
        if turned and notice.alert:
            self._alerting.add(notice.stream)
        elif turned:
            self._alerting.discard(notice.stream)
        when = self._actuator.when
        return when == "always" or turned or (when == "change" and notice.changed)

    async def run(self) -> None:
        """Act for ever.

        Raises:
            UsageError: its settings cannot work.
        """
        batch: list[Notice] = []
        while True:
            try:
                async with self._actuator.open(self._around) as act:
                    self.health.up = True
                    while True:
                        await self._some.wait()
                        batch = self._take()
                        await act(batch)
                        self.health.count += len(batch)
                        self.health.last_error = ""
                        # One by one until nothing waits: the bad one may be any of them.
                        self._choked = min(self._choked, TRIES) if self._waiting else 0
                        self._pause.reset()  # what opens and then fails is not well yet
                        batch = []
            except UsageError as error:
                raise UsageError(f"actuator {self.health.name}: {error}") from error
            except Exception as error:  # noqa: BLE001 - anybody's actuator; the others go on
                self._choked += isinstance(error, _OF_A_VALUE) and bool(batch)
                if len(batch) == 1 and self._choked >= 2 * TRIES:
                    self._choked, self.health.dropped = TRIES, self.health.dropped + 1
                else:
                    self._put_back(batch)
                batch = []
                self.health.up = False
                expected = isinstance(error, ActuatorDown)
                self.health.failed(f"actuator {self.health.name}", error, expected=expected)
            await self._pause.wait()

    def _take(self) -> list[Notice]:
        most = BATCH_MAX if self._choked < TRIES else 1
        batch = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._some.clear()
        return batch

    def _put_back(self, batch: list[Notice]) -> None:
        """What was not acted on goes first again, as far as there is room."""
        room = WAITING_MAX - len(self._waiting)
        kept = batch[max(0, len(batch) - room) :]
        self.health.dropped += len(batch) - len(kept)
        self._waiting.extendleft(reversed(kept))
        if self._waiting:
            self._some.set()
