"""One worker process from birth to death: it runs one model, and answers or ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.io import clock
from hedgerow.io.children import bare_environment, ends_with_parent
from hedgerow.io.memory import resident_bytes
from hedgerow.model.running import Choice
from hedgerow.serve.inference.arena import (
    SINGLE,
    SLOTS,
    WEIGHTS,
    Arena,
    ArenaShape,
    anonymous_file,
    file_of,
)
from hedgerow.serve.inference.base import InferenceSettings, ModelDown, ModelRefused, ModelSpec
from hedgerow.serve.inference.worker import PACKET_MAX, REPLY, REQUEST, Ready, Work, packed

Array = NDArray[np.float32]
MODULE = "hedgerow.serve.inference.worker"
RETIRE_SECONDS = 0.005
CANNOT = "the model cannot answer this; the agent's log says why"


@dataclass(slots=True)
class _Asked:
    """A batch on its way."""

    answer: asyncio.Future[Array]
    slot: int
    rows: int
    timer: asyncio.TimerHandle


class Worker:
    """A model in a process of its own. Make one with `start`; it is of use until `lost` is set."""

    def __init__(
        self,
        spec: ModelSpec,
        arena: Arena,
        link: socket.socket,
        process: asyncio.subprocess.Process,
    ) -> None:
        self.spec = spec
        self.choice: Choice
        self.lost = ""
        """Why it ended; empty while it runs."""
        self.hung = False
        self.answered = 0
        self.on_lost: Callable[[Worker], None] = lambda worker: None
        self._arena, self._link, self._process = arena, link, process
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._slots = list(range(SLOTS))
        self._free = asyncio.Semaphore(SLOTS)
        self._asked: dict[int, _Asked] = {}
        self._users = 0
        self._single = False  # whether a window by itself is on its way
        # asyncio's own kill may reap a process that has just ended, and its exit code with it.
        self._handle = -1
        with contextlib.suppress(ProcessLookupError):  # it ended at once
            self._handle = os.pidfd_open(process.pid)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    @classmethod
    async def start(cls, spec: ModelSpec, settings: InferenceSettings, threads: int) -> Worker:
        """A process that has loaded the model and answered once.

        Raises:
            ModelRefused: it says that it cannot run the model.
            ModelDown: it ended, or took longer than `start_seconds`.
        """
        manifest = spec.bundle.manifest
        shape = ArenaShape(
            *(settings.batch_max, manifest.input.shape, manifest.output.size, len(spec.weights))
        )
        memory, work = anonymous_file(shape.bytes), _file(spec, shape, settings, threads)
        arena = Arena(shape, memory)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        descriptors = (theirs.fileno(), memory, work)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE, *map(str, descriptors)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=descriptors,
                env=bare_environment(
                    "CUDA_VISIBLE_DEVICES", OMP_NUM_THREADS=str(threads), MALLOC_ARENA_MAX="1"
                ),
                preexec_fn=ends_with_parent(),
                process_group=0,  # Ctrl-C is for the agent, which ends it in order
            )
            worker = cls(spec, arena, ours, process)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
            os.close(work)
        try:
            worker.choice = await worker._ready(settings.start_seconds)
        except BaseException:
            await worker.close()
            raise
        worker._loop.add_reader(ours.fileno(), worker._readable)
        return worker

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """What it has in memory; parts of it are shared with other processes."""
        return resident_bytes(self.pid)

    async def change(self, spec: ModelSpec, seconds: float) -> None:
        """Answer with other weights for the same bundle, without another process.

        Raises:
            ModelRefused: it says that it cannot; it goes on with those it has.
            ModelDown: it ended, or took longer than `seconds`.
        """
        if self.lost:
            raise ModelDown(self.lost)
        self._arena.weights[...] = spec.weights
        await self._ask(WEIGHTS, self._arena.weights[:0], seconds)
        try:
            ready = msgspec.json.decode(self._arena.read_word(), type=Ready)
        except msgspec.MsgspecError as error:
            raise ModelRefused(f"the model's process said something else: {error}") from None
        if ready.choice is None:
            raise ModelRefused(ready.error)
        self.spec, self.choice, self.answered = spec, ready.choice, 0

    # Answers --------------------------------------------------------------------------------------

    async def infer(self, x: Array, deadline_seconds: float) -> Array:
        """Answers `[B, size]` to inputs `[B, *shape]`, B at most `batch_max`.

        Raises:
            ModelDown: it ended before it answered, or did not answer in time: then it is ended.
        """
        self._users += 1
        try:
            await self._free.acquire()
            if self.lost:
                self._free.release()
                raise ModelDown(self.lost)
            return await self._ask(self._slots.pop(), x, deadline_seconds)
        finally:
            self._users -= 1

    def one(self, x: Array, patience_seconds: float, deadline_seconds: float) -> Array:
        """The answer `[size]` to one input `[*shape]`, waited for in place.

        Raises:
            ModelDown: there is none within `patience_seconds`. The process has until the deadline
                all the same; before it answers it is asked for no other single window.
        """
        if self.lost:
            raise ModelDown(self.lost)
        if self._single:
            raise ModelDown("the model is still busy with the window before")
        answer = self._ask(SINGLE, x[None], deadline_seconds)
        limit = clock.monotonic() + patience_seconds
        while not answer.done():
            left = limit - clock.monotonic()
            if left <= 0 or not self._poll.poll(1000 * left):
                answer.cancel()
                raise ModelDown(f"the model did not answer within {patience_seconds:g} s")
            self._readable()
        first: Array = answer.result()[0]
        return first

    def _ask(self, slot: int, x: Array, deadline_seconds: float) -> asyncio.Future[Array]:
        """Put a batch into a slot, which is taken until the process has answered or ended."""
        if slot != WEIGHTS:
            self._arena.inputs[slot][: len(x)] = x
        self._number = number = (self._number + 1) % 2**32
        timer = self._loop.call_later(deadline_seconds, self._late, deadline_seconds)
        answer: asyncio.Future[Array] = self._loop.create_future()
        self._asked[number] = _Asked(answer, slot, len(x), timer)
        self._single |= slot == SINGLE
        try:
            self._link.send(REQUEST.pack(number, slot, len(x)))
        except OSError as error:
            self._lose(f"the model's process cannot be reached: {error}")
        return answer

    def _readable(self) -> None:
        """An answer came, or the other side is gone."""
        try:
            packet = self._link.recv(PACKET_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        asked = None
        if len(packet) == REPLY.size:
            number, failed, _ = REPLY.unpack(packet)
            asked = self._asked.pop(number, None)
        if asked is None:
            self._lose("the model's process ended")
            return
        slot = SINGLE if asked.slot == WEIGHTS else asked.slot
        answers = self._arena.answers[slot][: asked.rows].copy()
        self._let_go(asked)
        if asked.answer.done():
            return  # nobody waits for it any more
        if failed:
            asked.answer.set_exception(ModelDown(CANNOT))
        else:
            self.answered += 1
            asked.answer.set_result(answers)

    def _let_go(self, asked: _Asked) -> None:
        asked.timer.cancel()
        if asked.slot == SINGLE:
            self._single = False
        elif asked.slot < SLOTS:
            self._slots.append(asked.slot)
            self._free.release()

    # Ends -----------------------------------------------------------------------------------------

    def _late(self, deadline_seconds: float) -> None:
        """It hangs. SIGKILL ends it for sure, even where it was stopped."""
        self.hung = True
        self._lose(f"the model did not answer within {deadline_seconds:g} s")

    def _lose(self, reason: str) -> None:
        """It is of no more use: whoever waits hears so now."""
        if self.lost:
            return
        self.lost = reason
        self._loop.remove_reader(self._link.fileno())
        self._link.close()
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        waiting, self._asked = self._asked, {}
        for asked in waiting.values():
            self._let_go(asked)
            if not asked.answer.done():
                asked.answer.set_exception(ModelDown(reason))
        self.on_lost(self)

    async def retire(self) -> None:
        """End it when it has answered all that it was asked; each of that has its deadline."""
        while self._users and not self.lost:
            await asyncio.sleep(RETIRE_SECONDS)
        await self.close()

    async def close(self) -> str:
        """End it, and all that waits for it; how it ended, in words."""
        self._lose("the model's process was ended")
        code = await self._process.wait()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self.hung:
            return self.lost
        if code < 0:
            return f"the model's process ended with {signal.Signals(-code).name}"
        return f"the model's process ended with exit code {code}"

    async def _ready(self, seconds: float) -> Choice:
        """Wait for its first word."""
        try:
            async with asyncio.timeout(seconds):
                packet = await self._loop.sock_recv(self._link, PACKET_MAX)
        except TimeoutError:
            self.hung = True
            raise ModelDown(f"the model did not start within {seconds:g} s") from None
        except OSError:
            packet = b""
        if not packet:
            raise ModelDown("the model's process ended while it started")
        try:
            ready = msgspec.json.decode(packet, type=Ready)
        except msgspec.MsgspecError as error:
            raise ModelDown(
                f"the model's process said something else than ready: {error}"
            ) from None
        if ready.choice is None:
            raise ModelRefused(ready.error)
        return ready.choice


def _file(spec: ModelSpec, shape: ArenaShape, settings: InferenceSettings, threads: int) -> int:
    """What the process is to run, as a file that only it can read."""
    bundle = spec.bundle.to_bytes()
    windows = spec.calibration
    work = Work(
        arena=shape,
        bundle_bytes=len(bundle),
        weights=len(spec.weights),
        calibration=0 if windows is None else len(windows),
        precision=settings.precision,
        providers=settings.providers,
        threads=threads,
    )
    weights = np.ascontiguousarray(spec.weights, "<f4").tobytes()
    rows = b"" if windows is None else np.ascontiguousarray(windows, "<f4").tobytes()
    return file_of(packed(work, bundle, weights, rows))
