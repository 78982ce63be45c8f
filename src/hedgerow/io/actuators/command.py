"""Runs a program of the owner's for each notice, which it gets as JSON on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from hedgerow.core.errors import UsageError
from hedgerow.decide.notice import Notice
from hedgerow.io.actuators.base import Act, Actuator, ActuatorDown
from hedgerow.io.surroundings import Surroundings

_log = logging.getLogger(__name__)
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
"""What a command sees of the environment: no setting and no secret of the agent's."""
_SAID_BYTES_MAX: Final = 2048


class Command(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`argv` is started as it stands, by no shell.

    Notices of one stream run one after the other, of several streams at most `at_once` at a time.
    From `timeout_seconds` on one is killed with all that it started. Each notice is handed over
    once: a command that fails is logged, not repeated.
    """

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    directory: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    at_once: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4

    @contextlib.asynccontextmanager
    async def open(self, around: Surroundings) -> AsyncGenerator[Act, None]:
        """Finds the program; see `Actuator.open`."""
        if self.directory and not Path(self.directory).is_dir():
            raise UsageError(f"directory {self.directory!r} is none; make it, or name another")
        program = shutil.which(self.argv[0])
        if program is None:
            raise UsageError(
                f"there is no program {self.argv[0]!r} that may be run; give its whole path, and "
                'chmod +x it. A line for a shell goes into a script, or is ["sh", "-c", …]'
            )
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= self.environment
        places = asyncio.Semaphore(self.at_once)

        async def one_stream(notices: Sequence[Notice]) -> int:
            async with places:
                started = 0
                for notice in notices:
                    given = msgspec.json.encode(notice) + b"\n"
                    try:
                        failure = await self._run(program, environment, given)
                    except OSError as error:
                        _log.warning("%s cannot be started: %s", program, error.strerror)
                        continue
                    started += 1
                    # Where it goes from there nobody here can see, so it counts as gone.
                    around.egress.left(
                        to=f"command {Path(program).name}",
                        kind="alert" if notice.alert else "state",
                        purpose="handed to the owner's command",
                        size=len(given),
                        digest=hashlib.sha256(given).digest(),
                    )
                    if failure:
                        _log.warning("%s for %r: %s", program, notice.stream, failure)
                return started

        async def act(notices: Sequence[Notice]) -> None:
            streams: dict[str, list[Notice]] = {}
            for notice in notices:
                streams.setdefault(notice.stream, []).append(notice)
            # What was handed over is not handed over again, however the command ended: it may have
            # rung the bell before it failed.
            if notices and not sum(await asyncio.gather(*map(one_stream, streams.values()))):
                raise ActuatorDown(f"{program} cannot be started; see that it may be run")

        yield act

    async def _run(self, program: str, environment: dict[str, str], given: bytes) -> str:
        """Runs it once; what went wrong, empty if nothing. Raises OSError where it cannot start."""
        process = await asyncio.create_subprocess_exec(
            program,
            *self.argv[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.directory or None,
            env=environment,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self.timeout_seconds):
                said = await _talk(process, given)
                status = await process.wait()
        except TimeoutError:
            return f"it did not end within {self.timeout_seconds:g} s and was killed"
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it left running ends with it
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status == 0:
            return ""
        return f"it ended with {status} and said {said.decode('utf-8', 'replace').strip()!r}"


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> bytes:
    """Writes `given`, reads to the end, and keeps the beginning of what it says."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()
    said = b""
    while part := await process.stdout.read(65_536):
        said = (said + part)[:_SAID_BYTES_MAX]
    return said
