"""Store and forward: exceptions and summaries go up, the rest stays.

What is worth telling waits in the device's outbox, within its caps, for as long as it takes; when
there is a link it goes in batches, the most important first. A batch is deleted when the fleet's
stream has it on disk. Sent twice it counts once: each priority is a lane whose numbers only go up,
and one batch at a time is on its way.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Final, Literal, Protocol

import msgspec

from hedgerow.decide.notice import Notice
from hedgerow.io import clock
from hedgerow.io.device_store import Batch, DeviceStore, OutboxItem, StoreFull
from hedgerow.io.keys import Identity
from hedgerow.io.links import LinkDown, MessageRefused
from hedgerow.io.tasks import end
from hedgerow.serve.summaries import Sums
from hedgerow.wire.events import ITEMS_MAX, Occurrence, encode_event, seal_events

log = logging.getLogger(__name__)

EXCEPTION_PRIORITY: Final = 8
SUMMARY_PRIORITY: Final = 4
FACT_SUMS: Final = "sums"
STREAMS_MAX: Final = 100_000
WAITING_MAX: Final = 10_000
KEEP_SECONDS: Final = 1.0
"""Exceptions of so long become one commit; a power loss takes no more of them."""
SAVE_SECONDS: Final = 600.0
"""How often half-made summaries are kept, and what is too old is dropped."""
AGAIN_SECONDS: Final = 5.0
_TEXT_MAX: Final = 200
_LABEL_MAX: Final = 64


class ForwardRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings `[forward]`: what is worth telling the fleet, and how much of it at once.

    Exceptions are where an alert begins or ends, every change of label, or none. Of one stream at
    most `exceptions_per_period` go out in the time of a summary, which counts the rest.
    """

    exceptions: Literal["alerts", "changes", "none"] = "alerts"
    exceptions_per_period: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 60
    summary_seconds: Annotated[float, msgspec.Meta(ge=1, le=1e7)] = 3600.0
    batch_events: Annotated[int, msgspec.Meta(ge=1, le=ITEMS_MAX)] = 1000
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024, le=4 * 2**20)] = 256 * 2**10


class EventLink(Protocol):
    """A device's link, as far as events go."""

    async def send_events(self, data: bytes, message_id: str) -> None:
        """Return when the fleet's stream has it on disk. Sending the same again is safe.

        Raises LinkDown when away or unacknowledged, MessageRefused when it will never be taken.
        """


