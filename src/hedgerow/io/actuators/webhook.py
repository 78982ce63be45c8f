"""Posts notices as signed JSON to an address on the web.

Source: *Standard Webhooks* specification 1.0.0 (2023): the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`, the signed content `id.timestamp.body`, and which
answers are tried again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec

import hedgerow
from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Act, Actuator, ActuatorDown
from hedgerow.io.secret import named_secret
from hedgerow.io.sensors.base import SECONDS_MAX
from hedgerow.io.surroundings import Surroundings

NOTICES_MAX: Final = 256
"""Most notices in one request; a batch with more becomes several."""
_SECRET_BYTES: Final = (24, 64)
_ANSWER_BYTES_MAX: Final = 512
_PAUSE_SECONDS_MAX: Final = 60.0


def signature(secret: bytes, message: str, timestamp: int, body: bytes) -> str:
    """The symmetric signature `v1` of one message, as in its header."""
    content = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()


def secret_bytes(text: str) -> bytes:
    """The key of a secret such as `whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD`.

    Raises:
        UsageError: it is not base64 of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    least, most = _SECRET_BYTES
    if not least <= len(key) <= most:
        raise UsageError(
            f"the webhook's secret is not base64 of {least} to {most} bytes; make one with: "
            "echo whsec_$(head -c 32 /dev/urandom | base64)"
        )
    return key


class Webhook(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POSTs to `url`, signed with the secret that `secret` names (`file:PATH` or `env:NAME`).

    Plain http is refused but to this machine itself, unless `insecure`. Redirects are never
    followed. What fails for a passing reason is tried `attempts` times in all.
    """

    url: str
    secret: str
    ca_file: str = ""
    insecure: bool = False
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 4
    pause_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0

    def __post_init__(self) -> None:
        where = _split(self.url)
        if where.scheme == "http" and not self.insecure and not _is_here(where.hostname or ""):
            raise UsageError(
                f"url is plain http to {where.hostname}: anybody on the way could read it; use "
                "https, or say insecure = true"
            )

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncGenerator[Act, None]:
        """Reads the secret; see `Actuator.open`. Connects when there is something to say."""
        key = secret_bytes(named_secret(self.secret))
        where = _split(self.url)
        context = _context(self.ca_file) if where.scheme == "https" else None

        async def act(notices: Sequence[Notice]) -> None:
            for first in range(0, len(notices), NOTICES_MAX):
                await self._deliver(
                    around, key, where, context, notices[first : first + NOTICES_MAX]
                )

        yield act

    async def _deliver(
        self,
        around: Surroundings,
        key: bytes,
        where: SplitResult,
        context: ssl.SSLContext | None,
        notices: Sequence[Notice],
    ) -> None:
        """One request, as often as it takes; the receiver tells repetitions by their id.

        Raises:
            ActuatorDown: refused, or not taken after all attempts.
        """
        body = body_of(around.device, notices)
        digest = hashlib.sha256(body).digest()
        message = "msg_" + digest[:16].hex()
        pause = self.pause_seconds
        for attempt in range(1, self.attempts + 1):
            timestamp = int(around.now())
            headers = {
                "content-type": "application/json",
                "user-agent": f"hedgerow/{hedgerow.__version__}",
                "webhook-id": message,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(key, message, timestamp, body),
            }
            around.egress.left(
                to=where.netloc.rpartition("@")[2],
                kind="alert" if any(notice.alert for notice in notices) else "state",
                purpose="webhook" if attempt == 1 else f"webhook, attempt {attempt}",
                size=len(body),
                digest=digest,
            )
            answer = await asyncio.to_thread(
                _post, where, context, body, headers, self.timeout_seconds
            )
            if 200 <= answer.status < 300:
                return
            if not answer.again or attempt == self.attempts:
                raise ActuatorDown(
                    f"webhook at {where.hostname} did not take {len(notices)} notices in "
                    f"{attempt} attempts: {answer.words}"
                )
            await around.sleep(min(max(pause, answer.pause_seconds), _PAUSE_SECONDS_MAX))
            pause *= 2


def body_of(device: str, notices: Sequence[Notice]) -> bytes:
    """The JSON that is posted: `type`, `timestamp` (of the last notice, ISO 8601) and `data`."""
    last = notices[-1].time_seconds  # a sensor's clock may say anything
    when = datetime.fromtimestamp(last if 0.0 <= last <= SECONDS_MAX else 0.0, UTC)
    return msgspec.json.encode(
        {
            "type": "hedgerow.notices",
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": {"device": device, "notices": list(notices)},
        }
    )


class _Answer(NamedTuple):
    """`status` 0: there was none. `again`: it may go better another time."""

    status: int
    again: bool
    pause_seconds: float
    words: str


def _post(
    where: SplitResult,
    context: ssl.SSLContext | None,
    body: bytes,
    headers: dict[str, str],
    timeout_seconds: float,
) -> _Answer:
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(
            where.hostname or "", where.port, timeout=timeout_seconds
        )
    else:
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=timeout_seconds, context=context
        )
    path = (where.path or "/") + (f"?{where.query}" if where.query else "")
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        said = response.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace").strip()
    except ssl.SSLCertVerificationError as error:
        return _Answer(0, False, 0.0, f"its certificate is not trusted ({error.verify_message})")
    except (OSError, http.client.HTTPException) as error:
        return _Answer(0, True, 0.0, f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    status = response.status
    return _Answer(
        status,
        status in {408, 425, 429} or status >= 500,
        _seconds(response.headers.get("retry-after", "")),
        f"it answered {status} {response.reason}: {said!r}",
    )


def _seconds(text: str) -> float:
    """A Retry-After in seconds; 0 for none, or for a date, which a device's clock may not know."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _split(url: str) -> SplitResult:
    try:
        where = urlsplit(url)
        fine = where.scheme in {"http", "https"} and bool(where.hostname) and where.port != 0
    except ValueError:
        fine = False
    if not fine or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise UsageError("url is no web address; wanted one such as https://example.org/alerts")
    if where.username is not None or where.password is not None:
        raise UsageError("url holds a name or password; take it out, the signature says who we are")
    return where


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        context: Any = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_file {ca_file!r} holds no certificate: {error}") from error
    assert isinstance(context, ssl.SSLContext)
    return context
