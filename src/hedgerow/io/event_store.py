"""What a coordinator keeps of events: the last number of each lane, sums by day, the newest.

In the coordinator's own database: a number and what was counted with it are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import sqlalchemy as sa

from hedgerow.io.coordinator_store import CoordinatorStore

EPOCHS_MAX: Final = 4
"""Sequences of numbers that are remembered of one device: it begins a new one with a new disk."""
RECENT_MAX: Final = 10_000
FACT_NEXT: Final = "events next"

_metadata = sa.MetaData()
_lanes = sa.Table(
    "event_lanes",
    _metadata,
    sa.Column("device", sa.String(56), primary_key=True),
    sa.Column("epoch", sa.LargeBinary(8), primary_key=True),
    sa.Column("lane", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
_sums = sa.Table(
    "event_sums",
    _metadata,
    sa.Column("device", sa.String(56), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)
_recent = sa.Table(
    "event_recent",
    _metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("device", sa.String(56), nullable=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
)


class RecentEvent(NamedTuple):
    """One exception as it was told, encoded (`wire.events`)."""

    device: str
    event: bytes


class EventStore:
    """Events in the database of a coordinator store, whose transactions it joins."""

    def __init__(self, store: CoordinatorStore) -> None:
        self._store = store
        with store.connection() as connection:
            _metadata.create_all(connection)
            newest = connection.execute(sa.select(sa.func.max(_recent.c.number))).scalar()
        self._newest = 0 if newest is None else int(newest)

    def next_sequence(self) -> int:
        """Where in the stream of events to go on."""
        kept = self._store.fact(FACT_NEXT)
        return 1 if kept is None else int(kept)

    def set_next_sequence(self, sequence: int) -> None:
        """All before it is counted."""
        self._store.set_fact(FACT_NEXT, str(sequence).encode())

    def last_number(self, device: str, epoch: bytes, lane: int) -> int:
        """The last number that was counted in a lane; 0 before the first."""
        query = sa.select(_lanes.c.number).where(
            _lanes.c.device == device, _lanes.c.epoch == epoch, _lanes.c.lane == lane
        )
        with self._store.connection() as connection:
            found = connection.execute(query).scalar()
        return 0 if found is None else int(found)

    def set_last_number(
        self, device: str, epoch: bytes, lane: int, number: int, sequence: int
    ) -> None:
        """Everything in that lane up to `number` is counted; it came with message `sequence`."""
        mine = (_lanes.c.device == device, _lanes.c.epoch == epoch, _lanes.c.lane == lane)
        with self._store.connection() as connection:
            changed = connection.execute(
                sa.update(_lanes).where(*mine).values(number=number, sequence=sequence)
            ).rowcount
            if changed:
                return
            connection.execute(
                sa.insert(_lanes).values(
                    device=device, epoch=epoch, lane=lane, number=number, sequence=sequence
                )
            )
            epochs = connection.execute(
                sa.select(_lanes.c.epoch)
                .where(_lanes.c.device == device)
                .group_by(_lanes.c.epoch)
                .order_by(sa.func.max(_lanes.c.sequence).desc())
            ).scalars()
            for old in list(epochs)[EPOCHS_MAX:]:
                connection.execute(
                    sa.delete(_lanes).where(_lanes.c.device == device, _lanes.c.epoch == old)
                )

    def add(self, device: str, day: str, kind: str, count: int, oldest_day: str = "") -> None:
        """Count events of one kind, on the day (UTC) they came; what is older than that goes."""
        mine = (_sums.c.device == device, _sums.c.day == day, _sums.c.kind == kind)
        with self._store.connection() as connection:
            changed = connection.execute(
                sa.update(_sums).where(*mine).values(count=_sums.c.count + count)
            ).rowcount
            if not changed:
                connection.execute(
                    sa.insert(_sums).values(device=device, day=day, kind=kind, count=count)
                )
                connection.execute(sa.delete(_sums).where(_sums.c.day < oldest_day))

    def sums(self, device: str = "") -> dict[tuple[str, str], int]:
        """Events by (day, kind), of one device or of all ("")."""
        query = sa.select(_sums.c.day, _sums.c.kind, sa.func.sum(_sums.c.count))
        if device:
            query = query.where(_sums.c.device == device)
        with self._store.connection() as connection:
            rows = connection.execute(query.group_by(_sums.c.day, _sums.c.kind)).all()
        return {(day, kind): int(count) for day, kind, count in rows}

    def keep_recent(self, events: Iterable[RecentEvent]) -> None:
        """Keep the newest 10,000 to look at."""
        rows = []
        for one in events:
            self._newest += 1
            rows.append({"number": self._newest, "device": one.device, "event": one.event})
        if not rows:
            return
        with self._store.connection() as connection:
            connection.execute(sa.insert(_recent), rows[-RECENT_MAX:])
            connection.execute(
                sa.delete(_recent).where(_recent.c.number <= self._newest - RECENT_MAX)
            )

    def recent(self, limit: int = 100) -> list[RecentEvent]:
        """The newest, newest first."""
        query = sa.select(_recent.c.device, _recent.c.event)
        with self._store.connection() as connection:
            rows = connection.execute(query.order_by(_recent.c.number.desc()).limit(limit)).all()
        return [RecentEvent(device, bytes(event)) for device, event in rows]