class Forwarder:
    """One device's way up for what it decided. Use from one event loop; `run` until cancelled."""

    def __init__(
        self,
        store: DeviceStore,
        identity: Identity,
        rules: ForwardRules | None = None,
        *,
        now: Callable[[], float] = clock.now,
        monotonic: Callable[[], float] = clock.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.rules = ForwardRules() if rules is None else rules
        self.sent = 0
        """Events that the fleet's stream has."""
        self._store, self._identity = store, identity
        self._now, self._monotonic, self._sleep = now, monotonic, sleep
        self._link: EventLink | None = None
        self._up, self._paused = True, False
        self._may_send, self._some = asyncio.Event(), asyncio.Event()
        self._waiting: list[OutboxItem] = []
        self._alerting: set[str] = set()
        self._sums: dict[str, Sums] = {}
        kept = store.fact(FACT_SUMS)
        if kept is not None:
            self._sums = msgspec.msgpack.decode(kept, type=dict[str, Sums])
        self._summed = self._saved = monotonic()

    # What is told -------------------------------------------------------------------------------

    def count(self, notices: Iterable[Notice]) -> None:
        """Take decisions in: each counts in its stream's summary, exceptions also one by one."""
        for notice in notices:
            sums = self._sums.get(notice.stream)
            if sums is None:
                if len(self._sums) >= STREAMS_MAX:
                    continue
                sums = Sums(since=notice.time_seconds, labels={}, bins={})
                self._sums[notice.stream] = sums
            sums.count(notice)
            if self._is_exception(notice):
                self._tell(notice, sums)

    def _is_exception(self, notice: Notice) -> bool:
        turned = notice.alert != (notice.stream in self._alerting)
        if turned:
            (self._alerting.add if notice.alert else self._alerting.discard)(notice.stream)
        if self.rules.exceptions == "alerts":
            return turned
        return self.rules.exceptions == "changes" and (turned or notice.changed)

    def _tell(self, notice: Notice, sums: Sums) -> None:
        if sums.told >= self.rules.exceptions_per_period or len(self._waiting) >= WAITING_MAX:
            sums.withheld += 1
            return
        sums.told += 1
        event = Occurrence(
            stream=notice.stream[:_TEXT_MAX],
            time_seconds=notice.time_seconds,
            label=notice.label[:_LABEL_MAX],
            confidence=notice.confidence,
            reason=notice.reason[:_TEXT_MAX],
            alert=notice.alert,
            score=_known(notice.score),
            drift=_known(notice.drift),
            model=notice.model[:_TEXT_MAX],
        )
        self._waiting.append(
            OutboxItem(
                id=f"exception/{notice.stream}/{notice.time_seconds:.3f}",
                kind="exception",
                priority=EXCEPTION_PRIORITY,
                created_seconds=notice.time_seconds,
                body=encode_event(event),
                stream=notice.stream,
            )
        )

    def keep(self) -> None:
        """Put what waits into the outbox, and summaries when they are due; one commit.

        On a full disk it is lost, and counted there; everything else goes on.
        """
        now = self._monotonic()
        items, self._waiting = self._waiting, []
        if now - self._summed >= self.rules.summary_seconds:
            self._summed = now
            self._put_summaries(items)
        else:
            self._store.put_outbox_batch(items)
        self.nudge()
        if now - self._saved >= SAVE_SECONDS:
            self._saved = now
            self._save()

    def _put_summaries(self, items: list[OutboxItem]) -> None:
        until = self._now()
        items += [self._summary(stream, sums, until) for stream, sums in self._sums.items()]
        self._sums.clear()
        try:
            with self._store.transaction():  # or a restart would sum the same up once more
                self._store.put_outbox_batch(items)
                self._store.set_fact(FACT_SUMS, msgspec.msgpack.encode(self._sums))
        except StoreFull:
            self._store.put_outbox_batch(items)  # counts what is lost, if there is no room yet

    def _summary(self, stream: str, sums: Sums, until: float) -> OutboxItem:
        return OutboxItem(
            id=f"summary/{stream}/{sums.since:.3f}",
            kind="summary",
            priority=SUMMARY_PRIORITY,
            created_seconds=until,
            body=encode_event(sums.summary(stream, until)),
            stream=stream,
            since_seconds=sums.since,
        )

    def _save(self) -> None:
        try:
            with self._store.transaction():
                self._store.set_fact(FACT_SUMS, msgspec.msgpack.encode(self._sums))
                self._store.expire()
        except StoreFull as error:
            log.info("half-made summaries are not kept: %s", error)

    def forget(self, start: float, end: float, stream: str = "") -> None:
        """Drop what is being made of a period; call it with `DeviceStore.forget`."""
        self._waiting = [
            item
            for item in self._waiting
            if not (start <= item.created_seconds < end and stream in ("", item.stream))
        ]
        for name in list(self._sums):
            if stream in ("", name) and self._sums[name].since < end and self._now() >= start:
                del self._sums[name]
        self._save()

    # What goes up -------------------------------------------------------------------------------

    def attach(self, link: EventLink) -> None:
        """The link to use. One that is away is tried again and again; `on_state` saves that."""
        self._link = link
        self._look()

    def on_state(self, up: bool) -> None:
        """The link came up or went down."""
        self._up = up
        self._look()

    def nudge(self) -> None:
        """Look into the outbox now, not within a second: somebody else put events there."""
        self._some.set()

    @property
    def paused(self) -> bool:
        """Whether the owner lets nothing go up."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._look()

    def _look(self) -> None:
        if self._up and not self._paused and self._link is not None:
            self._may_send.set()
        else:
            self._may_send.clear()

    async def run(self) -> None:
        """Keep once a second, send while there is a link; for ever."""
        tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._send())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(tasks)

    async def close(self) -> None:
        """Keep everything that is not kept yet."""
        self.keep()
        self._save()

    async def _keep(self) -> None:
        while True:
            await self._sleep(KEEP_SECONDS)
            self.keep()

    async def _send(self) -> None:
        epoch = None
        while True:
            await self._may_send.wait()
            self._some.clear()
            try:
                epoch = epoch or self._store.outbox_epoch()
                batch = self._store.next_batch(self.rules.batch_events, self.rules.batch_bytes)
                if batch is None:
                    await self._some.wait()
                else:
                    await self._deliver(epoch, batch)
            except (LinkDown, StoreFull) as error:
                log.info("events wait in the outbox: %s", error)
                await self._sleep(AGAIN_SECONDS)

    async def _deliver(self, epoch: bytes, batch: Batch) -> None:
        assert self._link is not None
        me = self._identity
        data = seal_events(epoch, batch.priority, batch.items, me.public, me.sign)
        first, last = batch.items[0][0], batch.items[-1][0]
        message_id = f"{me.public}/{epoch.hex()}/{batch.priority}/{first}-{last}"
        dropped = None
        try:
            await self._link.send_events(data, message_id)
        except MessageRefused as error:
            log.warning("%d events are dropped: %s", len(batch.items), error)
            dropped = "refused_by_server"
        while True:
            try:
                self._store.settle_batch(batch, dropped)
                break
            except StoreFull:  # it has arrived: what fails is only to forget it
                await self._sleep(AGAIN_SECONDS)
        self.sent += 0 if dropped else len(batch.items)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
