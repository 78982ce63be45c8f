"""What an agent remembers of what it saw: the board of all streams, recent events, loads, times."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from hedgerow.decide.notice import Notice
from hedgerow.io import clock
from hedgerow.io.device_store import UNLABELLED, StoredWindow
from hedgerow.io.device_store.windows import SEEN
from hedgerow.protocol.board import Board
from hedgerow.protocol.measures import Family, Histogram, by_label, counter
from hedgerow.protocol.owner import Event, Signal
from hedgerow.serve.edge.engine import LEARNING
from hedgerow.serve.edge.streams import Cut

EVENTS_SHOWN = 40
KEPT_WAITING_MAX = 5_000
"""Notices that wait to be written into the store; then the oldest goes."""
ALERT_WINDOWS = 64
MINUTE_SECONDS = 60.0
QUIET_SECONDS = 300.0
"""After so long without an exception the next one is a new one."""
WINDOWS_WAITING_MAX = 256
TOLD_WHOLE = 16
"""In a larger batch only changes and alerts are told with their reasons."""
SIGNAL_SAMPLES = 400


class Watching:
    """Takes in judged batches; everything is bounded and in memory. Use from the event loop."""

    def __init__(
        self, streams_max: int, keep_windows: Literal["exceptions", "all", "none"] = "none"
    ) -> None:
        self.board = Board(streams_max=streams_max)
        self.events: deque[Event] = deque(maxlen=EVENTS_SHOWN)
        self.latest: Notice | None = None
        self.windows = 0
        self.alerts = 0
        self.labels: Counter[str] = Counter()
        self.to_keep: deque[Notice] = deque(maxlen=KEPT_WAITING_MAX)
        self.windows_to_keep: deque[StoredWindow] = deque(maxlen=WINDOWS_WAITING_MAX)
        self._keep_windows = keep_windows
        self._exceptions: dict[str, tuple[int, float]] = {}
        """For each stream the windows kept of its exception, and when the last of them began."""
        self.latency = Histogram(
            "hedgerow_decision_latency_seconds",
            "From the arrival of a window's last sample to its decision",
        )
        self._rows: dict[str, int] = {}
        self._looked_at = ""
        self._signal: Signal | None = None
        self._rates: deque[tuple[float, int]] = deque(maxlen=12)

    def took(self, cuts: Sequence[Cut], notices: Sequence[Notice], seconds: float) -> None:
        """One batch, judged `seconds` after its last sample arrived."""
        now = clock.monotonic()
        self.windows += len(notices)
        self.latest = notices[-1]
        self.latency.observe(np.full(len(notices), seconds))
        rows = self.board.tell(notices, now, every_reason=len(notices) <= TOLD_WHOLE)
        self.board.set_learning(rows, [notice.label == LEARNING for notice in notices])
        for cut, notice in zip(cuts, notices, strict=True):
            exception = notice.changed or notice.alert
            if exception:
                self._event(notice)
            if self._keep_windows == "all" or (exception and self._keep_windows != "none"):
                self._keep(cut)
        if self._looked_at:
            self._look(cuts)

    def _keep(self, cut: Cut) -> None:
        window = cut.window
        if window.quality.usable and (self._keep_windows == "all" or self._worth(cut)):
            self.windows_to_keep.append(
                StoredWindow(
                    *(window.samples.copy(), UNLABELLED, window.start_seconds, SEEN),
                    *(cut.stream.name, cut.stream.window_seconds),
                )
            )

    def _worth(self, cut: Cut) -> bool:
        """Of an alert that lasts the beginning is kept, then a window a minute: what came before,
        and what other machines did, is worth more than its thousandth window.
        """
        seconds = cut.window.start_seconds
        count, last = self._exceptions.get(cut.stream.name, (0, -math.inf))
        if not 0 <= seconds - last < QUIET_SECONDS:
            count = 0
        if count >= ALERT_WINDOWS and seconds - last < MINUTE_SECONDS:
            return False
        self._exceptions[cut.stream.name] = (count + 1, seconds)
        return True

    def _event(self, notice: Notice) -> None:
        if notice.alert:
            self.alerts += 1
        if not notice.changed:
            return
        self.labels[notice.label] += 1
        self.to_keep.append(notice)
        self.events.appendleft(
            Event(
                stream=notice.stream,
                time_seconds=notice.time_seconds,
                label=notice.label,
                reason=notice.reason,
                alert=notice.alert,
            )
        )

    # What somebody looks at -----------------------------------------------------------------------

    def signal(self, stream: str) -> Signal | None:
        """The newest window of a stream that was looked at a moment ago, thinned out."""
        if self._looked_at != stream:
            self._looked_at, self._signal = stream, None
        return self._signal

    def _look(self, cuts: Sequence[Cut]) -> None:
        for cut in reversed(cuts):
            if cut.stream.name == self._looked_at:
                self._signal = cut.stream.signal(cut.window, SIGNAL_SAMPLES)
                return

    def windows_per_second(self) -> float | None:
        """Over the time since the last dozen of questions."""
        now = clock.monotonic()
        self._rates.append((now, self.windows))
        since, before = self._rates[0]
        return (self.windows - before) / (now - since) if now > since else None

    def measures(self) -> list[Family]:
        """Latencies and counts for `/metrics`."""
        return [
            self.latency.family(),
            counter("hedgerow_alert_windows_total", "Windows that want a person", self.alerts),
            by_label(
                *("hedgerow_label_changes_total", "counter", "Changes to a label, by label"),
                *("label", dict(self.labels)),
            ),
        ]

    def forget(self, stream: str) -> None:
        """Drop what is shown of a stream; of all, if it is empty."""
        if stream:
            self.board.forget(stream)
            self._exceptions.pop(stream, None)
            kept = [event for event in self.events if event.stream != stream]
            waiting = [notice for notice in self.to_keep if notice.stream != stream]
        else:
            self.board.clear()
            self._exceptions.clear()
            kept, waiting = [], []
        self.events = deque(kept, EVENTS_SHOWN)
        self.to_keep = deque(waiting, KEPT_WAITING_MAX)
        self._signal = None
        self.windows_to_keep.clear()
