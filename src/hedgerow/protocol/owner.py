"""What the owner of a device sees and may do: plain data, and the `Owner` that a running agent is.

The console, `/metrics` and `hedgerow status` know a device by this and by nothing else. Times are
Unix seconds by the device's own clock, sizes are bytes, shares go from 0 to 1. What is not known is
None, never 0.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec

from hedgerow.protocol.measures import Family
from hedgerow.protocol.owner_streams import (
    LABEL_BYTES_MAX,
    PAGE_MAX,
    STATES,
    STREAM_BYTES_MAX,
    Event,
    GivenLabel,
    History,
    Signal,
    StreamCounts,
    StreamDetail,
    StreamPage,
    StreamQuery,
    StreamState,
    StreamView,
)

__all__ = [
    "LABEL_BYTES_MAX",
    "PAGE_MAX",
    "STATES",
    "STREAM_BYTES_MAX",
    "EnergyView",
    "Event",
    "GivenLabel",
    "History",
    "Kept",
    "LoadView",
    "ModelView",
    "Owner",
    "OwnerView",
    "Part",
    "Period",
    "PrivacyView",
    "SensorView",
    "SentClass",
    "SentDay",
    "SentEntry",
    "SentPage",
    "SentQuery",
    "SentView",
    "SharingView",
    "Signal",
    "StoredView",
    "StreamCounts",
    "StreamDetail",
    "StreamPage",
    "StreamQuery",
    "StreamState",
    "StreamView",
    "TaskView",
    "Touched",
    "Trial",
    "Verified",
]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was tried, or is. `why` is a sentence; `measures` are what it rests on."""

    model: str
    source: Literal["bundle", "fleet", "site", "owner"]
    stage: Literal["refused", "shadow", "active", "replaced", "rolled_back"]
    time_seconds: float
    why: str = ""
    windows: int = 0
    measures: dict[str, float] = {}


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """The model that decides now and why it is this one. `trials` newest first, bounded."""

    name: str
    version: str
    hash: str = ""
    source: Literal["bundle", "fleet", "site", "owner"] = "bundle"
    since_seconds: float | None = None
    why: str = ""
    parameters: int = 0
    precision: str = ""
    """float32 or int8"""
    provider: str = ""
    """What runs it, such as "CPU" """
    labels: list[str] = []
    measures: dict[str, float] = {}
    """What is known of its quality, such as `accuracy` on held-out windows"""
    trials: list[Trial] = []


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of thing that is stored on the device."""

    kind: Literal["windows", "notices", "outbox", "models", "egress"]
    count: int
    bytes: int
    bytes_max: int | None = None
    oldest_seconds: float | None = None
    newest_seconds: float | None = None


class StoredView(msgspec.Struct, frozen=True, kw_only=True):
    """What the device keeps. `full`: the disk takes no more, and decisions go on without it."""

    kept: list[Kept] = []
    labelled: dict[str, int] = {}
    """Windows by the label they carry"""
    drops: dict[str, int] = {}
    """Everything ever dropped, by reason"""
    disk_free_bytes: int | None = None
    full: bool = False


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet has asked this device to do now."""

    round: int
    phase: Literal["invited", "training", "sending"]
    purpose: str = ""
    since_seconds: float | None = None


