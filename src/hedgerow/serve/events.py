"""The coordinator's half of store and forward: every event counts once, whatever is sent again.

The stream of events is read from where the last transaction ended. What was counted, the last
number of its lane and the place in the stream are kept together, so a crash at any point counts
nothing twice and skips nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from hedgerow.core.errors import PeerError
from hedgerow.io import clock
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.egress.files import day_of
from hedgerow.io.event_store import EventStore, RecentEvent
from hedgerow.io.keys import verify
from hedgerow.io.links import LinkDown, Update
from hedgerow.wire.events import Event, Item, Occurrence, encode_event, open_events

log = logging.getLogger(__name__)

SUMS_SECONDS: Final = 400 * 86_400.0
"""How long sums by day are kept."""
PURGE_EVERY: Final = 64
"""Messages after which what was counted is cleared from the stream: far fewer than one device may
have in it, or it would wait for room that nobody makes.
"""

Counted = Callable[[str, Sequence[Event]], None]
"""Called with (device, events) after they were counted for good."""


class EventSource(Protocol):
    """A coordinator's link, as far as events go."""

    def events(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        """Every stored batch from `start_sequence` on, in order, each once, forever."""

    async def purge_events(self, before_sequence: int) -> None:
        """Forget every batch with a sequence below `before_sequence`. Raises LinkDown."""


class EventCounter:
    """Counts the events of a fleet. `run` until cancelled."""

    def __init__(
        self,
        store: CoordinatorStore,
        link: EventSource,
        counted: Counted = lambda device, events: None,
    ) -> None:
        self._store = store
        self._events = EventStore(store)
        self._link = link
        self._counted = counted
        self._purged = -PURGE_EVERY  # with the first message, and only then: until one came, the
        # stream may be another one than that of which the place is known
        self.refused: Counter[str] = Counter()
        """Batches that could not be read, by reason."""
        self.again = 0
        """Events that came once more and were not counted again."""

    @property
    def store(self) -> EventStore:
        """Sums and the newest events."""
        return self._events

    async def run(self) -> None:
        """Count for ever."""
        async for messages in self._link.events(self._events.next_sequence()):
            for device, events in self.count(messages):
                self._counted(device, events)
            await self._tidy(messages[-1].sequence + 1)

    def count(self, messages: Sequence[Update]) -> list[tuple[str, list[Event]]]:
        """Messages in the order of the stream, in one transaction; what was new in them."""
        fresh: list[tuple[str, list[Event]]] = []
        with self._store.transaction():
            now = clock.now()
            day, oldest = day_of(now), day_of(now - SUMS_SECONDS)
            for message in messages:
                events = self._fresh(message)
                for kind, count in Counter(_kind(event) for event in events).items():
                    self._events.add(message.device, day, kind, count, oldest)
                if events:
                    fresh.append((message.device, events))
            self._events.keep_recent(
                RecentEvent(device, encode_event(event))
                for device, events in fresh
                for event in events
                if isinstance(event, Occurrence)
            )
            self._events.set_next_sequence(messages[-1].sequence + 1)
        return fresh

    def _fresh(self, message: Update) -> list[Event]:
        """The events of one batch that were not counted before."""
        try:
            batch = open_events(message.data, message.device, verify)
            _check_order(batch.items)
        except PeerError as error:
            log.warning("refused events of %s: %s", message.device, error)
            self.refused[error.reason] += 1
            return []
        last = self._events.last_number(message.device, batch.epoch, batch.lane)
        fresh = [item.event for item in batch.items if item.number > last]
        self.again += len(batch.items) - len(fresh)
        if fresh:
            newest = batch.items[-1].number
            place = (message.device, batch.epoch, batch.lane)
            self._events.set_last_number(*place, newest, message.sequence)
        return fresh

    async def _tidy(self, next_sequence: int) -> None:
        if self._purged <= next_sequence < self._purged + PURGE_EVERY:
            return
        try:
            await self._link.purge_events(next_sequence)
            self._purged = next_sequence
        except LinkDown as error:
            log.info("events that were counted are cleared later: %s", error)


def _check_order(items: Sequence[Item]) -> None:
    last = 0
    for item in items:
        if item.number <= last:
            raise PeerError("disordered", f"number {item.number} came after {last}")
        last = item.number


def _kind(event: Event) -> str:
    return str(event.__struct_config__.tag)
