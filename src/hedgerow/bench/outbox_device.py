"""The device of `hedgerow bench outbox`: a process that can be killed and started at once, often.

One process imports everything and then forks a device for each line it reads; each is a whole
device: it opens its store, logs in at the server, writes messages into its outbox and sends them.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from pathlib import Path
from typing import Final

from hedgerow.io import clock, entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.children import ends_with_parent
from hedgerow.io.device_store import DeviceStore, OutboxItem, StoreLimits
from hedgerow.io.links import ByteMeter
from hedgerow.io.nats_link import NatsDeviceLink
from hedgerow.serve.forwarding import Forwarder
from hedgerow.wire.events import Occurrence, encode_event

FACT_NEXT: Final = "next"
TOLD: Final = "told"
"""A file with the number up to which the store said that messages are kept; it outlives a kill."""
CREDENTIALS: Final = "device.creds"
WAITING_MAX: Final = 20_000
BATCH: Final = 1000
LANES: Final = (8, 4)
LIMITS: Final = StoreLimits(outbox_bytes_max=256 * 2**20)


class Device:
    """One life of the device."""

    def __init__(self, state: Path, url: str, fleet: str) -> None:
        credentials = Credentials.load(state / CREDENTIALS)
        self._store = DeviceStore(state / "device.db", LIMITS)
        self._told = os.open(state / TOLD, os.O_RDWR | os.O_CREAT, 0o600)
        self._next = kept_next(self._store)
        self._forwarder = Forwarder(self._store, credentials.identity)
        self._link = NatsDeviceLink(
            *(url, fleet, credentials, lambda data: None, self._forwarder.on_state, ByteMeter())
        )

    async def live(self, mode: str) -> None:
        """`for_ever` until killed, `drain` until nothing waits, or that many messages and drain."""
        self._forwarder.attach(self._link)
        sending = asyncio.create_task(self._forwarder.run())
        await self._link.connect()
        rng = entropy.generator()
        if mode == "for_ever":
            while True:
                self._write(int(rng.integers(1, 300)), LANES[int(rng.integers(len(LANES)))])
                await asyncio.sleep(float(rng.uniform(0.0, 0.004)))
                await self._room(WAITING_MAX)
        if mode != "drain":
            _say(f"begun {clock.monotonic()!r}")
            for _ in range(int(mode) // BATCH):
                self._write(BATCH, LANES[0])
                await self._room(4 * BATCH)
        while self._store.outbox_count() and not sending.done():
            await asyncio.sleep(0.01)
        if sending.done():
            sending.result()
        await self._link.close()

    async def _room(self, waiting_max: int) -> None:
        await asyncio.sleep(0)
        while self._next - self._forwarder.sent > waiting_max:
            if self._store.outbox_count() <= waiting_max:
                break
            await asyncio.sleep(0.001)

    def _write(self, count: int, lane: int) -> None:
        """So many messages in one commit, then say outside the store that they are kept."""
        numbers = range(self._next, self._next + count)
        with self._store.transaction():
            kept = self._store.put_outbox_batch([_item(number, lane) for number in numbers])
            self._store.set_fact(FACT_NEXT, str(self._next + count).encode())
        assert kept == count
        self._next += count
        self._forwarder.nudge()
        os.pwrite(self._told, struct.pack("<Q", self._next), 0)


def kept_next(store: DeviceStore) -> int:
    """How many messages the store was given, by its own account."""
    kept = store.fact(FACT_NEXT)
    return 0 if kept is None else int(kept)


def told(state: Path) -> int:
    """How many messages the store said are kept."""
    path = state / TOLD
    said = path.read_bytes() if path.exists() else b""
    return int(struct.unpack("<Q", said)[0]) if said else 0  # it may die before it says anything


def _item(number: int, lane: int) -> OutboxItem:
    stream = f"machine {number % 2000}"
    event = Occurrence(
        stream=stream,
        time_seconds=float(number),
        label="outer race",
        confidence=0.93,
        reason="1.8 times the threshold for 3 windows",
        alert=True,
        score=1.8,
        model="vibration 1.0",
    )
    return OutboxItem(
        *(f"exception/{number}", "exception", lane, clock.now(), encode_event(event)), stream
    )


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def main() -> None:
    """Fork a device for every line of input; say its process id, and `ended` after it ended."""
    state, url, fleet = sys.argv[1:]
    for line in sys.stdin:
        bind = ends_with_parent()
        child = os.fork()
        if child == 0:
            bind()
            code = 1
            try:
                asyncio.run(Device(Path(state), url, fleet).live(line.strip()))
                code = 0
            finally:
                os._exit(code)
        _say(f"device {child}")
        _, status = os.waitpid(child, 0)
        _say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
