"""Features of many windows in a process of their own, beside the one that cuts and judges.

A gateway's spectra cost as much as all the rest, and threads of one process would wait for each
other at every step. Windows go there and features come back through shared memory. The process is
started with the first large batch; where it cannot be, or ends, features are made here again, and
it is tried once more after a pause that doubles.

Run as a program it is that process: SOCKET MEMORY SCHEMA ROWS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import mmap
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.schema import InputSchema
from hedgerow.io import clock
from hedgerow.io.children import bare_environment, ends_with_parent
from hedgerow.io.memory import release_startup_pages
from hedgerow.sense.features import Featuriser
from hedgerow.serve.inference.arena import anonymous_file

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
BATCH_BYTES = 4 * 2**20
"""Windows of one batch; what is larger goes in several."""
WORTH_BYTES = 256 * 2**10
"""Below this the way there and back costs more than it saves."""
ANSWER_SECONDS_MAX = 5.0
START_SECONDS_MAX = 20.0
"""The first answer of a process, which starts meanwhile."""
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 30.0, 3600.0
"""Pauses before a process that ended is started again."""
SLOTS = 2
"""Batches on their way at once: one is filled while features of the other are made."""
_REQUEST = struct.Struct("<II")
"""Slot, windows; the answer is the same."""


class _Memory:
    """In one mapping, for each slot: windows `[rows, C, T]` and features `[rows, C, columns]`."""

    def __init__(self, descriptor: int, schema: InputSchema, rows: int, columns: int) -> None:
        channels = len(schema.channels)
        given, made = rows * channels * schema.window, rows * channels * columns
        mapped = mmap.mmap(descriptor, self.size(schema, rows, columns))
        numbers = np.frombuffer(mapped, np.float32).reshape(SLOTS, given + made)
        self.windows = numbers[:, :given].reshape(SLOTS, rows, channels, schema.window)
        self.features = numbers[:, given:].reshape(SLOTS, rows, channels, columns)

    @staticmethod
    def size(schema: InputSchema, rows: int, columns: int) -> int:
        """Bytes of it all."""
        return 4 * SLOTS * rows * len(schema.channels) * (schema.window + columns)


class FeatureProcess:
    """Makes features of one schema, several batches on their way. Use from one event loop."""

    def __init__(self, schema: InputSchema) -> None:
        self._schema = schema
        self._here = Featuriser(schema)
        self._window_bytes = 4 * len(schema.channels) * schema.window
        self._rows = max(1, BATCH_BYTES // self._window_bytes)
        self._process: asyncio.subprocess.Process | None = None
        self._link: socket.socket | None = None
        self._memory: _Memory | None = None
        self._alone = (os.cpu_count() or 1) < 2
        """Whether all is made here, for good."""
        self._again, self._pause = -math.inf, AGAIN_SECONDS
        self._busy_seconds = 0.0
        self._since = 0.0  # when the process had nothing to do for the last time
        self._slots = list(range(SLOTS))
        self._free = asyncio.Semaphore(SLOTS)
        self._starting, self._started = asyncio.Lock(), False
        self._asked: deque[asyncio.Future[None]] = deque()

    @property
    def process(self) -> int | None:
        """The number of the process, where one runs."""
        return None if self._process is None else self._process.pid

    async def features(self, windows: Sequence[Array]) -> Array:
        """Features `[B, *shape]` of B windows `[C, T]`, in a new array."""
        channels = len(self._schema.channels)
        out = np.empty((len(windows), channels, self._here.columns), np.float32)
        if not self._away or len(windows) * self._window_bytes < WORTH_BYTES:
            self._made_here(windows, out)
        else:
            for first in range(0, len(windows), self._rows):
                part = slice(first, first + self._rows)
                await self._there(windows[part], out[part])
        return out.reshape(len(windows), *self._schema.shape)

    def take_busy_seconds(self) -> float:
        """Time that making features took, here or there, since this was last asked."""
        busy, self._busy_seconds = self._busy_seconds, 0.0
        return busy

    async def close(self) -> None:
        """End the process, for good."""
        self._alone = True
        await self._end()

    @property
    def _away(self) -> bool:
        """Whether features may be made by the process now."""
        return not self._alone and clock.monotonic() >= self._again

    def _made_here(self, windows: Sequence[Array], out: Array) -> None:
        began = time.thread_time()
        self._here.rows(windows, out)
        self._busy_seconds += time.thread_time() - began

    async def _end(self) -> None:
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            self._link = None
        while self._asked:
            self._fail(self._asked.popleft(), "it was ended")
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _there(self, windows: Sequence[Array], out: Array) -> None:
        try:
            async with self._free:
                slot = self._slots.pop()
                try:
                    if not self._away:  # it ended while this batch waited for its turn
                        raise ConnectionError("its process ended")
                    await self._answered(slot, windows, out)
                finally:
                    self._slots.append(slot)
        except (OSError, TimeoutError) as error:
            if self._away:  # the first to find out
                log.warning(
                    "features are made in the agent's process for %.0f s: %s", self._pause, error
                )
                self._again = clock.monotonic() + self._pause
                self._pause = min(2 * self._pause, AGAIN_SECONDS_MAX)
                await self._end()
            self._made_here(windows, out)

    async def _answered(self, slot: int, windows: Sequence[Array], out: Array) -> None:
        async with self._starting:
            if self._link is None:
                await self._start()
        assert self._link is not None and self._memory is not None
        for place, window in zip(self._memory.windows[slot], windows, strict=False):
            place[...] = window
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._link.send(_REQUEST.pack(slot, len(windows)))
        if not self._asked:
            self._since = time.monotonic()
        self._asked.append(answer)
        async with asyncio.timeout(ANSWER_SECONDS_MAX if self._started else START_SECONDS_MAX):
            await answer
        self._started = True
        out[...] = self._memory.features[slot, : len(windows)]

    def _readable(self) -> None:
        assert self._link is not None
        try:
            packet = self._link.recv(_REQUEST.size)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet and self._asked:
            answer = self._asked.popleft()
            now = time.monotonic()
            self._busy_seconds += now - self._since  # it does one batch after the other
            self._since = now
            if not answer.done():
                answer.set_result(None)
            return
        asyncio.get_running_loop().remove_reader(self._link)
        while self._asked:
            self._fail(self._asked.popleft(), "its process ended")

    @staticmethod
    def _fail(answer: asyncio.Future[None], why: str) -> None:
        if not answer.done():
            answer.set_exception(ConnectionError(why))

    async def _start(self) -> None:
        schema, columns = self._schema, self._here.columns
        memory = anonymous_file(_Memory.size(schema, self._rows, columns))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._memory = _Memory(memory, schema, self._rows, columns)
            ours.setblocking(False)
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(memory)),
                *(msgspec.json.encode(schema).decode(), str(self._rows)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                env=bare_environment(OMP_NUM_THREADS="1"),
                preexec_fn=ends_with_parent(),
                process_group=0,  # Ctrl-C is for the agent, which ends it in order
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
        asyncio.get_running_loop().add_reader(ours, self._readable)
        self._link, self._started = ours, False


def serve(link: socket.socket, memory: _Memory, featurise: Featuriser) -> None:
    """Answer until the other side closes the socket."""
    while packet := link.recv(_REQUEST.size):
        slot, count = _REQUEST.unpack(packet)
        featurise.rows(list(memory.windows[slot, :count]), memory.features[slot, :count])
        link.send(packet)


if __name__ == "__main__":
    control, shared, text, most = sys.argv[1:]
    chosen = msgspec.json.decode(text, type=InputSchema)
    maker = Featuriser(chosen)
    with socket.socket(fileno=int(control)) as other, contextlib.suppress(ConnectionError):
        release_startup_pages()
        serve(other, _Memory(int(shared), chosen, int(most), maker.columns), maker)
