"""The notify protocol, to real datagram sockets; and the unit that uses it."""

import asyncio
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.io.supervise import Supervisor

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "hedgerow-device.service"


class Listener:
    """What systemd would hear."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(20.0)

    def heard(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    names = {"file": str(tmp_path / "notify"), "abstract": f"@hedgerow-test-{os.getpid()}"}
    listener = Listener(names[request.param])
    yield listener
    listener.close()


def test_ready_status_and_stopping_are_told(listener: Listener) -> None:
    supervisor = Supervisor.of({"NOTIFY_SOCKET": listener.address})
    supervisor.ready("sensing 3 streams")
    assert listener.heard() == ["READY=1", "STATUS=sensing 3 streams"]
    supervisor.ready()
    assert listener.heard() == ["READY=1"]
    supervisor.status("two\nlines")
    assert listener.heard() == ["STATUS=two lines"]
    supervisor.stopping()
    assert listener.heard() == ["STOPPING=1"]


def test_signs_of_life_come_while_healthy_and_stop_when_not(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([True, False, False, True])
    asked = []

    def healthy() -> bool:
        asked.append(1)
        return next(answers)

    async def body() -> None:
        environment = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "20000"}
        watching = asyncio.create_task(Supervisor.of(environment).watch(healthy))
        while len(asked) < 4:
            await asyncio.sleep(0.005)
        watching.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert [listener.heard(), listener.heard()] == [["WATCHDOG=1"], ["WATCHDOG=1"]]
    listener._socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.heard()
    assert len(caplog.records) == 1  # said once, not at each beat


def test_outside_systemd_nothing_happens() -> None:
    supervisor = Supervisor.of({})
    assert supervisor == Supervisor("", None)
    supervisor.ready()
    asyncio.run(supervisor.watch(lambda: pytest.fail("asked")))


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_ours_when_it_names_us(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert Supervisor.of(environment).watchdog_seconds == seconds


def test_a_supervisor_that_is_gone_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Supervisor(str(tmp_path / "nobody")).ready()
    assert "cannot tell the supervisor" in caplog.text


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "this test needs systemd: apt-get install -y systemd"
    text = UNIT.read_text("utf-8")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/hedgerow/bin/hedgerow", "/bin/true"), "utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    said = [line for line in checked.stderr.splitlines() if unit.name in line]
    assert said == []
    assert checked.returncode == 0
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit],
        capture_output=True,
        text=True,
        check=False,
    )  # 25 of 100: exposure 2.5 of 10
    assert judged.returncode == 0, judged.stdout[-300:]


@pytest.mark.parametrize(
    "line",
    [
        *("Type=notify", "User=hedgerow", "CapabilityBoundingSet=", "NoNewPrivileges=yes"),
        *("Restart=always", "StateDirectory=hedgerow", "ProtectSystem=strict"),
    ],
)
def test_the_unit_keeps_its_promises(line: str) -> None:
    assert line in UNIT.read_text("utf-8").splitlines()


def test_the_unit_runs_the_command_that_there_is() -> None:
    (start,) = (x for x in UNIT.read_text("utf-8").splitlines() if x.startswith("ExecStart="))
    program, *arguments = start.removeprefix("ExecStart=").split()
    assert Path(program).name == "hedgerow"
    from click.testing import CliRunner

    from hedgerow.cli import main

    assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0
