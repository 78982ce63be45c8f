"""One NATS login that is kept up: it comes back by itself, for as long as it is not closed.

Every attempt is a fresh client with fresh subscriptions. The client library's own reconnecting is
switched off: it gives up for good when a login is refused once, and replays buffered messages of
a former time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from hedgerow.io import entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter, LinkDown, MessageRefused, OnState
from hedgerow.io.surroundings import Egress, NoEgress
from hedgerow.io.tasks import end
from hedgerow.io.telling import Told

log = logging.getLogger(__name__)

CONNECT_SECONDS_MAX: Final = 5
PING_SECONDS: Final = 20
BACKOFF_SECONDS_FIRST: Final = 0.05
BACKOFF_SECONDS_MAX: Final = 3.0
PENDING_MESSAGES_MAX: Final = 65_536
PENDING_BYTES_MAX: Final = 128 * 2**20
SEND_BUFFER_BYTES_MAX: Final = 32 * 2**20
SIGNATURE_TEXT_BYTES: Final = 88
_NONCE: Final = re.compile(r"[A-Za-z0-9_+/=-]{8,64}")
_HEADER_FRAME: Final = len("NATS/1.0\r\n\r\n")


class Connection:
    """Keeps one login up, and carries requests whose answers fail at once when it goes down."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        meter: ByteMeter,
        on_up: Callable[[Client], Awaitable[None]],
        on_state: OnState,
        *,
        answers: bool = True,
        egress: Egress | None = None,
    ) -> None:
        """`on_up(client)` sets up subscriptions on every new client, before `on_state(True)`.

        `answers` False leaves out the inbox, for a login that may not subscribe one. Whoever is in
        `watchers` is called when the connection breaks. `egress` is told of all that goes out,
        logins included.
        """
        self.client: Client | None = None
        self.up = asyncio.Event()
        self._url = url
        self._credentials = credentials
        self._meter = meter
        self._on_up = on_up
        self._on_state = on_state
        self.watchers: set[Callable[[], None]] = set()
        self._inbox = f"_INBOX.{credentials.identity.public}"
        self._answers = answers
        self._egress: Egress = NoEgress() if egress is None else egress
        self._fault = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._random = entropy.generator()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and return after the first attempt, whatever came of it."""
        if self._task is None:
            tried = asyncio.Event()
            self._task = asyncio.create_task(self._run(tried), name="nats link")
            await tried.wait()

    async def close(self) -> None:
        """Send what is buffered, disconnect and stay down."""
        if self.client is not None:
            with contextlib.suppress(Exception):
                await settle(self.client)
        if self._task is not None:
            await end([self._task])
            self._task = None

    def require(self) -> Client:
        """The live client. Raises LinkDown."""
        client = self.client
        if client is None or not client.is_connected:
            raise LinkDown(f"no connection to {self._url} now; it is retried until it is back")
        return client

    async def publish(self, kind: str, subject: str, data: bytes, told: Told | None = None) -> None:
        """Hand one message to the network; `told` is how the egress record shows it.

        Raises LinkDown or MessageRefused.
        """
        await self._publish(kind, subject, data, "", None, told)

    async def request(
        self,
        kind: str,
        subject: str,
        data: bytes,
        timeout_seconds: float,
        headers: dict[str, str] | None = None,
        told: Told | None = None,
    ) -> Msg:
        """Publish and wait for one answer. Raises LinkDown at once when the connection breaks."""
        reply = f"{self._inbox}.answer.{next(self._numbers)}"
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        try:
            await self._publish(kind, subject, data, reply, headers, told)
            async with asyncio.timeout(timeout_seconds):
                message = await answer
        except TimeoutError:
            raise LinkDown(f"no answer on {subject} within {timeout_seconds:g} s") from None
        finally:
            self._waiting.pop(reply, None)
        self.count_down(kind, message)
        return message

    def count_down(self, kind: str, message: Msg) -> None:
        """Count one received message."""
        self._meter.down(
            kind, message_bytes(message.subject, message.reply, message.headers, message.data)
        )

    async def _publish(
        self,
        kind: str,
        subject: str,
        data: bytes,
        reply: str,
        headers: dict[str, str] | None,
        told: Told | None,
    ) -> None:
        client = self.require()
        if len(data) > client.max_payload:
            raise MessageRefused(
                "too_large",
                f"{len(data)} bytes on {subject}; the server takes {client.max_payload}",
            )
        try:
            await client.publish(subject, data, reply, headers)
        except (nats.errors.Error, OSError) as error:
            raise LinkDown(f"sending on {subject} failed: {error}") from error
        size = message_bytes(subject, reply, headers, data)
        self._meter.up(kind, size)
        told = Told(kind, kind, b"") if told is None else told
        self._egress.left(
            to=self._url, kind=told.kind, purpose=told.purpose, size=size, digest=told.digest
        )

    async def _run(self, tried: asyncio.Event) -> None:
        backoff = BACKOFF_SECONDS_FIRST
        try:
            while True:
                if await self._live_once(tried):
                    backoff = BACKOFF_SECONDS_FIRST
                tried.set()
                await asyncio.sleep(backoff * self._random.uniform(0.5, 1.5))
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        finally:
            tried.set()

    async def _live_once(self, tried: asyncio.Event) -> bool:
        """One client from connect to disconnect; whether it got as far as being up."""
        client = Client()
        gone = asyncio.Event()
        try:
            await self._connect(client, gone)
            if self._answers:
                await client.subscribe(f"{self._inbox}.answer.*", cb=self._answer, **PENDING)
            await self._on_up(client)
            await settle(client)
        except (nats.errors.Error, OSError, TimeoutError, LinkDown) as error:
            self._report(error)
            await _close(client)
            return False
        except asyncio.CancelledError:
            await _close(client)
            raise
        self._fault = ""
        self.client = client
        self.up.set()
        self._tell(True)
        tried.set()
        try:
            await gone.wait()
        finally:
            self.client = None
            self.up.clear()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LinkDown(f"the connection to {self._url} broke"))
            for wake in tuple(self.watchers):
                wake()
            self._tell(False)
            await _close(client)
        return True

    async def _connect(self, client: Client, gone: asyncio.Event) -> None:
        identity = self._credentials.identity

        async def closed() -> None:
            gone.set()

        def signed(nonce: str) -> bytes:
            signature = nonce_signature(identity, nonce)
            self._egress.left(  # also of a login that is then refused
                to=self._url,
                kind="login",
                purpose="shows the credential of this device",
                size=len(self._credentials.jwt) + SIGNATURE_TEXT_BYTES,
            )
            return signature

        async def failed(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                log.warning("link to %s: messages were dropped, %r", self._url, error)
            elif isinstance(error, (nats.errors.Error, OSError, TimeoutError)):
                log.debug("link to %s: %r", self._url, error)
            else:  # a callback of ours raised
                log.error("link to %s: a message was not handled", self._url, exc_info=error)

        await client.connect(
            self._url,
            name=identity.public,
            inbox_prefix=self._inbox,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_SECONDS_MAX,
            ping_interval=PING_SECONDS,
            pending_size=SEND_BUFFER_BYTES_MAX,
            user_jwt_cb=lambda: bytearray(self._credentials.jwt, "ascii"),
            signature_cb=signed,
            closed_cb=closed,
            error_cb=failed,
        )

    def _tell(self, up: bool) -> None:
        try:
            self._on_state(up)
        except Exception:  # whatever it is, the link has to stay up
            log.exception("link to %s: its owner did not take up=%s", self._url, up)

    def _report(self, error: Exception) -> None:
        """Say once why there is no connection, and again when the reason changes."""
        fault = f"{type(error).__name__} {error}".strip()
        level = logging.DEBUG if fault == self._fault else logging.WARNING
        log.log(level, "no connection to %s, still trying: %s", self._url, fault)
        self._fault = fault

    async def _answer(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message)


PENDING: Final[dict[str, Any]] = {
    "pending_msgs_limit": PENDING_MESSAGES_MAX,
    "pending_bytes_limit": PENDING_BYTES_MAX,
}


def nonce_signature(identity: Identity, nonce: str) -> bytes:
    """The answer to a server's challenge at login.

    The same key signs messages, releases and the egress record. A server that could choose what is
    signed would have it sign one of those: they all hold a blank or a line end, a nonce has none.

    Raises:
        LinkDown: what came is no nonce.
    """
    if _NONCE.fullmatch(nonce) is None:
        raise LinkDown(f"the server asks to sign {nonce[:64]!r}, which is no nonce")
    return base64.b64encode(identity.sign(nonce.encode("ascii")))


def message_bytes(subject: str, reply: str, headers: dict[str, str] | None, data: bytes) -> int:
    """Bytes that one message costs: subject, reply subject, headers, payload."""
    size = len(subject) + len(reply) + len(data)
    if headers:
        size += _HEADER_FRAME + sum(len(name) + len(value) + 4 for name, value in headers.items())
    return size


async def settle(client: Client) -> None:
    """Return when the server has taken in everything that was handed to `client` before.

    The library's flush overtakes what still waits to be written; once it is back that is written,
    and the second one cannot overtake it.
    """
    await client.flush()
    await client.flush()


async def _close(client: Client) -> None:
    with contextlib.suppress(Exception):
        await client.close()
