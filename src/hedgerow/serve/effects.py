"""What both shells share: timers on the event loop, and tasks that are not lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from hedgerow.io.tasks import end

log = logging.getLogger(__name__)


class Timers:
    """Named timers; setting one again replaces it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[str], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def set(self, name: str, delay_seconds: float) -> None:
        """Fire `name` after `delay_seconds`."""
        self.cancel(name)
        self._handles[name] = self._loop.call_later(max(delay_seconds, 0.0), self._run, name)

    def cancel(self, name: str) -> None:
        """Forget `name`, if it is set."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Forget all."""
        for name in list(self._handles):
            self.cancel(name)

    def _run(self, name: str) -> None:
        self._handles.pop(name, None)
        self._fire(name)


class Tasks:
    """Background tasks of one shell. One that fails stops the shell with its error."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def fail(self, error: BaseException) -> None:
        """Stop the shell with `error`; the first one counts."""
        if not self.failed.done():
            self.failed.set_exception(error)

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """An error inside stops the shell, and goes on to the caller.

        Timers and links only log what their callbacks raise; half of an event's effects would leave
        the machine waiting for ever.
        """
        try:
            yield
        except Exception as error:
            self.fail(error)
            raise

    async def close(self) -> None:
        """Cancel what still runs and wait for it to end."""
        await end(list(self._tasks))
        if self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # it was seen, or the shell is going down anyway

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