class SharingView(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet this device is in, if any, and whether the owner lets anything go there."""

    fleet: str = ""
    coordinator: str = ""
    online: bool = False
    paused: bool = False
    paused_seconds: float | None = None
    """When the owner paused"""
    task: TaskView | None = None
    waiting_messages: int = 0
    waiting_bytes: int = 0
    contact_seconds: float | None = None
    """When the other side was last heard"""


class SentClass(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one class that left; `today` is since midnight UTC."""

    kind: str
    messages: int
    bytes: int
    messages_today: int = 0
    bytes_today: int = 0


class SentDay(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that left on one day (UTC, as 2026-11-23), by class."""

    day: str
    bytes: dict[str, int]


class SentView(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the egress record. `days` oldest first, at most 30; `head` is the chain's newest
    hash in hex, `signed_seconds` when a checkpoint over it was last signed.
    """

    messages: int = 0
    bytes: int = 0
    bytes_today: int = 0
    classes: list[SentClass] = []
    days: list[SentDay] = []
    head: str = ""
    signed_seconds: float | None = None


class SentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One message that left, as the egress record has it."""

    number: int
    time_seconds: float
    to: str
    kind: str
    purpose: str
    size: int
    digest: str = ""
    """SHA-256 of the payload in hex, where it was at hand"""
    hash: str = ""
    """This entry's place in the chain, in hex"""


class SentQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which messages are asked for: newest first, those with a number below `before`."""

    before: Annotated[int, msgspec.Meta(ge=0)] | None = None
    kind: Annotated[str, msgspec.Meta(max_length=64)] = ""
    size: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 50


class SentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that left, newest first; `more`: there are older ones."""

    entries: list[SentEntry]
    more: bool = False


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What came of checking the whole egress record: every hash and every signature.

    `entries` were checked; `bad` is the number of the first that does not fit, `why` says how.
    """

    good: bool
    entries: int
    checkpoints: int = 0
    bad: int | None = None
    why: str = ""
    key: str = ""
    head: str = ""


class PrivacyView(msgspec.Struct, frozen=True, kw_only=True):
    """The privacy budget of this device. `mechanism` "none": nothing bounds what updates tell,
    and so nothing can be spent.
    """

    mechanism: str = "none"
    epsilon: float | None = None
    epsilon_max: float | None = None
    delta: float | None = None


class EnergyView(msgspec.Struct, frozen=True, kw_only=True):
    """Energy since the start. `estimated`: reckoned from CPU time, not measured."""

    source: str
    estimated: bool
    joules: float
    watts: float | None = None
    joules_per_inference: float | None = None
    joules_per_round: float | None = None


class LoadView(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent itself does and takes, since its start."""

    cpu_seconds: float = 0.0
    cpu_share: float | None = None
    """Of one core, over the last seconds"""
    resident_bytes: int = 0
    windows: int = 0
    windows_per_second: float | None = None
    dropped: dict[str, int] = {}
    """Windows or blocks lost, by reason"""


class SensorView(msgspec.Struct, frozen=True, kw_only=True):
    """One configured sensor or actuator."""

    name: str
    kind: str
    role: Literal["sensor", "actuator"]
    up: bool
    why: str = ""
    """Why it is down, in words"""
    since_seconds: float | None = None
    count: int = 0
    """Blocks it gave, or notices it acted on"""
    failures: int = 0


class OwnerView(msgspec.Struct, frozen=True, kw_only=True):
    """The device at a glance; told to open pages about once a second, so keep it cheap."""

    device: str
    name: str
    app: str
    version: str
    time_seconds: float
    up_seconds: float
    streams: StreamCounts
    states: str = ""
    """First letter of each stream's state, in order of name, as far as they fit: a d q l f"""
    worst: list[StreamView]
    """The first few of the order "worst" """
    events: list[Event]
    """The newest of all streams, newest first, a few"""
    model: ModelView
    stored: StoredView
    sharing: SharingView
    sent: SentView
    privacy: PrivacyView = PrivacyView()
    energy: EnergyView | None = None
    load: LoadView = LoadView()
    sensors: list[SensorView] = []


class Period(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From `start_seconds` up to `end_seconds`; an empty `stream` is every stream."""

    start_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    end_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    stream: Annotated[str, msgspec.Meta(max_length=STREAM_BYTES_MAX)] = ""


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what is stored a period or an action touches."""

    windows: int
    bytes: int = 0
    notices: int = 0


class Part(NamedTuple):
    """One file of the export: a relative name, and its bytes in pieces of at most about 1 MiB."""

    name: str
    pieces: AsyncIterator[bytes]


class Owner(Protocol):
    """A running device as its owner deals with it. Called in the agent's event loop.

    The plain methods answer at once from memory or one indexed query, in a few milliseconds; the
    asynchronous ones may take their time, but hand the loop back at least every 50 ms or so.
    """

    @property
    def name(self) -> str:
        """What people call the device; typed in full by who deletes everything."""

    def view(self) -> OwnerView:
        """The device at a glance."""

    def streams(self, query: StreamQuery) -> StreamPage:
        """One page of streams."""

    def stream(self, name: str) -> StreamDetail | None:
        """Everything about one stream; None: no such stream."""

    def sent(self, query: SentQuery) -> SentPage:
        """One page of the egress record."""

    def measures(self) -> Sequence[Family]:
        """What `/metrics` tells beyond what follows from `view`: latencies, for instance."""

    def touched(self, period: Period) -> Touched:
        """What `forget` would erase."""

    async def verify(self) -> Verified:
        """Check the whole egress record anew, from its first entry."""

    async def pause(self, paused: bool) -> None:
        """Stop or allow everything that goes to the fleet; durable before it returns."""

    async def decline(self) -> bool:
        """Refuse the task at hand, whatever its phase; False: there was none."""

    async def label(self, given: GivenLabel) -> Touched:
        """Label a period of one stream; what learns from labels is told."""

    async def forget(self, period: Period) -> Touched:
        """Overwrite windows and notices of a period, and what waits to be sent of them."""

    async def delete(self, record: bool) -> Touched:
        """Overwrite all that was sensed, decided or learned here; with `record` also what left.

        The identity stays, and the agent goes on from nothing.
        """

    def export(self) -> AsyncIterator[Part]:
        """All that is stored, file by file, for the owner to take along."""

    def export_record(self) -> AsyncIterator[bytes]:
        """The egress record as `hedgerow egress verify` reads it."""
