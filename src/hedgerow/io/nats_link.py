"""The star: devices and coordinator over one NATS server or cluster. Shapes in `io.links`.

Subjects of fleet F and device D, whose permissions `io.authority` signs: `hedgerow.F.enrol.D` and
`.enrolled.D`, `hedgerow.F.up.D.update` (kept in the stream `F-updates`), `hedgerow.F.up.D.events`
(in `F-events`), `hedgerow.F.up.D.note`, `hedgerow.F.down.D`, `hedgerow.F.all`; models lie in the
object store `F-models`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import NotFoundError

from hedgerow.core.errors import UsageError
from hedgerow.io.authority import Credentials, require_fleet_name
from hedgerow.io.keys import is_public
from hedgerow.io.links import (
    BlobMissing,
    BlobRefused,
    ByteMeter,
    LinkDown,
    MessageRefused,
    OnDeviceMessage,
    OnMessage,
    OnState,
    Update,
)
from hedgerow.io.nats_connection import PENDING, Connection
from hedgerow.io.nats_journal import Journal, JournalLimits
from hedgerow.io.surroundings import Egress
from hedgerow.io.telling import Told, told

ANSWER_SECONDS_MAX: Final = 30.0
ENROL_AGAIN_SECONDS: Final = 1.0
DOWN_SECONDS: Final = 0.05
# Larger chunks cost fewer round trips; a device fetches one after the other.
CHUNK_BYTES: Final = 1 * 2**20
_STATUS: Final = "Status"
_TOO_LARGE_CODES: Final = (10054,)


class NatsDeviceLink:
    """A `DeviceLink`."""

    def __init__(
        self,
        url: str,
        fleet: str,
        credentials: Credentials,
        on_message: OnMessage,
        on_state: OnState,
        meter: ByteMeter,
        egress: Egress | None = None,
    ) -> None:
        """`egress` is told of everything that leaves by this link."""
        require_fleet_name(fleet)
        self._device = credentials.identity.public
        self._fleet = fleet
        self._bucket = f"{fleet}-models"
        self._on_message = on_message
        self._connection = Connection(
            url, credentials, meter, self._subscribe, on_state, egress=egress
        )

    async def connect(self) -> None:
        """See DeviceLink."""
        await self._connection.start()

    async def close(self) -> None:
        """See DeviceLink."""
        await self._connection.close()

    async def send_note(self, data: bytes) -> None:
        """See DeviceLink."""
        subject = f"hedgerow.{self._fleet}.up.{self._device}.note"
        await self._connection.publish("note", subject, data, told(data))

    async def send_update(self, data: bytes, message_id: str) -> None:
        """See DeviceLink."""
        await self._store("update", "updates", data, message_id)

    async def send_events(self, data: bytes, message_id: str) -> None:
        """See DeviceLink."""
        await self._store("events", "events", data, message_id)

    async def _store(self, kind: str, stream: str, data: bytes, message_id: str) -> None:
        """Return when one of the fleet's streams has it on disk."""
        # The server forgets doubles by this id over the whole stream, whoever sent them. With a
        # digest of the signed message in it, nobody else can use up an id in advance.
        shown = told(data)
        headers = {
            "Nats-Msg-Id": f"{message_id}.{shown.digest.hex()[:32]}",
            "Nats-Expected-Stream": f"{self._fleet}-{stream}",
        }
        subject = f"hedgerow.{self._fleet}.up.{self._device}.{kind}"
        answer = await self._connection.request(
            kind, subject, data, ANSWER_SECONDS_MAX, headers, shown
        )
        if answer.headers is not None and answer.headers.get(_STATUS) == "503":
            raise LinkDown(
                f"the server keeps no {stream} of fleet {self._fleet} yet; its coordinator does"
            )
        error = json.loads(answer.data).get("error")
        if error is None:
            return
        if error.get("err_code") in _TOO_LARGE_CODES:
            raise MessageRefused(
                "too_large", f"{len(data)} bytes on {subject}: {error['description']}"
            )
        raise LinkDown(f"the server could not store {kind}: {error.get('description')}")

    async def fetch_blob(self, sha256: str, bytes_max: int) -> bytes:
        """See DeviceLink. One request for the description, one for each MiB."""
        description = await self._stored(f".$O.{self._bucket}.M.{_object_name(sha256)}", {})
        if description is None:
            raise BlobMissing(sha256)
        try:
            info = json.loads(description.data)
            size, chunks = int(info.get("size", 0)), int(info.get("chunks", 0))
            subject = f"$O.{self._bucket}.C.{info['nuid']}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BlobRefused("blob_broken", f"description of {sha256}: {error!r}") from None
        if info.get("deleted"):
            raise BlobMissing(sha256)
        if not 0 <= size <= bytes_max:
            raise BlobRefused(
                "blob_too_large", f"{sha256} has {size} bytes; at most {bytes_max} wanted"
            )
        content = await self._chunks(sha256, subject, chunks, size)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BlobRefused("blob_tampered", f"what came as {sha256} is something else")
        return content

    async def _chunks(self, sha256: str, subject: str, chunks: int, size: int) -> bytes:
        content = bytearray()
        sequence = 1
        for _ in range(chunks):
            chunk = await self._stored("", {"seq": sequence, "next_by_subj": subject})
            if chunk is None or chunk.headers is None:
                raise BlobRefused("blob_cut_short", f"{len(content)} of {size} bytes of {sha256}")
            content += chunk.data
            if not chunk.data or len(content) > size:
                raise BlobRefused("blob_broken", f"{sha256} is not the {size} bytes it says")
            sequence = int(chunk.headers["Nats-Sequence"]) + 1
        if len(content) != size:
            raise BlobRefused("blob_cut_short", f"{len(content)} of {size} bytes of {sha256}")
        return bytes(content)

    async def _stored(self, subject: str, query: dict[str, Any]) -> Msg | None:
        """One stored message of the blob store, without a consumer; None when there is none."""
        answer = await self._connection.request(
            "blob",
            f"$JS.API.DIRECT.GET.OBJ_{self._bucket}{subject}",
            json.dumps(query).encode("ascii") if query else b"",
            ANSWER_SECONDS_MAX,
            told=Told("blob", "asks for a model", b""),
        )
        status = None if answer.headers is None else answer.headers.get(_STATUS)
        if status is None:
            return answer
        if status == "404":
            return None
        raise LinkDown(f"the blob store of fleet {self._fleet} does not answer (status {status})")

    async def _subscribe(self, client: Client) -> None:
        for subject in (
            f"hedgerow.{self._fleet}.down.{self._device}",
            f"hedgerow.{self._fleet}.all",
        ):
            await client.subscribe(subject, cb=self._received, **PENDING)

    async def _received(self, message: Msg) -> None:
        self._connection.count_down("note", message)
        self._on_message(message.data)


