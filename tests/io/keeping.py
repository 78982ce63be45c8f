"""Small stores for tests, with clocks that stand still until they are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hedgerow.decide.notice import Notice
from hedgerow.io.device_store import (
    ROW_BYTES,
    DeviceStore,
    OutboxItem,
    StoredWindow,
    StoreLimits,
)
from hedgerow.io.timeline import Clocks

WINDOW_BYTES = 2 * 3 * 4
ITEM_BYTES = 10 + 1 + ROW_BYTES
"""What an item of `item` costs: its body, a name of one letter, and the row."""
LIMITS = StoreLimits(
    windows_bytes_max=3 * WINDOW_BYTES,
    windows_age_seconds_max=100.0,
    notices_bytes_max=2_000,
    notices_age_seconds_max=100.0,
    outbox_bytes_max=3 * ITEM_BYTES,
    outbox_age_seconds_max=100.0,
    blobs_bytes_max=30,
)


class Hands:
    """Clocks that are set by hand. `clocks(boot)` are those of one boot."""

    def __init__(self) -> None:
        self.boot = 1_000.0
        self.wall = 1_700_000_000.0

    def clocks(self, boot_id: str = "first boot") -> Clocks:
        return Clocks(boot_id, lambda: self.boot, lambda: self.wall)

    def wait(self, seconds: float) -> None:
        self.boot += seconds
        self.wall += seconds


def small_store(tmp_path: Path) -> Iterator[DeviceStore]:
    opened = DeviceStore(tmp_path / "device.db", LIMITS)
    yield opened
    opened.close()


def window(
    value: float, start: float = 0.0, purpose: str = "train", stream: str = "", seconds: float = 0.0
) -> StoredWindow:
    x = np.full((2, 3), value, np.float32)
    return StoredWindow(x, int(value), start, purpose, stream, seconds)


def item(
    name: str, priority: int = 0, size: int = 10, created: float = 0.0, kind: str = "update"
) -> OutboxItem:
    return OutboxItem(name, kind, priority, created, name[0].encode() * size)


def notice(stream: str, time: float, alert: bool = False, label: str = "normal") -> Notice:
    return Notice(
        stream=stream,
        time_seconds=time,
        label=label,
        confidence=0.9,
        reason="as ever",
        changed=alert,
        alert=alert,
    )
