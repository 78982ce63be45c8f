"""Running one command and then looking for whatever it left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

MARK = "WHOSE_PROCESS_IS_THIS"


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """`python -m hedgerow …` whose temporary directories and descendants can be told apart."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self._temporary = home / "tmp"
        self._temporary.mkdir()
        self._mark = f"{MARK}={home}"
        environment = {**os.environ, "TMPDIR": str(self._temporary), MARK: str(home)}
        self._out, self._err = home / "out", home / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hedgerow", *arguments],
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for process in self.left_behind():
            os.kill(int(process.partition(" ")[0]), signal.SIGKILL)

    @property
    def err(self) -> str:
        return self._err.read_text()

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole foreground group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait_for(self, text: str, seconds_max: float) -> None:
        """Until it said `text` on standard error."""
        deadline = time.monotonic() + seconds_max
        while text not in self.err:
            assert self._process.poll() is None, self.err
            assert time.monotonic() < deadline, self.err
            time.sleep(0.02)

    def done(self, seconds_max: float) -> Done:
        """Wait until it ended."""
        code = self._process.wait(seconds_max)
        return Done(code, self._out.read_text(), self.err)

    def left_behind(self) -> list[str]:
        """Descendants that still run, each as its id and command."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                environment = (directory / "environ").read_bytes().split(b"\0")
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it ended meanwhile, or is somebody else's
                continue
            if self._mark.encode() in environment and command:
                found.append(f"{directory.name} {command}")
        return found

    def files_left(self) -> list[str]:
        """What it left in the directory for temporary files."""
        return sorted(path.name for path in self._temporary.iterdir())
