"""What a link is, whatever network carries it: the shapes that `serve` and `sim` write against.

A message is opaque `bytes` here; who may send what is decided by credentials (`io.authority`) and
signatures (`wire`), never by a link. All methods belong to one asyncio event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol, TypeAlias

from hedgerow.core.errors import HedgerowError, PeerError


class LinkDown(HedgerowError):
    """The network or the server is away, or did not answer in time. Keep the message; try later."""


class BlobMissing(PeerError):
    """No blob of that hash is stored on the other side."""

    def __init__(self, sha256: str) -> None:
        super().__init__("blob_missing", f"no blob {sha256} in the model store")


class BlobRefused(PeerError):
    """A blob came that is too large, cut short, or not the one its hash names."""


class MessageRefused(PeerError):
    """The other side will never take this message (too large, say): drop it, do not retry."""


class ByteMeter:
    """Counts what goes over a link, by class of message: `update`, `note`, `blob`, `join`.

    A message costs subject + reply subject + headers + payload, in bytes; the few bytes of protocol
    framing and of keep-alives around it are not counted.
    """

    def __init__(self) -> None:
        self.bytes_up: Counter[str] = Counter()
        self.bytes_down: Counter[str] = Counter()
        self.messages_up: Counter[str] = Counter()
        self.messages_down: Counter[str] = Counter()

    def up(self, kind: str, size: int) -> None:
        """Count one message of `size` bytes that this side sent."""
        self.bytes_up[kind] += size
        self.messages_up[kind] += 1

    def down(self, kind: str, size: int) -> None:
        """Count one message of `size` bytes that this side received."""
        self.bytes_down[kind] += size
        self.messages_down[kind] += 1

    @property
    def total_up(self) -> int:
        """All bytes sent."""
        return sum(self.bytes_up.values())

    @property
    def total_down(self) -> int:
        """All bytes received."""
        return sum(self.bytes_down.values())


class Update(NamedTuple):
    """One stored update. `device` is whom the server authenticated as its publisher."""

    sequence: int
    device: str
    data: bytes


OnMessage: TypeAlias = Callable[[bytes], None]
OnState: TypeAlias = Callable[[bool], None]
OnDeviceMessage: TypeAlias = Callable[[str, bytes], None]


class DeviceLink(Protocol):
    """A device's connection. Callbacks run on the event loop and must return at once.

    `on_message(data)` gets everything addressed to this device or to all; `on_state(up)` is called
    on every change, and after `on_state(True)` messages flow (subscriptions are in place).
    """

    async def connect(self) -> None:
        """Start connecting and return at once or as soon as connected; absence is no error.

        Keeps trying, and keeps reconnecting, until `close`.
        """

    async def send_note(self, data: bytes) -> None:
        """Send once, without an acknowledgement: notes may be lost and are repeated by timers.

        Raises LinkDown when the link is known to be away, MessageRefused when it is too large.
        """

    async def send_update(self, data: bytes, message_id: str) -> None:
        """Return when the update is stored durably. Sending the same id and bytes again is safe.

        Raises LinkDown when away or unacknowledged (it may then have been stored or not), and
        MessageRefused when the server will never take it.
        """

    async def fetch_blob(self, sha256: str, bytes_max: int) -> bytes:
        """The blob of that hash, checked. Raises LinkDown, BlobMissing or BlobRefused."""

    async def close(self) -> None:
        """Send what is buffered, disconnect, stop reconnecting."""


class JoinLink(Protocol):
    """A connection with the join credential, for enrolment only."""

    async def enrol(self, request: bytes, device: str, timeout_seconds: float) -> bytes:
        """Send `request` as `device` until an answer comes. Raises LinkDown after the timeout."""


class CoordinatorLink(Protocol):
    """The coordinator's connection: the journal of updates, notes, and the blobs."""

    async def connect(self) -> None:
        """Connect and make sure that stream and blob store exist. Waits for the server."""

    def updates(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        """Every stored update from `start_sequence` on, in order, each once, forever, in batches.

        Sequences start at 1 and only grow; they may skip where updates expired or were purged. A
        start beyond the next sequence means that the store was lost: then all that is there comes.
        """

    async def last_sequence(self) -> int:
        """Sequence of the newest update ever stored; 0 when there was none."""

    async def purge_updates(self, before_sequence: int) -> None:
        """Forget every update with a sequence below `before_sequence`."""

    async def send(self, device: str, data: bytes) -> None:
        """To one device, without acknowledgement. Raises LinkDown."""

    async def broadcast(self, data: bytes) -> None:
        """To every connected device, without acknowledgement. Raises LinkDown."""

    async def answer_enrolment(self, device: str, data: bytes) -> None:
        """Answer the enrolment request of `device`. Raises LinkDown."""

    async def put_blob(self, data: bytes) -> str:
        """Store `data`, give its sha256 in hex. Storing it again changes nothing."""

    async def delete_blob(self, sha256: str) -> None:
        """Forget a blob; absence is no error."""

    async def close(self) -> None:
        """Disconnect."""
