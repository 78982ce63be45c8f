"""What every stream did lately: the last decision of each, ten minutes and a day of history.

    board = Board()
    board.tell(notices, now=clock.monotonic())
    board.page(StreamQuery(search="press"), clock.monotonic())

Memory is bounded: about 3.5 kB a stream. Time is handed in; `now` is monotonic seconds and tells
how long a stream has been silent, `time_seconds` of a decision is the stream's own clock, which may
be anything (a replay's recordings are years old).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow.decide.notice import Notice
from hedgerow.protocol.history import NO_LABEL, Ring, label_of
from hedgerow.protocol.owner_streams import (
    STATES,
    StreamCounts,
    StreamDetail,
    StreamPage,
    StreamQuery,
    StreamView,
)

MINUTES: Final = (2.0, 300)
DAY: Final = (300.0, 288)
"""Seconds a step, and steps kept."""

LABELS_MAX: Final = 254
OTHER: Final = 254
SCORE_MAX: Final = 60_000.0
ROWS_FIRST: Final = 16
LETTERS_MAX: Final = 10_000

_ALERT, _DRIFT, _QUIET, _LEARNING, _FINE = range(len(STATES))
_LETTERS: Final = np.array([state[0] for state in STATES])


class Board:
    """Rows for streams, grown as they come up to `streams_max`; `unseen` counts what came beyond.

    A stream that gave nothing for `quiet_after_seconds` is quiet.
    """

    def __init__(self, *, streams_max: int = 4096, quiet_after_seconds: float = 60.0) -> None:
        self.streams_max, self.quiet_after_seconds = streams_max, quiet_after_seconds
        self.unseen = 0
        self.labels: list[str] = []
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._by_name: NDArray[np.int64] | None = None
        self._texts: list[tuple[str, str]] = []  # reason and model
        self._numbers: dict[str, int] = {}
        self._latest = np.zeros(0, _LATEST)
        self._minutes, self._day = Ring(*MINUTES), Ring(*DAY)

    def row(self, stream: str) -> int:
        """The row of a stream, made when it is new; -1: the board is full."""
        row = self._rows.get(stream)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
        elif len(self._names) < self.streams_max:
            row = len(self._names)
            self._names.append("")
            self._texts.append(("", ""))
            self._make_room(row + 1)
        else:
            return -1
        self._rows[stream], self._names[row] = row, stream
        self._by_name = None
        self._latest[row] = _NOTHING
        self._minutes.clear(row)
        self._day.clear(row)
        return row

    def label_number(self, label: str) -> int:
        """The number of a label in `push`, made when it is new; beyond 254 all are "other"."""
        number = self._numbers.get(label)
        if number is None:
            if len(self.labels) >= LABELS_MAX:
                return OTHER
            number = self._numbers[label] = len(self.labels)
            self.labels.append(label)
        return number

    def tell(
        self, notices: Sequence[Notice], now: float, *, every_reason: bool = True
    ) -> list[int]:
        """Take in decisions as they are told, oldest first; gives the row of each, -1: no room.

        With their reasons, which cost the most; or only those of changes and alerts.
        """
        if not notices:
            return []
        rows = [self.row(notice.stream) for notice in notices]
        for row, notice in zip(rows, notices, strict=True):
            if row >= 0 and (every_reason or notice.changed or notice.alert):
                self._texts[row] = (notice.reason, notice.model)
        self.push(
            rows,
            now,
            seconds=[notice.time_seconds for notice in notices],
            labels=[self.label_number(notice.label) for notice in notices],
            confidences=[notice.confidence for notice in notices],
            scores=[notice.score for notice in notices],
            drifts=[notice.drift for notice in notices],
            alerts=[notice.alert for notice in notices],
        )
        return rows

    def push(
        self,
        rows: ArrayLike,
        now: float,
        *,
        seconds: ArrayLike,
        labels: ArrayLike,
        confidences: ArrayLike,
        scores: ArrayLike = np.nan,
        drifts: ArrayLike = np.nan,
        alerts: ArrayLike = False,
    ) -> None:
        """Take in a batch of B windows at once, oldest first: `rows` from `row`, labels by number.

        Everything is `[B]` or one value for all. NaN: not measured. Reasons stay as last told.
        """
        places = np.atleast_1d(np.asarray(rows, np.int64))
        here = places >= 0
        columns = [
            np.broadcast_to(np.asarray(column, kind), places.shape)[here]
            for column, kind in (
                (seconds, np.float64),
                (labels, np.uint8),
                (confidences, np.float32),
                (scores, np.float32),
                (drifts, np.float32),
                (alerts, np.bool_),
            )
        ]
        self.unseen += int(len(places) - np.count_nonzero(here))
        places = places[here]
        if len(places) == 0:
            return
        times, numbers, sure, far, moved, alert = columns
        np.minimum(far, SCORE_MAX, out=far)
        latest = self._latest
        # Of several windows of one stream the last assignment holds, which is the newest.
        latest["heard"][places] = now
        latest["seconds"][places] = times
        latest["label"][places] = numbers
        latest["confidence"][places] = sure
        latest["score"][places] = far
        latest["drift"][places] = moved
        latest["alert"][places] = alert
        for ring in (self._minutes, self._day):
            ring.add(places, times, far, sure, numbers)

    def set_learning(self, rows: ArrayLike, learning: ArrayLike) -> None:
        """Say of streams whether their normal is still being learned; rows of -1 are left out."""
        places = np.atleast_1d(np.asarray(rows, np.int64))
        here = places >= 0
        given = np.broadcast_to(np.asarray(learning, np.bool_), places.shape)
        self._latest["learning"][places[here]] = given[here]

    def forget(self, stream: str) -> bool:
        """Drop everything of a stream and free its row; whether it was there."""
        row = self._rows.pop(stream, None)
        if row is None:
            return False
        self._by_name = None
        self._names[row], self._texts[row] = "", ("", "")
        self._latest[row] = _NOTHING
        self._free.append(row)
        return True

    def clear(self) -> None:
        """Drop everything."""
        for stream in list(self._rows):
            self.forget(stream)

    # What is shown --------------------------------------------------------------------------------

    def counts(self, now: float) -> StreamCounts:
        """How many streams are in each state."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        counts = np.bincount(self._states(rows, now), minlength=len(STATES))
        by_state = dict(zip(STATES, map(int, counts), strict=True))
        return StreamCounts(total=len(rows), **by_state)

    def states(self, now: float) -> str:
        """The first letter of each stream's state, in order of name, of at most `LETTERS_MAX`."""
        if self._by_name is None:
            names = sorted(self._rows)[:LETTERS_MAX]
            self._by_name = np.array([self._rows[name] for name in names], np.int64)
        return "".join(_LETTERS[self._states(self._by_name, now)])

    def page(self, query: StreamQuery, now: float) -> StreamPage:
        """One page of the streams that fit `query`; a page beyond the last gives the last."""
        wanted = query.search.casefold()
        rows = np.array(
            [row for name, row in self._rows.items() if self._fits(name, row, wanted)], np.int64
        )
        states = self._states(rows, now)
        if query.state:
            kept = states == STATES.index(query.state)
            rows, states = rows[kept], states[kept]
        matched = len(rows)
        pages = max(1, -(-matched // query.size))
        page = min(query.page, pages - 1)
        order = self._order(rows, states, query.order)[page * query.size : (page + 1) * query.size]
        views = [self._view(int(rows[at]), int(states[at]), now) for at in order]
        return StreamPage(matched=matched, page=page, pages=pages, streams=views)

    def detail(self, stream: str, now: float) -> StreamDetail | None:
        """Everything the board has of a stream; None: no such stream."""
        row = self._rows.get(stream)
        if row is None:
            return None
        silent = now - float(self._latest["heard"][row])
        state = int(self._states(np.array([row]), now)[0])
        return StreamDetail(
            stream=self._view(row, state, now),
            minutes=self._minutes.history(row, silent, self.labels),
            day=self._day.history(row, silent, self.labels),
        )

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._latest):
            return
        size = min(self.streams_max, max(ROWS_FIRST, 2 * len(self._latest)))
        grown = np.zeros(size, _LATEST)
        grown[: len(self._latest)] = self._latest
        self._latest = grown
        self._minutes.grow(size)
        self._day.grow(size)

    def _fits(self, name: str, row: int, wanted: str) -> bool:
        if not wanted or wanted in name.casefold():
            return True
        return wanted in self._label(row).casefold()

    def _label(self, row: int) -> str:
        return label_of(int(self._latest["label"][row]), self.labels) or ""

    def _states(self, rows: NDArray[np.int64], now: float) -> NDArray[np.int64]:
        latest = self._latest[rows]
        silent = now - latest["heard"] > self.quiet_after_seconds
        moved = latest["drift"] >= 1.0  # NaN is not
        cases = [latest["alert"] & ~silent, moved & ~silent, silent, latest["learning"]]
        return np.select(cases, [_ALERT, _DRIFT, _QUIET, _LEARNING], _FINE).astype(np.int64)

    def _order(
        self, rows: NDArray[np.int64], states: NDArray[np.int64], order: str
    ) -> NDArray[np.int64]:
        names = np.argsort(np.array([self._names[row] for row in rows], np.str_), kind="stable")
        if order == "name":
            return names
        rank = np.empty(len(rows), np.int64)
        rank[names] = np.arange(len(rows))
        latest = self._latest[rows]
        if order == "newest":
            return np.lexsort((rank, -latest["seconds"]))
        # Within a state the farthest from normal first; where nothing scores, the least sure.
        badness = np.where(np.isnan(latest["score"]), -latest["confidence"], latest["score"])
        return np.lexsort((rank, -np.nan_to_num(badness, nan=-SCORE_MAX), states))

    def _view(self, row: int, state: int, now: float) -> StreamView:
        latest = self._latest[row]
        reason, model = self._texts[row]
        heard = float(latest["heard"])
        return StreamView(
            stream=self._names[row],
            state=STATES[state],
            label=self._label(row),
            confidence=_known(latest["confidence"]),
            reason=reason,
            score=_known(latest["score"]),
            drift=_known(latest["drift"]),
            time_seconds=_known(latest["seconds"]),
            model=model,
            recent=self._minutes.recent(row, now - heard),
        )


_LATEST = np.dtype(
    [
        ("heard", np.float64),
        ("seconds", np.float64),
        ("confidence", np.float32),
        ("score", np.float32),
        ("drift", np.float32),
        ("label", np.uint8),
        ("alert", np.bool_),
        ("learning", np.bool_),
    ]
)
_NOTHING = np.array((-np.inf, np.nan, np.nan, np.nan, np.nan, NO_LABEL, False, False), _LATEST)


def _known(value: np.floating) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
