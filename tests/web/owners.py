"""An owner over a board and plain values, for tests of the page and the API: nothing measured."""

import hashlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import numpy as np

from hedgerow.protocol.board import Board
from hedgerow.protocol.measures import Family, Histogram
from hedgerow.protocol.owner import (
    Event,
    GivenLabel,
    OwnerView,
    Part,
    Period,
    SentEntry,
    SentPage,
    SentQuery,
    Signal,
    StreamDetail,
    StreamPage,
    StreamQuery,
    Touched,
    Verified,
)

NOW = 1_795_406_400.0  # 23 November 2026, 04:00 UTC
XSS = "<img src=x onerror=document.title='owned'>"
KINDS = ("update", "summary", "exception", "alert", "report")


class MadeUpOwner:
    """`Owner` over a board and plain values; what is done to it is kept in `done`."""

    def __init__(self, board: Board, view: OwnerView, scored: bool) -> None:
        self.board, self._view, self._scored = board, view, scored
        self.done: list[tuple[object, ...]] = []
        self.given: list[GivenLabel] = []
        self.verified = Verified(good=True, entries=0)
        self.latency = Histogram("hedgerow_decision_latency_seconds", "From sample to decision")
        self.latency.observe([0.0007, 0.0009, 0.004])
        self.now = 100_000.0

    @property
    def name(self) -> str:
        return self._view.name

    def change(self, **fields: object) -> None:
        self._view = msgspec.structs.replace(self._view, **fields)

    def view(self) -> OwnerView:
        return msgspec.structs.replace(
            self._view,
            streams=self.board.counts(self.now),
            states=self.board.states(self.now),
            worst=self.board.page(StreamQuery(size=8), self.now).streams,
        )

    def streams(self, query: StreamQuery) -> StreamPage:
        return self.board.page(query, self.now)

    def stream(self, name: str) -> StreamDetail | None:
        detail = self.board.detail(name, self.now)
        if detail is None:
            return None
        events = [event for event in self._view.events if event.stream == name]
        return msgspec.structs.replace(
            detail,
            signal=signal_of(name, 1 if self._scored else 6),
            events=events
            or [Event(stream=name, time_seconds=NOW - 40, label="fine", reason="calm")],
            given=[given for given in self.given if given.stream == name],
        )

    def sent(self, query: SentQuery) -> SentPage:
        count = self._view.sent.messages
        first = count if query.before is None else min(query.before - 1, count)
        numbers = [n for n in range(first, 0, -1) if query.kind in ("", KINDS[n % len(KINDS)])]
        return SentPage(
            entries=[entry(number) for number in numbers[: query.size]],
            more=len(numbers) > query.size,
        )

    def measures(self) -> Sequence[Family]:
        return [self.latency.family()]

    def touched(self, period: Period) -> Touched:
        windows = int(period.end_seconds - period.start_seconds)
        return Touched(windows=windows, bytes=windows * 8192, notices=windows // 60)

    async def verify(self) -> Verified:
        self.done.append(("verify",))
        return self.verified

    async def pause(self, paused: bool) -> None:
        self.done.append(("pause", paused))
        sharing = msgspec.structs.replace(
            self._view.sharing, paused=paused, paused_seconds=NOW if paused else None
        )
        self.change(sharing=sharing)

    async def decline(self) -> bool:
        self.done.append(("decline",))
        there = self._view.sharing.task is not None
        self.change(sharing=msgspec.structs.replace(self._view.sharing, task=None))
        return there

    async def label(self, given: GivenLabel) -> Touched:
        self.done.append(("label", given))
        self.given.insert(0, given)
        return Touched(windows=int(given.end_seconds - given.start_seconds))

    async def forget(self, period: Period) -> Touched:
        self.done.append(("forget", period))
        return self.touched(period)

    async def delete(self, record: bool) -> Touched:
        self.done.append(("delete", record))
        self.board.clear()
        return Touched(windows=84_000, bytes=690_000_000, notices=1_200)

    async def export(self) -> AsyncIterator[Part]:
        yield Part("about.json", _pieces(msgspec.json.encode(self.view())))
        yield Part("windows/00001.npz", _pieces(b"\0" * 1000, b"\1" * 2000))

    async def export_record(self) -> AsyncIterator[bytes]:
        yield b"egress 1\n"
        yield b"entry\n"


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


PURPOSES = {
    "update": ("round 118 of presses", "nats://hub.example:4222", 3_300),
    "summary": ("what 2,000 streams did in an hour", "nats://hub.example:4222", 1_412),
    "exception": ("press 0007 is beyond its threshold", "nats://hub.example:4222", 322),
    "alert": ("tells Home Assistant", "broker.local:1883", 180),
    "report": ("model version and health", "nats://hub.example:4222", 401),
}


def entry(number: int) -> SentEntry:
    kind = KINDS[number % len(KINDS)]
    purpose, to, size = PURPOSES[kind]
    return SentEntry(
        number=number,
        time_seconds=NOW - 4 - 37.0 * (4_127 - number),
        to=to,
        kind=kind,
        purpose=purpose,
        size=size + number % 61,
        digest=hashlib.sha256(b"d%d" % number).hexdigest(),
        hash=hashlib.sha256(b"h%d" % number).hexdigest(),
    )


def signal_of(name: str, channels: int) -> Signal:
    """A tone with its harmonics and some noise."""
    rng = np.random.default_rng(len(name))
    t = np.arange(400) / 400
    samples = [
        np.sin(2 * np.pi * (11 + 3 * c) * t)
        + 0.4 * np.sin(2 * np.pi * 31 * t + c)
        + 0.25 * rng.standard_normal(400)
        for c in range(channels)
    ]
    names = ["acceleration"] if channels == 1 else ["ax", "ay", "az", "gx", "gy", "gz"][:channels]
    return Signal(
        rate_hz=400.0,
        end_seconds=NOW,
        channels=names,
        samples=[[round(float(v), 3) for v in row] for row in samples],
    )
