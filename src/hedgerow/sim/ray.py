"""A round's learning spread over a Ray cluster.

Each worker holds an engine and answers with an integer partial sum (`shares.Share`), so the result
has the same bits on one worker or on many. A client always goes to the same worker, which keeps
what its algorithm and its codec keep for it.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from hedgerow.core.errors import HedgerowError, UsageError
from hedgerow.protocol.learning import Shape
from hedgerow.sim.learning import Clients
from hedgerow.sim.shares import Alone, Lesson, Share

LOCAL = "local"
KNOCK_SECONDS = 5.0


@contextmanager
def session(address: str, workers: int = 0) -> Iterator[Any]:
    """Ray's module, connected; within another session that one serves on.

    Raises:
        UsageError: nothing answers at `address`.
        ModuleNotFoundError: the extra `ray` is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody's business
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about itself
        import ray

        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            options |= {"include_dashboard": False, "num_cpus": workers or os.cpu_count()}
        else:
            _reach(address)
            options["address"] = address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _nobody(address, str(error)) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Knock, where the address names a port: Ray itself would knock for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise _nobody(address, str(error)) from error


def _nobody(address: str, why: str) -> UsageError:
    return UsageError(
        f"no Ray cluster answers at {address!r} ({why}); start one with `ray start --head`, or "
        "use --ray local"
    )


class Cluster:
    """A `Sharing` over Ray workers. Use as a context manager; `make` builds one worker's share.

    `address` is what `ray.init` takes, or `local` for a cluster on this machine. `workers` 0 takes
    one for each processor of the cluster.
    """

    def __init__(self, address: str, make: Callable[[], Alone], *, workers: int = 0) -> None:
        """Connect, unless a `session` is open, and start the workers.

        Raises:
            UsageError: nothing answers at `address`.
            ModuleNotFoundError: the extra `ray` is not installed.
        """
        self.workers: list[Any] = []
        self._session = session(address, workers)
        self._ray = self._session.__enter__()
        try:
            self._start(make, workers)
        except BaseException:
            self.close()
            raise

    def _start(self, make: Callable[[], Alone], workers: int) -> None:
        ray = self._ray
        count = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        actor = ray.remote(num_cpus=1)(_Worker)
        shared = ray.put(make)
        self.workers = [actor.remote(shared) for _ in range(count)]
        self._answers([worker.ready.remote() for worker in self.workers])

    def learn(self, shape: Shape, lesson: Lesson, clients: Clients) -> Share:
        """Every worker its clients; their sums are merged."""
        ray, count = self._ray, len(self.workers)
        form, task = ray.put(shape), ray.put(lesson)
        mine = [clients[clients % count == place] for place in range(count)]
        asked = [
            worker.learn.remote(form, task, some)
            for worker, some in zip(self.workers, mine, strict=True)
            if len(some)
        ]
        return Share.merged(self._answers(asked))

    def kept(self) -> Any:
        """What each worker keeps."""
        return self._answers([worker.kept.remote() for worker in self.workers])

    def restore(self, kept: Any) -> None:
        """Go on from what `kept` gave.

        Raises:
            UsageError: there were more or fewer workers.
        """
        if len(kept) != len(self.workers):
            raise UsageError(
                f"the run was kept by {len(kept)} workers and there are {len(self.workers)}; "
                "give it as many (--ray-workers)"
            )
        asked = [w.restore.remote(part) for w, part in zip(self.workers, kept, strict=True)]
        self._answers(asked)

    def close(self) -> None:
        """End the workers, and the connection where it is this one's own."""
        for worker in self.workers:
            self._ray.kill(worker)
        self._session.__exit__(None, None, None)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(self, asked: list[Any]) -> list[Any]:
        try:
            answers: list[Any] = self._ray.get(asked)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, HedgerowError) else error from None
        return answers


class _Worker:
    """One worker's half, in a process of its own."""

    def __init__(self, make: Callable[[], Alone]) -> None:
        self._alone = make()

    def ready(self) -> bool:
        """It is up."""
        return True

    def learn(self, shape: Shape, lesson: Lesson, clients: Clients) -> Share:
        """The share of these clients."""
        return self._alone.learn(shape, lesson, np.array(clients))

    def kept(self) -> Any:
        """What it keeps."""
        return self._alone.kept()

    def restore(self, kept: Any) -> None:
        """As it was."""
        self._alone.restore(kept)
