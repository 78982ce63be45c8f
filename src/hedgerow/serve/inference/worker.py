"""The process a model runs in: it does nothing else, and what happens to it happens to it alone.

Started as `python -m hedgerow.serve.inference.worker CONTROL ARENA MODEL`, three descriptors: a
socket on which each message is one packet, the shared memory, and a file with what to run. It says
once that it is ready, then answers batches in the order they come until the socket is closed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import resource
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.io.memory import release_startup_pages
from hedgerow.model.bundle import Bundle
from hedgerow.model.running import Choice
from hedgerow.serve.inference.arena import WEIGHTS, Arena, ArenaShape
from hedgerow.serve.inference.base import Array

if TYPE_CHECKING:
    from hedgerow.model.predictor import Predictor

REQUEST = struct.Struct("<III")
"""Number of the request, slot, rows."""
REPLY = struct.Struct("<IIf")
"""Number of the request, 0 or 1 for an error, seconds that the model took."""
PACKET_MAX = 65_536
_MISFORTUNE = 500
"""Of all processes on a full machine this one goes first, not the agent (out of memory score)."""


class Work(msgspec.Struct, frozen=True):
    """What to run. The bundle's archive lies behind this header, then weights, then windows."""

    arena: ArenaShape
    bundle_bytes: int
    weights: int
    calibration: int
    precision: str
    providers: tuple[str, ...]
    threads: int


class Ready(msgspec.Struct, frozen=True):
    """The first packet: what the model runs with, or why it cannot run."""

    choice: Choice | None
    error: str = ""


def packed(work: Work, bundle: bytes, weights: bytes, calibration: bytes) -> bytes:
    """The file that a worker reads its work from."""
    header = msgspec.json.encode(work)
    return b"".join((len(header).to_bytes(4, "little"), header, bundle, weights, calibration))


def main(control: int, arena: int, model: int) -> None:
    """Run until the other side closes the socket."""
    _shield()
    with socket.socket(fileno=control) as link:
        try:
            predictor, memory = _prepared(arena, model)
        except (HedgerowError, MemoryError) as error:
            link.send(msgspec.json.encode(Ready(None, str(error)[:4000])))
            return
        finally:
            os.close(model)
        link.send(msgspec.json.encode(Ready(predictor.choice)))
        release_startup_pages()
        with contextlib.suppress(ConnectionError):
            _serve(link, predictor, memory)


def _serve(link: socket.socket, predictor: Predictor, memory: Arena) -> None:
    while packet := link.recv(REQUEST.size):
        number, slot, rows = REQUEST.unpack(packet)
        start = time.perf_counter()
        failed = 0
        if slot == WEIGHTS:
            predictor = _changed(predictor, memory)
            link.send(REPLY.pack(number, 0, time.perf_counter() - start))
            continue
        try:
            _answer(predictor, memory.inputs[slot][:rows], memory.answers[slot][:rows])
        except HedgerowError as error:
            failed = 1
            sys.stderr.write(f"{error}\n")
        link.send(REPLY.pack(number, failed, time.perf_counter() - start))


def _changed(predictor: Predictor, memory: Arena) -> Predictor:
    """The same model with the weights that lie in the arena, or as it was; says which."""
    try:
        fresh = _with_weights(predictor, memory)
    except HedgerowError as error:
        memory.write_word(msgspec.json.encode(Ready(None, str(error)[:4000])))
        return predictor
    memory.write_word(msgspec.json.encode(Ready(fresh.choice)))
    return fresh


def _with_weights(predictor: Predictor, memory: Arena) -> Predictor:
    try:
        fresh = predictor.with_weights(memory.weights)
        fresh.one(np.zeros(memory.shape.shape, np.float32))
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise UsageError(f"the model cannot run with these weights: {error}") from error
    return fresh


def _answer(predictor: Predictor, x: Array, out: Array) -> None:
    try:
        if len(x) == 1:
            out[0] = predictor.one(x[0])
        else:
            out[...] = predictor(x)
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise UsageError(f"the model cannot answer: {error}") from error


def _prepared(arena: int, model: int) -> tuple[Predictor, Arena]:
    from hedgerow.model.predictor import Predictor  # the agent reads this module, too

    with mmap.mmap(model, 0, access=mmap.ACCESS_READ) as file:
        end = 4 + int.from_bytes(file[:4], "little")
        work = msgspec.json.decode(file[4:end], type=Work)
        bundle = Bundle.from_bytes(file[end : end + work.bundle_bytes])
        end += work.bundle_bytes
        weights = np.frombuffer(file[end : end + 4 * work.weights], np.float32)
        end += 4 * work.weights
        windows = None
        if work.calibration:
            rows = np.frombuffer(file[end:], np.float32)
            windows = rows.reshape(work.calibration, *work.arena.shape)
    predictor = Predictor(
        bundle,
        weights=weights,
        precision=work.precision,
        calibration=windows,
        threads=work.threads,
        providers=work.providers,
        clock=time.perf_counter,
    )
    predictor.one(np.zeros(work.arena.shape, np.float32))  # what starts up with the first answer
    return predictor, Arena(work.arena, arena)


def _shield() -> None:
    """A crash leaves a trace on standard error, and no copy of what was sensed on the disk."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_MISFORTUNE))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
