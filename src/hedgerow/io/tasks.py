"""Ending background tasks so that they do end."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 0.2


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and return when all are done; what they raised is not raised here.

    Once is not enough: on Python 3.11 `asyncio.wait_for`, which the NATS client is full of,
    swallows a cancellation that comes in the same turn of the event loop as what it waits for.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that no error counts as unseen
