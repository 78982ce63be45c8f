"""Processes that train beside each other, as no two of them share an interpreter's lock.

Each holds an engine of its own, is asked over a socket for the sum of some clients, and answers
with integers, so that it does not matter who sums whom. Arrays of the clients' data lie once in a
temporary file that all of them map, to read only. A process keeps nothing between two questions:
it is killed when it is done with, and ends by itself if whoever asked is gone.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, cast

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.model.passes import Counts
from hedgerow.sim.totals import Round

if TYPE_CHECKING:
    from hedgerow.sim.engine import Engine

_MODULE: Final = "hedgerow.sim.crew"
_GRAIN: Final = 64  # bytes; arrays begin at multiples of it
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Crew:
    """A process for each thread that asks, started when it first does. `close` it."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        """`make` is called in each process; it and all it holds is pickled when first wanted."""
        self._make = make
        self._parcel: _Parcel | None = None
        self._here = threading.local()
        self._lock = threading.Lock()
        self._members: list[_Member] = []

    @property
    def processes(self) -> list[int]:
        """The numbers of those that live."""
        with self._lock:
            processes = [member.process for member in self._members]
        return [process.pid for process in processes if process.poll() is None]

    def sums(self, lesson: bytes, clients: Counts) -> Round:
        """What `clients` come to; `lesson` as the function of that name makes it.

        Raises:
            UsageError: the process ended, what it needs cannot be pickled, or the engine says so;
                other errors as the engine's.
        """
        member: _Member | None = getattr(self._here, "member", None)
        if member is None or member.process.poll() is not None:
            with self._lock:
                if self._parcel is None:
                    self._parcel = _Parcel(self._make)
                member = self._here.member = _Member(self._parcel)
                self._members.append(member)
        return member.sums(lesson, clients)

    def kill(self) -> None:
        """End all processes; whoever waits for one is told so."""
        with self._lock:
            for member in self._members:
                member.process.kill()
                member.process.wait()

    def close(self) -> None:
        """The same, once nobody asks any more."""
        self.kill()
        for member in self._members:
            member.link.close()
        self._members.clear()
        if self._parcel is not None:
            self._parcel.file.close()


def lesson(**arguments: object) -> bytes:
    """What every member is told once: the arguments of `Engine.sums`, but for the clients.

    Raises:
        UsageError: they cannot be given to other processes.
    """
    return _pickled(arguments, None)


def _pickled(content: object, apart: Callable[[pickle.PickleBuffer], object] | None) -> bytes:
    """`content` as bytes, its arrays `apart`."""
    try:
        return pickle.dumps(content, protocol=5, buffer_callback=apart)
    except Exception as error:  # whatever an object's own pickling raises
        raise UsageError(
            f"what is to be learned cannot be given to other processes ({error}); take threads "
            "(processes=False), or classes and functions of a module"
        ) from error


class _Parcel:
    """An object as it travels, its arrays apart in a file."""

    def __init__(self, content: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        self._head = _pickled(content, buffers.append)
        self._spans: list[tuple[int, int]] = []
        self.file = tempfile.TemporaryFile(prefix="hedgerow-data-")  # noqa: SIM115 - the crew's
        for buffer in buffers:
            with buffer.raw() as raw:
                self._spans.append((self.file.tell(), raw.nbytes))
                self.file.write(raw)
                self.file.write(bytes(-raw.nbytes % _GRAIN))
        self.file.flush()

    @property
    def told(self) -> tuple[list[str], bytes, list[tuple[int, int]]]:
        """Where modules are found, the object, and where its arrays are in the file."""
        return sys.path, self._head, self._spans


class _Member:
    """One process, seen from the thread that asks it."""

    def __init__(self, parcel: _Parcel) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = theirs.fileno(), parcel.file.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=os.environ | _ONE_THREAD,
                process_group=0,  # Ctrl-C is for whoever asks
            )
        self.link = Connection(ours.detach())
        self._parcel: _Parcel | None = parcel  # until it is sent
        self._told: bytes | None = None

    def sums(self, lesson: bytes, clients: Counts) -> Round:
        try:
            if self._parcel is not None:
                self.link.send(self._parcel.told)
                self._parcel = None
            self.link.send_bytes(b"" if lesson is self._told else lesson)
            self.link.send(clients)
            well, answer = self.link.recv()
        except (EOFError, OSError) as error:
            self.process.kill()  # should it live, and only its link be broken
            code = self.process.wait()
            raise UsageError(
                f"a process that trained ended with {code}; if memory ran out (-9), take fewer "
                "workers"
            ) from error
        self._told = lesson if well else None
        if not well:
            raise answer
        return cast(Round, answer)


def serve(link: Connection, descriptor: int) -> None:
    """A member's own half: answer until nobody is there any more."""
    path, head, spans = link.recv()
    sys.path[:] = path
    arguments: dict[str, Any] = {}
    engine: Engine | None = None
    answer: tuple[bool, Round | Exception]
    while True:
        told, clients = link.recv_bytes(), link.recv()
        try:
            if engine is None:
                engine = pickle.loads(head, buffers=_mapped(descriptor, spans))()  # noqa: S301
            if told:
                arguments = pickle.loads(told)  # noqa: S301 - from the process that started this one
            answer = True, engine.sums(clients=clients, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised over there
            answer = False, _sendable(error)
        link.send(answer)


def _mapped(descriptor: int, spans: list[tuple[int, int]]) -> list[memoryview]:
    size = os.fstat(descriptor).st_size
    whole = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b"")
    return [whole[start : start + length] for start, length in spans]


def _sendable(error: Exception) -> Exception:
    """An error as it is raised over there: itself, where it survives the way."""
    error.add_note(f"In a process that trained:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:  # noqa: BLE001 - anybody's error, with anybody's idea of pickling
        kind = HedgerowError if isinstance(error, HedgerowError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    except (EOFError, ConnectionError):
        os._exit(0)  # nobody waits for what is under way
