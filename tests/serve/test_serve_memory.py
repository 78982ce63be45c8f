"""What a device keeps for its next update is true only if the last one is in a sum."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from typing import cast

import numpy as np
import pytest

from hedgerow.algorithms.scaffold import Scaffold
from hedgerow.core.layout import Vector
from hedgerow.core.schema import LocalPlan
from hedgerow.io.device_store import DeviceStore, StoreLimits
from hedgerow.io.keys import Identity
from hedgerow.io.links import DeviceLink, LinkDown, MessageRefused
from hedgerow.protocol import device as machine
from hedgerow.serve.device import DeviceShell, Hooks, Outcome
from hedgerow.serve.memory import FACT_BEFORE, FACT_MEMORY, DeviceMemory
from hedgerow.wire.messages import Offer, Receipt, update_id
from hedgerow.wire.weights import model_ref, to_bytes
from tests.serve.hosting import until

WEIGHTS = np.zeros(2, np.float32)
DAY = 86_400.0


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def memory(number: int) -> DeviceMemory:
    """What round `number` leaves behind."""
    own = {"control": vector(number, 0)}
    return DeviceMemory(vector(10 * number), Scaffold(), own, {"delta": vector(0, number)})


class Link:
    """Takes every message, unless told otherwise."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def send_note(self, data: bytes) -> None:
        pass

    async def send_update(self, data: bytes, post_id: str) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        pass


class Trainer:
    """Keeps `memory(n)` of round n."""

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        return Outcome((b"update",), 8, {}, memory=memory(offer.round).to_bytes())

    def personalise(self, blob: bytes, stop: Flag) -> bytes:
        return blob


class Device:
    """A device on its store; another one on the same path is it after a restart."""

    def __init__(self, home: Path, limits: StoreLimits | None = None) -> None:
        self.identity = Identity.load_or_create(home / "device.nk")
        self.store = DeviceStore(home / "device.db", limits)
        self.store.put_blob(to_bytes(WEIGHTS))
        self.link, self.executor = Link(), ThreadPoolExecutor(1)
        self.learned: list[bytes] = []
        state = machine.DeviceState(
            self.identity.public, "ash", model_ref(0, WEIGHTS), samples=8, check_in_seconds=99
        )
        hooks = Hooks(
            lambda model, blob: None,
            lambda model, weights: None,
            lambda what, fields: None,
            self.learned.append,
        )
        self.shell = DeviceShell(
            state, self.identity, "desk", self.store, Trainer(), self.executor, hooks
        )
        self.shell.attach(cast(DeviceLink, self.link))
        self.shell.on_state(True)

    async def train(self, number: int) -> None:
        offer = Offer(
            round=number, model=model_ref(0, WEIGHTS), plan=LocalPlan(), deadline_seconds=60
        )
        before = len(self.learned)
        self.shell.handle(machine.Received(offer))
        await until(lambda: len(self.learned) > before)

    def hear(self, number: int, outcome: str) -> None:
        receipt = Receipt(id=update_id(self.identity.public, number), outcome=outcome)
        self.shell.handle(machine.Received(receipt))

    @property
    def kept(self) -> DeviceMemory:
        return DeviceMemory.from_bytes(self.store.fact(FACT_MEMORY), vector(0))

    def check(self, private: int, rest: int) -> None:
        """Private tensors are of one round, the others of another one (0: of none)."""
        kept = self.kept
        np.testing.assert_array_equal(kept.private, [10 * private])
        assert {name: part.tolist() for name, part in kept.kept.items()} == (
            {"control": [rest, 0]} if rest else {}
        )
        assert {name: part.tolist() for name, part in kept.residuals.items()} == (
            {"delta": [0, rest]} if rest else {}
        )
        assert self.learned[-1] == self.store.fact(FACT_MEMORY)

    async def end(self) -> None:
        await self.shell.close()
        self.executor.shutdown()
        self.store.close()


@pytest.mark.parametrize("outcome", ["late", "stale", "uninvited", "bad_payload"])
def test_an_update_that_is_not_counted_leaves_nothing_but_private_tensors(
    tmp_path: Path, outcome: str
) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        await device.train(1)
        device.hear(1, outcome)
        device.check(private=1, rest=0)
        await device.train(2)
        device.hear(2, "counted")
        await device.train(3)
        device.hear(3, outcome)
        device.check(private=3, rest=2)
        assert device.store.outbox() == []  # the acknowledgement of round 2 was written by the way
        await device.end()

    asyncio.run(body())


@pytest.mark.parametrize("outcome", ["counted", "duplicate"])
def test_an_update_that_is_counted_is_kept_and_the_memory_before_it_goes(
    tmp_path: Path, outcome: str
) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        await device.train(1)
        assert device.store.fact(FACT_BEFORE) is not None
        device.hear(1, outcome)
        device.check(private=1, rest=1)
        await device.end()
        again = Device(tmp_path)
        assert again.store.fact(FACT_BEFORE) is None
        assert again.kept.kept.keys() == {"control"}
        await again.end()

    asyncio.run(body())


def test_what_a_later_round_wrote_is_not_touched(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        await device.train(1)
        await device.train(2)
        device.hear(1, "late")
        device.check(private=2, rest=2)
        device.hear(2, "late")
        device.check(private=2, rest=1)
        await device.end()

    asyncio.run(body())


def test_a_restart_between_update_and_receipt_changes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        await device.train(1)
        device.hear(1, "counted")
        await device.train(2)
        await device.end()
        again = Device(tmp_path)
        again.hear(2, "late")
        again.check(private=2, rest=1)
        await again.end()

    asyncio.run(body())


def test_an_update_that_waited_too_long_takes_its_memory_with_it(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        device.link.error = LinkDown("away")
        await device.train(1)
        await device.end()
        again = Device(tmp_path, StoreLimits(outbox_age_seconds_max=-DAY))
        assert again.store.outbox() == []
        again.check(private=1, rest=0)
        await again.end()

    asyncio.run(body())


def test_an_update_that_nobody_has_room_for_is_as_if_it_had_not_been_made(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path, StoreLimits(outbox_bytes_max=10))
        await device.train(1)
        assert device.store.drops() == {"outbox_full": 1}
        device.check(private=1, rest=0)
        await device.end()

    asyncio.run(body())


def test_an_update_that_the_server_refuses_is_as_if_it_had_not_been_made(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        device.link.error = MessageRefused("refused", "too large")
        await device.train(1)
        await until(lambda: not device.store.outbox())
        device.check(private=1, rest=0)
        await device.end()

    asyncio.run(body())