class NatsJoinLink:
    """A `JoinLink`: one enrolment, one connection."""

    def __init__(
        self,
        url: str,
        fleet: str,
        credentials: Credentials,
        meter: ByteMeter,
        egress: Egress | None = None,
    ) -> None:
        """`egress` is told of everything that leaves by this link."""
        require_fleet_name(fleet)
        self._egress = egress
        self._url = url
        self._fleet = fleet
        self._credentials = credentials
        self._meter = meter

    async def enrol(self, request: bytes, device: str, timeout_seconds: float) -> bytes:
        """See JoinLink. The request is repeated every second, as the coordinator may be away."""
        _require_device(device)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def received(message: Msg) -> None:
            connection.count_down("join", message)
            if not answer.done():
                answer.set_result(message.data)

        async def subscribe(client: Client) -> None:
            await client.subscribe(
                f"hedgerow.{self._fleet}.enrolled.{device}", cb=received, **PENDING
            )

        def ignore(_: bool) -> None:
            return

        connection = Connection(
            *(self._url, self._credentials, self._meter, subscribe, ignore),
            answers=False,
            egress=self._egress,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                await connection.start()
                while not answer.done():
                    await connection.up.wait()
                    try:
                        await connection.publish(
                            *("join", f"hedgerow.{self._fleet}.enrol.{device}", request),
                            told(request),
                        )
                    except LinkDown:  # it is going down; waiting lets it, so that it comes back
                        await asyncio.sleep(DOWN_SECONDS)
                        continue
                    await asyncio.wait([answer], timeout=ENROL_AGAIN_SECONDS)
                return answer.result()
        except TimeoutError:
            raise LinkDown(f"no answer to the enrolment within {timeout_seconds:g} s") from None
        finally:
            await connection.close()


class NatsCoordinatorLink:
    """A `CoordinatorLink`. `on_note` and `on_enrol` get (device, data); do not block in them.

    The device of a note or update is the one the server authenticated. That of an enrolment is
    only claimed, as all who enrol share one credential: check the signature of the request.
    """

    def __init__(
        self,
        url: str,
        fleet: str,
        credentials: Credentials,
        on_note: OnDeviceMessage,
        on_enrol: OnDeviceMessage,
        on_state: OnState,
        meter: ByteMeter,
        limits: JournalLimits | None = None,
    ) -> None:
        require_fleet_name(fleet)
        self._fleet = fleet
        self._on_note = on_note
        self._on_enrol = on_enrol
        self._meter = meter
        self._limits = JournalLimits() if limits is None else limits
        self._connection = Connection(url, credentials, meter, self._set_up, on_state)

    async def connect(self) -> None:
        """See CoordinatorLink."""
        await self._connection.start()
        await self._connection.up.wait()

    async def close(self) -> None:
        """See CoordinatorLink."""
        await self._connection.close()

    def updates(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        """See CoordinatorLink."""
        return Journal(self._connection, f"{self._fleet}-updates", self._meter).updates(
            start_sequence
        )

    def events(self, start_sequence: int) -> AsyncIterator[list[Update]]:
        """See CoordinatorLink."""
        journal = Journal(self._connection, f"{self._fleet}-events", self._meter, "events")
        return journal.updates(start_sequence)

    async def last_sequence(self) -> int:
        """See CoordinatorLink. Raises LinkDown."""
        try:
            info = (
                await self._connection.require().jetstream().stream_info(f"{self._fleet}-updates")
            )
        except nats.errors.Error as error:
            raise LinkDown(f"the update stream does not answer: {error!r}") from error
        return info.state.last_seq

    async def purge_updates(self, before_sequence: int) -> None:
        """See CoordinatorLink. Raises LinkDown."""
        await self._purge(f"{self._fleet}-updates", before_sequence)

    async def purge_events(self, before_sequence: int) -> None:
        """See CoordinatorLink. Raises LinkDown."""
        await self._purge(f"{self._fleet}-events", before_sequence)

    async def _purge(self, stream: str, before_sequence: int) -> None:
        if before_sequence <= 1:  # the server takes 0 for "everything"
            return
        try:
            await self._connection.require().jetstream().purge_stream(stream, seq=before_sequence)
        except nats.errors.Error as error:
            raise LinkDown(f"the stream {stream} does not answer: {error!r}") from error

    async def send(self, device: str, data: bytes) -> None:
        """See CoordinatorLink."""
        _require_device(device)
        await self._connection.publish("note", f"hedgerow.{self._fleet}.down.{device}", data)

    async def broadcast(self, data: bytes) -> None:
        """See CoordinatorLink."""
        await self._connection.publish("note", f"hedgerow.{self._fleet}.all", data)

    async def answer_enrolment(self, device: str, data: bytes) -> None:
        """See CoordinatorLink."""
        _require_device(device)
        await self._connection.publish("join", f"hedgerow.{self._fleet}.enrolled.{device}", data)

    async def put_blob(self, data: bytes) -> str:
        """See CoordinatorLink. Raises LinkDown; devices do not see a blob cut short."""
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            store = (
                await self._connection.require().jetstream().object_store(f"{self._fleet}-models")
            )
            try:
                if (await store.get_info(sha256)).size == len(data):
                    return sha256
            except NotFoundError:
                pass
            options = api.ObjectMetaOptions(max_chunk_size=CHUNK_BYTES)
            await store.put(sha256, data, api.ObjectMeta(name=sha256, options=options))
        except nats.errors.Error as error:
            raise LinkDown(f"blob {sha256} was not stored: {error!r}") from error
        self._meter.up("blob", len(data))
        return sha256

    async def delete_blob(self, sha256: str) -> None:
        """See CoordinatorLink. Raises LinkDown."""
        try:
            store = (
                await self._connection.require().jetstream().object_store(f"{self._fleet}-models")
            )
            await store.delete(sha256)
        except NotFoundError:
            return
        except nats.errors.Error as error:
            raise LinkDown(f"blob {sha256} was not deleted: {error!r}") from error

    async def _set_up(self, client: Client) -> None:
        await self._limits.ensure(client, self._fleet, CHUNK_BYTES)
        await client.subscribe(f"hedgerow.{self._fleet}.up.*.note", cb=self._note, **PENDING)
        await client.subscribe(f"hedgerow.{self._fleet}.enrol.*", cb=self._enrol, **PENDING)

    async def _note(self, message: Msg) -> None:
        self._connection.count_down("note", message)
        self._on_note(message.subject.split(".")[3], message.data)

    async def _enrol(self, message: Msg) -> None:
        self._connection.count_down("join", message)
        device = message.subject.split(".")[3]
        if is_public(device):
            self._on_enrol(device, message.data)


def _object_name(sha256: str) -> str:
    if len(sha256) != 64 or not all(letter in "0123456789abcdef" for letter in sha256):
        raise UsageError(f"blob {sha256!r}: wanted a sha256 in lower-case hex")
    return base64.urlsafe_b64encode(sha256.encode("ascii")).decode("ascii")


def _require_device(device: str) -> None:
    if not is_public(device):
        raise UsageError(f"device {device!r}: wanted a user public key, U and 55 characters")
