"""What goes into a device's store and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

UNLABELLED: Final = -1
"""The label of a window that nobody has labelled yet."""
UPDATE: Final = "update"
"""Kind of the messages that the protocol sends and takes back itself; all others are events."""
ROW_BYTES: Final = 100
"""What a row of the outbox or a notice costs beside its text and its body, about."""


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Caps of one device's store. Windows and blobs count their payload; a message and a notice
    their body, their names and `ROW_BYTES`. Ages go by the store's own clock (`io.timeline`).
    """

    windows_bytes_max: int = 64 * 2**20
    windows_age_seconds_max: float = 90 * 86_400.0
    notices_bytes_max: int = 8 * 2**20
    notices_age_seconds_max: float = 90 * 86_400.0
    outbox_bytes_max: int = 16 * 2**20
    outbox_age_seconds_max: float = 14 * 86_400.0
    blobs_bytes_max: int = 64 * 2**20


class StoredWindow(NamedTuple):
    """One window. `x` is float32 of the model's input shape; `purpose` says what for.

    It begins at `start_seconds` (Unix) and is `seconds` long; `stream` is whose it is.
    """

    x: NDArray[np.float32]
    label: int
    start_seconds: float
    purpose: str = "train"
    stream: str = ""
    seconds: float = 0.0


class WindowRow(NamedTuple):
    """A stored window without its samples."""

    id: int
    stream: str
    start_seconds: float
    seconds: float
    label: int
    purpose: str


class StreamRow(NamedTuple):
    """What is kept of one stream."""

    stream: str
    windows: int
    labelled: int
    first_seconds: float
    last_seconds: float


class GivenLabel(NamedTuple):
    """What somebody said a stream did, in words; kept as it was said."""

    stream: str
    start_seconds: float
    end_seconds: float
    label: str
    given_seconds: float


class OutboxItem(NamedTuple):
    """One message that waits for its acknowledgement. Larger `priority` is sent first.

    `created_seconds` is Unix time and `since_seconds` where what it tells of begins (None: the
    same), so that a period can be forgotten. `stream` is whose it is.
    """

    id: str
    kind: str
    priority: int
    created_seconds: float
    body: bytes
    stream: str = ""
    since_seconds: float | None = None


class Batch(NamedTuple):
    """Messages of one priority that go out together, oldest first, as (number, body)."""

    priority: int
    items: list[tuple[int, bytes]]


class Forgotten(NamedTuple):
    """What was erased, or would be: windows and their bytes, notices, and messages that wait."""

    windows: int
    bytes: int
    notices: int
    waiting: int


@dataclass(frozen=True)
class Kept:
    """One kind of thing in the store. Times are Unix seconds, None where they are not known."""

    count: int
    bytes: int
    bytes_max: int
    oldest_seconds: float | None = None
    newest_seconds: float | None = None
