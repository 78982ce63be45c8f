"""From a thread that reads to the event loop that serves: one bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_JOIN_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class Mailbox(Generic[T]):
    """At most `size` items between any threads and one reader on the event loop it is made on.

    When it is full, `lossy` drops the oldest and counts it in `lost`, as for a camera that does not
    wait; otherwise `put` waits, as for a file that does.
    """

    def __init__(self, size: int, *, lossy: bool) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._lossy = lossy
        self._room = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.lost = 0

    def put(self, item: T) -> bool:
        """Hands over `item`; False once nobody reads any more.

        For threads other than the loop's, unless it is lossy.
        """
        with self._room:
            while not self._lossy and len(self._items) >= self._size and not self._closed:
                self._room.wait()
            if self._closed:
                return False
            if len(self._items) >= self._size:
                self._items.popleft()
                self.lost += 1
            self._items.append(item)
            self._tell()
        return True

    @property
    def closed(self) -> bool:
        """Whether nobody reads any more, or nothing more will come."""
        return self._closed

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more will come; the reader first gets what is there, then `error` if any."""
        with self._room:
            if not self._closed:
                self._closed, self._error = True, error
                self._room.notify_all()
                self._tell()

    def waiting(self) -> list[T]:
        """All that is there, perhaps nothing; without waiting."""
        with self._room:
            items = list(self._items)
            self._items.clear()
            self._room.notify_all()
            return items

    async def take(self) -> list[T]:
        """All that is there, oldest first, at least one; empty at the end.

        Raises:
            BaseException: what `close` was given.
        """
        while True:
            with self._room:
                self._news.clear()
                items = list(self._items)
                self._items.clear()
                self._room.notify_all()
                if not items and self._closed:
                    if self._error is not None:
                        raise self._error
                    return []
            if items:
                return items
            await self._news.wait()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)


@asynccontextmanager
async def produced(
    produce: Callable[[Mailbox[T]], None], *, size: int, lossy: bool, name: str
) -> AsyncGenerator[Mailbox[T], None]:
    """Runs `produce(mailbox)` in a thread of its own, which ends when the block does.

    `produce` returns at the end of what it reads, or soon after `put` gave False or `closed`; what
    it raises reaches the reader.
    """
    mailbox: Mailbox[T] = Mailbox(size, lossy=lossy)

    def run() -> None:
        try:
            produce(mailbox)
        except BaseException as error:  # noqa: BLE001 the reader gets it
            mailbox.close(error)
        else:
            mailbox.close()

    thread = threading.Thread(target=run, name=f"hedgerow-{name}", daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        mailbox.close()
        await asyncio.to_thread(thread.join, _JOIN_SECONDS)
        if thread.is_alive():  # a driver that does not return; the daemon thread holds nobody up
            _log.warning("the reader of %s did not end within %g s", name, _JOIN_SECONDS)
