"""What the owner of a device sees of its streams; `hedgerow.protocol.owner` has everything else."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

STREAM_BYTES_MAX = 256
LABEL_BYTES_MAX = 64
PAGE_MAX = 100
"""Streams or messages on one page."""

StreamState: TypeAlias = Literal["alert", "drift", "quiet", "learning", "fine"]
STATES: tuple[StreamState, ...] = ("alert", "drift", "quiet", "learning", "fine")
"""From worst to best: a person should look; the data moved away from what was learned; nothing
came for a while; its normal is not known yet; nothing to say."""


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """One machine or sensor, as its last decision left it.

    `score` is how far from normal it is (1: at the threshold) and `drift` a detector's statistic
    over its limit, None where nothing measures them. `recent` are the highest scores (where nothing
    scores, the lowest confidences) of the last minutes, oldest first, None where nothing came.
    """

    stream: str
    state: StreamState
    label: str = ""
    confidence: float | None = None
    reason: str = ""
    score: float | None = None
    drift: float | None = None
    time_seconds: float | None = None
    model: str = ""
    recent: list[float | None] = []


class StreamCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many streams are in each state."""

    total: int = 0
    alert: int = 0
    drift: int = 0
    quiet: int = 0
    learning: int = 0
    fine: int = 0


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which streams are asked for. `search` is part of a name or a label; pages count from 0."""

    search: Annotated[str, msgspec.Meta(max_length=STREAM_BYTES_MAX)] = ""
    state: StreamState | Literal[""] = ""
    order: Literal["worst", "name", "newest"] = "worst"
    page: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    size: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 50


class StreamPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of streams, of `matched` that fit the query."""

    matched: int
    page: int
    pages: int
    streams: list[StreamView]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions of one stream in steps of `step_seconds`, oldest first; the last step ends at
    `end_seconds`. Each step has its highest score, its lowest confidence and its last label, an
    index into `labels`; None where no window ended in it.
    """

    step_seconds: float
    end_seconds: float
    scores: list[float | None]
    confidences: list[float | None]
    label_numbers: list[int | None]
    labels: list[str]


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """The newest samples of one stream: `samples[channel]`, `rate_hz` of what is given here."""

    rate_hz: float
    end_seconds: float
    channels: list[str]
    samples: list[list[float]]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One decision worth keeping: a change of label or an alert."""

    stream: str
    time_seconds: float
    label: str
    reason: str
    alert: bool = False


class GivenLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner says a stream did from `start_seconds` up to `end_seconds`."""

    stream: str
    start_seconds: float
    end_seconds: float
    label: str


class StreamDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one stream: the last minutes, the last day, what it looks like now."""

    stream: StreamView
    minutes: History
    day: History
    signal: Signal | None = None
    events: list[Event] = []
    given: list[GivenLabel] = []
