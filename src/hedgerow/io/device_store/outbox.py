"""The outbox: what waits for an acknowledgement, by priority, bounded in bytes and age."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hedgerow.io import entropy
from hedgerow.io.device_store.database import Database
from hedgerow.io.device_store.rows import ROW_BYTES, UPDATE, Batch, Kept, OutboxItem

FACT_EPOCH: Final = "outbox epoch"
EPOCH_BYTES: Final = 8
_BYTES: Final = "SELECT TOTAL(size) FROM outbox"
_ITEM: Final = "id, kind, priority, created, body, stream, since"
_INSERT: Final = (
    "INSERT INTO outbox (id, kind, priority, stream, since, created, added, size, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_PERIOD: Final = f"kind <> '{UPDATE}' AND created >= ? AND since < ? AND (? = '' OR stream = ?)"


def cost_of(item: OutboxItem) -> int:
    """What one message counts against the byte cap: about what it takes on disk."""
    return len(item.body) + len(item.id) + len(item.stream) + ROW_BYTES


class Outbox(Database):
    """The outbox of a device's store."""

    _going: tuple[int, int] | None = None
    """Priority and last number of the batch that is on its way: no room is made with it."""

    def put_outbox(self, item: OutboxItem) -> bool:
        """Keep `item` until it is acknowledged; whether it is kept now.

        An id that is there already changes nothing. To make room the lowest priority goes first,
        within it the oldest, and never one above the newcomer's: then the newcomer is dropped.
        """
        return self.put_outbox_batch((item,)) == 1

    def put_outbox_batch(self, items: Sequence[OutboxItem]) -> int:
        """As `put_outbox`, one after the other, in one commit; how many are kept now."""
        if not items:
            return 0
        return self._write_or_lose(len(items), lambda: self._put(items))

    def _put(self, items: Sequence[OutboxItem]) -> int:
        cost = sum(map(cost_of, items))
        if self.outbox_bytes() + cost <= self.limits.outbox_bytes_max:
            self._insert(items, cost)
            return len(items)
        return sum(map(self._put_one, items))

    def _put_one(self, item: OutboxItem) -> bool:
        if self._number("SELECT COUNT(*) FROM outbox WHERE id = ?", item.id):
            return True
        if not self._make_room(item):
            self._count_drops("outbox_full", 1)
            return False
        self._insert((item,), cost_of(item))
        return True

    def _insert(self, items: Sequence[OutboxItem], cost: int) -> None:
        added = self._timeline.seconds()
        found = self._db.executemany(
            _INSERT,
            [
                (
                    *(item.id, item.kind, item.priority, item.stream),
                    item.created_seconds if item.since_seconds is None else item.since_seconds,
                    *(item.created_seconds, added, cost_of(item), item.body),
                )
                for item in items
            ],
        ).rowcount
        if found == len(items):
            self._add("outbox", cost)
        else:  # some were there already
            self._sums.pop("outbox", None)

    def outbox(self, limit: int = 100, kind: str | None = None) -> list[OutboxItem]:
        """What waits, highest priority first, within it oldest first; of one kind or of all."""
        rows = self._db.execute(
            f"SELECT {_ITEM} FROM outbox WHERE ? IS NULL OR kind = ? "  # noqa: S608
            "ORDER BY priority DESC, number LIMIT ?",
            (kind, kind, limit),
        )
        return [_item(row) for row in rows]

    def outbox_ids(self, kind: str) -> list[str]:
        """The ids of all that waits of one kind, in the order in which it goes."""
        rows = self._db.execute(
            "SELECT id FROM outbox WHERE kind = ? ORDER BY priority DESC, number", (kind,)
        )
        return [row[0] for row in rows]

    def outbox_item(self, item_id: str) -> OutboxItem | None:
        """The message that waits under that id; None when it was dropped or acknowledged."""
        row = self._db.execute(
            f"SELECT {_ITEM} FROM outbox WHERE id = ?",  # noqa: S608
            (item_id,),
        ).fetchone()
        return None if row is None else _item(row)

    def acknowledge(self, item_id: str) -> bool:
        """Delete a delivered item; whether it was there."""
        with self.transaction():
            return self._delete("id = ?", item_id) == 1

    def drop_outbox(self, item_id: str, reason: str) -> bool:
        """Delete an item that is pointless now, counted under `reason`; whether it was there."""
        with self.transaction():
            there = self.acknowledge(item_id)
            self._count_drops(reason, int(there))
        return there

    # Events: all but updates. They go in batches, each priority in the order of its numbers.

    def outbox_epoch(self) -> bytes:
        """Names the sequence of numbers: another one after the database was begun anew."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (FACT_EPOCH,)).fetchone()
        if row is not None:
            return bytes(row[0])
        epoch = entropy.secret_bytes(EPOCH_BYTES)
        with self.transaction():
            self._db.execute("INSERT INTO facts VALUES (?, ?)", (FACT_EPOCH, epoch))
        return epoch

    def next_batch(self, items_max: int, bytes_max: int) -> Batch | None:
        """The events that go next: the oldest of the highest priority; None when none waits.

        At least one, however large. They stay until `settle_batch`, whatever comes meanwhile.
        """
        top = self._db.execute(
            "SELECT priority FROM outbox WHERE kind <> ? ORDER BY priority DESC LIMIT 1", (UPDATE,)
        ).fetchone()
        if top is None:
            self._going = None
            return None
        items: list[tuple[int, bytes]] = []
        size = 0
        for number, body in self._db.execute(
            "SELECT number, body FROM outbox WHERE priority = ? AND kind <> ? "
            "ORDER BY number LIMIT ?",
            (top[0], UPDATE, items_max),
        ):
            size += len(body)
            if items and size > bytes_max:
                break
            items.append((number, body))
        self._going = (top[0], items[-1][0])
        return Batch(top[0], items)

    def settle_batch(self, batch: Batch, reason: str | None = None) -> int:
        """Delete a batch in one commit: it was delivered, or is dropped for `reason`; how many."""
        with self.transaction():
            count = self._delete(
                "priority = ? AND number BETWEEN ? AND ? AND kind <> ?",
                *(batch.priority, batch.items[0][0], batch.items[-1][0], UPDATE),
            )
            if reason is not None:
                self._count_drops(reason, count)
        self._going = None
        return count

    def outbox_bytes(self) -> int:
        """What all messages that wait cost, as the cap counts it."""
        return self._sum("outbox", _BYTES)

    def outbox_count(self) -> int:
        """How many messages wait."""
        return self._number("SELECT COUNT(*) FROM outbox")

    def expire_outbox(self, now: float = 0.0) -> int:
        """Drop what is older than the age cap; how many. Counted under `outbox_expired`."""
        with self.transaction():
            return self._expire_outbox()

    def _expire_outbox(self) -> int:
        oldest = self._timeline.seconds() - self.limits.outbox_age_seconds_max
        first = self._db.execute("SELECT added FROM outbox ORDER BY number LIMIT 1").fetchone()
        if first is None or first[0] >= oldest:
            return 0
        priority, last = self._going or (-1, -1)
        count = self._delete(
            "number < COALESCE((SELECT number FROM outbox WHERE added >= ? ORDER BY number LIMIT 1)"
            ", 9223372036854775807) AND NOT (priority = ? AND number <= ? AND kind <> ?)",
            *(oldest, priority, last, UPDATE),
        )
        self._count_drops("outbox_expired", count)
        return count

    def _make_room(self, item: OutboxItem) -> bool:
        """Drop from the bottom until `item` fits; False, with nothing dropped, when it cannot."""
        excess = self.outbox_bytes() + cost_of(item) - self.limits.outbox_bytes_max
        victims: list[tuple[int]] = []
        freed = 0
        for number, size in self._victims(item.priority):
            if freed >= excess:
                break
            victims.append((number,))
            freed += size
        if freed < excess:
            return False
        self._db.executemany("DELETE FROM outbox WHERE number = ?", victims)
        self._add("outbox", -freed)
        self._count_drops("outbox_full", len(victims))
        return True

    def _victims(self, priority: int) -> Iterable[tuple[int, int]]:
        """(number, size) of what may go for one of that priority, the first to go first."""
        going, last = self._going or (-1, -1)
        return self._db.execute(
            "SELECT number, size FROM outbox WHERE priority <= ? "
            "AND NOT (priority = ? AND number <= ?) ORDER BY priority, number",
            (priority, going, last),
        )

    def _delete(self, where: str, *values: Any) -> int:
        """Delete what a condition of this module names; how many."""
        query = f"DELETE FROM outbox WHERE {where} RETURNING size"  # noqa: S608 - no value in it
        sizes = self._db.execute(query, values).fetchall()
        self._add("outbox", -sum(size for (size,) in sizes))
        return len(sizes)

    def _touched_outbox(self, start: float, end: float, stream: str) -> int:
        return self._number(
            f"SELECT COUNT(*) FROM outbox WHERE {_PERIOD}",  # noqa: S608 - no value in it
            *(start, end, stream, stream),
        )

    def _forget_outbox(self, start: float, end: float, stream: str) -> int:
        count = self._delete(_PERIOD, start, end, stream, stream)
        self._count_drops("forgotten", count)
        return count

    def _kept_outbox(self) -> Kept:
        count, first, last = self._db.execute(
            "SELECT COUNT(*), MIN(created), MAX(created) FROM outbox"
        ).fetchone()
        return Kept(count, self.outbox_bytes(), self.limits.outbox_bytes_max, first, last)


def _item(row: tuple[Any, ...]) -> OutboxItem:
    item_id, kind, priority, created, body, stream, since = row
    since = None if since == created else since
    return OutboxItem(item_id, kind, priority, created, body, stream, since)
