"""The running agent as its owner deals with it: what the console shows and its switches do."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from hedgerow import __version__
from hedgerow.io import clock
from hedgerow.io import device_store as stored
from hedgerow.io.archive import store_parts
from hedgerow.io.memory import resident_bytes
from hedgerow.protocol import owner as seen
from hedgerow.protocol.measures import Family
from hedgerow.serve.edge.reading import Health

if TYPE_CHECKING:
    from hedgerow.serve.agent import DeviceAgent

log = logging.getLogger(__name__)

SHARE_SECONDS = 5.0
_KINDS: tuple[Literal["windows", "notices", "outbox", "models"], ...] = (
    *("windows", "notices", "outbox", "models"),
)
WORST_SHOWN = 8
"""Streams in the view at a glance."""


class AgentOwner:
    """Implements `hedgerow.protocol.owner.Owner` for one agent, in the agent's event loop."""

    def __init__(self, agent: DeviceAgent) -> None:
        self._agent = agent
        self._started = clock.monotonic()
        self._used = (time.process_time(), self._started)
        self._share: float | None = None

    @property
    def name(self) -> str:
        """What people call the device."""
        return self._agent.name

    # At a glance ----------------------------------------------------------------------------------

    def view(self) -> seen.OwnerView:
        """The device at a glance."""
        agent, now = self._agent, clock.monotonic()
        board = agent.watching.board
        return seen.OwnerView(
            device=agent.identity.public,
            name=agent.name,
            app=agent.bundle.manifest.name,
            version=__version__,
            time_seconds=clock.now(),
            up_seconds=now - self._started,
            streams=board.counts(now),
            states=board.states(now),
            worst=board.page(seen.StreamQuery(size=WORST_SHOWN), now).streams,
            events=list(agent.watching.events),
            model=agent.model_view(),
            stored=self._stored(),
            sharing=self._sharing(),
            sent=self._sent(),
            energy=agent.energy_view(),
            load=self._load(now),
            sensors=self._sensors(),
        )

    def streams(self, query: seen.StreamQuery) -> seen.StreamPage:
        """One page of streams."""
        return self._agent.watching.board.page(query, clock.monotonic())

    def stream(self, name: str) -> seen.StreamDetail | None:
        """Everything about one stream; None: no such stream."""
        watching, store = self._agent.watching, self._agent.store
        detail = watching.board.detail(name, clock.monotonic())
        if detail is None:
            return None
        return msgspec.structs.replace(
            detail,
            signal=watching.signal(name),
            events=[
                seen.Event(
                    stream=notice.stream,
                    time_seconds=notice.time_seconds,
                    label=notice.label,
                    reason=notice.reason,
                    alert=notice.alert,
                )
                for notice in store.notices(name, limit=50)
            ],
            given=[
                seen.GivenLabel(
                    stream=given.stream,
                    start_seconds=given.start_seconds,
                    end_seconds=given.end_seconds,
                    label=given.label,
                )
                for given in store.given_labels(name)
            ],
        )

    def sent(self, query: seen.SentQuery) -> seen.SentPage:
        """One page of the egress record, newest first."""
        entries = self._agent.egress.entries(
            limit=query.size + 1, before=query.before, kind=query.kind
        )
        shown = [
            seen.SentEntry(
                number=entry.number,
                time_seconds=entry.time_seconds,
                to=entry.to,
                kind=entry.kind,
                purpose=entry.purpose,
                size=entry.size,
                digest=entry.digest,
                hash=entry.hash,
            )
            for entry in entries[: query.size]
        ]
        return seen.SentPage(entries=shown, more=len(entries) > query.size)

    def measures(self) -> Sequence[Family]:
        """What `/metrics` tells beyond what follows from `view`."""
        return self._agent.watching.measures()

    def touched(self, period: seen.Period) -> seen.Touched:
        """What `forget` would erase."""
        return _touched(self._agent.store.touched(*_span(period)))

    def _stored(self) -> seen.StoredView:
        store, bundle = self._agent.store, self._agent.bundle
        kept_now = store.kept()
        kept = [
            seen.Kept(
                kind=kind,
                count=of.count,
                bytes=of.bytes,
                bytes_max=of.bytes_max,
                oldest_seconds=of.oldest_seconds,
                newest_seconds=of.newest_seconds,
            )
            for kind, of in ((kind, kept_now[kind]) for kind in _KINDS)
        ]
        totals = self._agent.egress.totals()
        record = seen.Kept(kind="egress", count=totals.messages, bytes=self._agent.egress.bytes())
        labels = bundle.manifest.output.labels
        labelled = {
            labels[label] if 0 <= label < len(labels) else "": count
            for label, count in store.labels().items()
        }
        return seen.StoredView(
            kept=[*kept, record],
            labelled={name: count for name, count in labelled.items() if name},
            drops=store.drops(),
            disk_free_bytes=shutil.disk_usage(self._agent.settings.state).free,
            full=store.full,
        )

    def _sharing(self) -> seen.SharingView:
        agent = self._agent
        shell, fleet, coordinator = agent.sharing.shell, "", ""
        if agent.sharing.enrolment is not None:
            fleet, coordinator = agent.sharing.enrolment.fleet, agent.sharing.enrolment.coordinator
        task = None
        if shell is not None and shell.state.offer is not None:
            task = seen.TaskView(
                round=shell.state.offer.round,
                phase="training" if shell.state.phase == "training" else "invited",
                purpose=f"learn {agent.bundle.manifest.name} together",
            )
        return seen.SharingView(
            fleet=fleet,
            coordinator=coordinator,
            online=shell is not None and shell.state.online,
            paused=agent.paused_seconds is not None,
            paused_seconds=agent.paused_seconds,
            task=task,
            waiting_messages=agent.store.outbox_count(),
            waiting_bytes=agent.store.outbox_bytes(),
        )

    def _sent(self) -> seen.SentView:
        totals = self._agent.egress.totals()
        today = time.strftime("%Y-%m-%d", time.gmtime(clock.now()))
        of_today = totals.days.get(today, {})
        return seen.SentView(
            messages=totals.messages,
            bytes=totals.bytes,
            bytes_today=sum(kind.bytes for kind in of_today.values()),
            classes=[
                seen.SentClass(
                    kind=kind,
                    messages=sums.messages,
                    bytes=sums.bytes,
                    messages_today=of_today[kind].messages if kind in of_today else 0,
                    bytes_today=of_today[kind].bytes if kind in of_today else 0,
                )
                for kind, sums in totals.kinds.items()
            ],
            days=[
                seen.SentDay(day=day, bytes={kind: sums.bytes for kind, sums in kinds.items()})
                for day, kinds in sorted(totals.days.items())[-30:]
            ],
            head=totals.head,
            signed_seconds=totals.signed_seconds,
        )

    def _load(self, now: float) -> seen.LoadView:
        agent = self._agent
        used = time.process_time()
        before, since = self._used
        if now - since >= SHARE_SECONDS:
            self._used, self._share = (used, now), (used - before) / (now - since)
        dropped = {f"{one.name} (actuator)": one.dropped for one in agent.edge.actuators}
        engine = agent.edge.engine
        dropped |= {
            "no model answered": agent.edge.unanswered,
            "samples did not fit the model": engine.unfit,
            "more streams than streams_max": engine.streams.refused,
        }
        return seen.LoadView(
            cpu_seconds=used,
            cpu_share=self._share,
            resident_bytes=resident_bytes(agent.process),
            windows=agent.watching.windows,
            windows_per_second=agent.watching.windows_per_second(),
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def _sensors(self) -> list[seen.SensorView]:
        edge = self._agent.edge
        return [
            *(_health(one, "sensor") for one in edge.sensors),
            *(_health(one, "actuator") for one in edge.actuators),
        ]

    # Switches -------------------------------------------------------------------------------------

    async def verify(self) -> seen.Verified:
        """Check the whole egress record anew, from its first entry, off the event loop."""
        found = await asyncio.to_thread(self._agent.egress.verify)
        return seen.Verified(
            good=found.good,
            entries=found.entries,
            checkpoints=found.checkpoints,
            bad=found.bad,
            why=found.why,
            key=found.device,
            head=found.head,
        )

    async def pause(self, paused: bool) -> None:
        """Stop or allow everything that goes to the fleet; durable before it returns."""
        self._agent.pause(paused)

    async def decline(self) -> bool:
        """Refuse the task at hand; False: there was none."""
        shell = self._agent.sharing.shell
        return shell is not None and shell.decline("the owner declined")

    async def label(self, given: seen.GivenLabel) -> seen.Touched:
        """Label a period of one stream; what learns from labels is told."""
        count = self._agent.label(given.stream, given.start_seconds, given.end_seconds, given.label)
        return seen.Touched(windows=count)

    async def forget(self, period: seen.Period) -> seen.Touched:
        """Overwrite windows and notices of a period, and what waits to be sent of them."""
        return _touched(self._agent.forget(*_span(period)))

    async def delete(self, record: bool) -> seen.Touched:
        """Overwrite all that was sensed, decided or learned here; with `record` also what left."""
        return _touched(self._agent.erase(record))

    def export(self) -> AsyncIterator[seen.Part]:
        """All that is stored, file by file."""
        agent = self._agent
        return store_parts(
            agent.store,
            about=msgspec.json.encode(self.view()),
            record=agent.egress.export(),
            models={"bundle.hedgerow": agent.models.exported()},
        )

    async def export_record(self) -> AsyncIterator[bytes]:
        """The egress record as `hedgerow egress verify` reads it."""
        pieces: Iterator[bytes] = self._agent.egress.export()
        while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
            yield piece


def _span(period: seen.Period) -> tuple[float, float, str]:
    return period.start_seconds, period.end_seconds, period.stream


def _touched(found: stored.Forgotten) -> seen.Touched:
    return seen.Touched(windows=found.windows, bytes=found.bytes, notices=found.notices)


def _health(one: Health, role: str) -> seen.SensorView:
    silent = "it has ended" if one.count else "nothing came yet"
    return seen.SensorView(
        name=one.name,
        kind=one.kind,
        role="actuator" if role == "actuator" else "sensor",
        up=one.up,
        why=one.last_error or ("" if one.up else silent),
        failures=one.failures,
        count=one.count,
    )
