"""Webhooks against a real web server, with and without TLS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io import plugins
from hedgerow.io.actuators.base import Actuator, ActuatorDown
from hedgerow.io.actuators.webhook import NOTICES_MAX, secret_bytes, signature
from tests.io.sensing import Clock, Egress, around, notice

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Hook:
    """A receiver: gives the answers it is told to, in turn, then 204; keeps what came."""

    def __init__(self, answers: Sequence[tuple[int, dict[str, str]]] = ()) -> None:
        self.answers = list(answers)
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    def verified(self) -> list[bool]:
        """Whether each request was signed as the specification says, worked out on its own."""
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        return [
            headers["webhook-signature"]
            == "v1,"
            + base64.b64encode(
                hmac.new(
                    key,
                    f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body,
                    hashlib.sha256,
                ).digest()
            ).decode()
            for _, headers, body in self.came
        ]


@contextmanager
def listening(hook: Hook, context: ssl.SSLContext | None = None) -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            hook.came.append((self.path, headers, body))
            status, given = hook.answers.pop(0) if hook.answers else (204, {})
            self.send_response(status)
            for name, value in given.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    hook.url = f"{scheme}://127.0.0.1:{server.server_port}/hook?site=1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def webhook(url: str, **settings: object) -> Actuator:
    return plugins.actuator({"kind": "webhook", "url": url, "secret": "env:HOOK", **settings})


def told(
    given: Actuator, notices: Sequence[Notice], clock: Clock | None = None
) -> tuple[Egress, Clock]:
    egress, clock = Egress(), clock or Clock()

    async def run() -> None:
        surroundings = around(["x"], 1, clock=clock, egress=egress)
        async with asyncio.timeout(90), given.open(surroundings) as act:
            await act(notices)

    asyncio.run(run())
    return egress, clock


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", SECRET)


def test_the_signature_is_that_of_the_specifications_own_libraries() -> None:
    assert (
        signature(
            secret_bytes(SECRET),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_notices_are_posted_signed_and_written_down_as_they_leave() -> None:
    with listening(Hook()) as hook:
        egress, clock = told(webhook(hook.url), [notice(), notice("pump", alert=True, second=5)])
    ((path, headers, body),) = hook.came
    assert path == "/hook?site=1" and hook.verified() == [True]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-timestamp"] == str(int(clock.now()))
    said = json.loads(body)
    assert said["type"] == "hedgerow.notices" and said["timestamp"] == "2023-11-14T22:13:25.000Z"
    assert said["data"]["device"] == "press 4"
    assert [each["stream"] for each in said["data"]["notices"]] == ["press 4", "pump"]
    assert said["data"]["notices"][0]["score"] is None  # nothing scored: no NaN in JSON
    (left,) = egress.all
    assert left.to == hook.url.split("/")[2] and left.kind == "alert"
    assert left.size == len(body) and left.digest == hashlib.sha256(body).digest()


def test_a_passing_fault_is_tried_again_with_the_same_id_and_a_new_signature() -> None:
    answers: list[tuple[int, dict[str, str]]] = [(503, {}), (429, {"retry-after": "7"})]
    with listening(Hook(answers)) as hook:
        egress, _ = told(webhook(hook.url), [notice()])
    assert hook.verified() == [True] * 3
    assert len({headers["webhook-id"] for _, headers, _ in hook.came}) == 1
    stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in hook.came]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 1, 8]  # a pause of 1 s, then as it asked
    assert [left.purpose for left in egress.all] == [
        "webhook",
        "webhook, attempt 2",
        "webhook, attempt 3",
    ]


@pytest.mark.parametrize(
    ("answer", "attempts", "said"),
    [
        ((400, {}), 1, "answered 400"),
        ((410, {}), 1, "answered 410"),
        ((302, {"location": "http://127.0.0.1:9/elsewhere"}), 1, "answered 302"),
        ((500, {}), 4, "in 4 attempts"),
    ],
)
def test_what_is_refused_is_not_repeated_and_redirects_are_not_followed(
    answer: tuple[int, dict[str, str]], attempts: int, said: str
) -> None:
    with listening(Hook([answer] * 10)) as hook, pytest.raises(ActuatorDown, match=said):
        told(webhook(hook.url), [notice()])
    assert len(hook.came) == attempts


def test_pauses_are_bounded_whatever_the_other_side_asks() -> None:
    answers = [(503, {"retry-after": "86400"}), (503, {"retry-after": "Fri, 31 Dec 2027"})]
    with listening(Hook(answers)) as hook:
        _, clock = told(webhook(hook.url), [notice()])
    assert clock.passed == 62  # 60 s at most, then our own 2 s


def test_nobody_there_is_down_after_all_attempts() -> None:
    with listening(Hook()) as hook:
        pass
    with pytest.raises(ActuatorDown, match="in 2 attempts: ConnectionRefusedError"):
        told(webhook(hook.url, attempts=2), [notice()])


def test_many_notices_become_several_requests() -> None:
    with listening(Hook()) as hook:
        told(webhook(hook.url), [notice(second=at) for at in range(NOTICES_MAX + 1)])
    counts = [len(json.loads(body)["data"]["notices"]) for _, _, body in hook.came]
    assert counts == [NOTICES_MAX, 1]
    assert len({headers["webhook-id"] for _, headers, _ in hook.came}) == 2


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "hook.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return pem, context


def test_over_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    pem, context = certificate(tmp_path)
    with listening(Hook(), context) as hook:
        told(webhook(hook.url, ca_file=str(pem)), [notice()])
        assert hook.verified() == [True]
        with pytest.raises(ActuatorDown, match=r"in 1 attempts: its certificate is not trusted"):
            told(webhook(hook.url), [notice()])
    assert len(hook.came) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://a", "no web address"),
        ("https://a/\r\nx: y", "no web address"),
        ("https://me:pass@a/", "holds a name or password"),
        ("http://example.org/hook", "plain http to example.org"),
    ],
)
def test_addresses_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        webhook(url)
    assert "pass@" not in str(refused.value)


def test_plain_http_may_be_insisted_on() -> None:
    webhook("http://example.org/hook", insecure=True)
    webhook("http://localhost/hook")
    webhook("http://[::1]/hook")


def test_a_secret_that_is_none_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "whsec_short")
    with pytest.raises(UsageError, match="not base64 of 24 to 64 bytes"):
        told(webhook("https://a/"), [])
    with pytest.raises(UsageError, match="stands in the settings") as refused:
        told(webhook("https://a/", secret=SECRET), [])
    assert SECRET not in str(refused.value)
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        told(webhook("https://a/", secret=f"file:{file}"), [])
    file.chmod(0o600)
    told(webhook("https://a/", secret=f"file:{file}"), [])
    with pytest.raises(UsageError, match="env:NONE is empty"):
        told(webhook("https://a/", secret="env:NONE"), [])
