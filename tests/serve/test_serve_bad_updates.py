"""An enrolled device that means ill: all it sends is refused, counted by reason, and changes no
bit of what the honest ones learn."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.core.layout import Vector
from hedgerow.io import entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity, verify
from hedgerow.io.links import ByteMeter, MessageRefused
from hedgerow.io.nats_link import NatsDeviceLink
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.fleet import Fleet, running_fleet
from hedgerow.serve.joining import JoinFile, enrol
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.wire import codec
from hedgerow.wire.messages import CheckIn, FromDevice, Offer, Receipt, Report, Update, base_of
from tests.serve.hosting import FLEET, START, Host, fedavg, running, until

HONEST = {"ash": 1024, "birch": 512}
P = len(START)


class Hostile:
    """An enrolled device's key and connection, and nobody to keep it honest."""

    def __init__(self, join: JoinFile, home: Path) -> None:
        self.identity = Identity.create()
        self.offers: list[Offer] = []
        self.outcomes: list[str] = []
        self.states: list[bool] = []
        self.link: NatsDeviceLink
        self._join = join
        self._home = home
        self._sent = 0

    async def start(self) -> None:
        store = DeviceStore(self._home / "hostile.db")
        meter = ByteMeter()
        rng = entropy.generator()
        enrolment = await enrol(self._join, self.identity, store, "hostile", meter, rng)
        store.close()
        self.coordinator = enrolment.coordinator
        credentials = Credentials(enrolment.credential, self.identity)
        self.link = NatsDeviceLink(
            *(enrolment.url, FLEET, credentials, self._heard, self.states.append, meter)
        )
        await self.link.connect()

    def seal(self, message: FromDevice) -> bytes:
        return codec.seal(message, self.identity.public, self.identity.sign)

    async def note(self, message: FromDevice) -> None:
        await self.link.send_note(self.seal(message))

    async def update(self, data: bytes) -> None:
        """Into the journal, under an id of its own, so that the server drops no double."""
        self._sent += 1
        await self.link.send_update(data, f"hostile/{self._sent}")

    def _heard(self, data: bytes) -> None:
        message = codec.open_from_coordinator(data, self.coordinator, verify)
        if isinstance(message, Offer):
            self.offers.append(message)
        elif isinstance(message, Receipt):
            self.outcomes.append(message.outcome)


def update_of(offer: Offer, **changes: Any) -> Update:
    good = Update(
        round=offer.round,
        base=base_of(offer.model),
        samples=1024,
        payloads=(bytes(4 * P),),
        metrics={},
    )
    return msgspec.structs.replace(good, **changes)


def payload(value: float) -> bytes:
    delta: Vector = np.zeros(P, np.float32)
    delta[P // 2] = value
    return delta.tobytes()


BAD_UPDATES: list[tuple[str, dict[str, Any]]] = [
    ("bad_payload", {"payloads": (bytes(4 * P + 4),)}),
    ("bad_payload", {"payloads": (b"",)}),
    ("bad_payload", {"payloads": (bytes(7 * 2**20),)}),
    ("wrong_shape", {"payloads": (bytes(4 * P),) * 2}),
    ("wrong_shape", {"figures": (1.0,)}),
    ("wrong_group", {"group": 1}),
    ("wrong_codec", {"codec": 1}),
    ("bad_payload", {"payloads": (payload(float("nan")),)}),
    ("bad_payload", {"payloads": (payload(float("inf")),)}),
    ("bad_payload", {"payloads": (payload(float("-inf")),)}),
    ("out_of_range", {"payloads": (payload(1e30),)}),
    ("no_samples", {"samples": 0}),
    ("not_finite", {"metrics": {"loss": float("nan")}}),
    ("stale", {"base": bytes(8)}),
]
"""What an invited device may get wrong, one round each, and what its receipt says."""


@asynccontextmanager
async def fleet_under_attack(
    tmp_path: Path, rounds: int
) -> AsyncIterator[tuple[Fleet, list[Host], Hostile]]:
    """Round 1 is open for the honest two, who wait; the hostile one is enrolled and there."""
    rules = RoundRules(cohort=3, quorum=2, deadline_seconds=60, retry_seconds=0.2, rounds=rounds)
    settings = CoordinatorSettings(
        fleet=FLEET, state=tmp_path / "coordinator", nats=NatsSettings(port=0), rounds=rules
    )
    async with running_fleet(settings) as fleet:
        join = JoinFile.load(fleet.join_path)
        honest = [Host(name, join, tmp_path, samples) for name, samples in HONEST.items()]
        for host in honest:
            host.trainer.go.clear()
        hostile = Hostile(join, tmp_path)
        async with running(*honest):
            await until(lambda: all(host.trainer.began == [1] for host in honest))
            await hostile.start()
            try:
                yield fleet, honest, hostile
            finally:
                await hostile.link.close()


def test_each_bad_update_of_an_invited_device_is_refused_with_its_reason(tmp_path: Path) -> None:
    rounds = 1 + len(BAD_UPDATES)
    wanted = START
    for number in range(1, rounds + 1):
        wanted = fedavg(wanted, HONEST, number)

    async def body() -> None:
        async with fleet_under_attack(tmp_path, rounds) as (fleet, honest, hostile):
            await hostile.note(CheckIn(model_version=0, samples=1024))
            await until(lambda: fleet.shell.state.members[hostile.identity.public].samples)
            for number in range(2, rounds + 1):
                release(honest)
                await until(lambda number=number: len(hostile.offers) == number - 1)  # type: ignore[misc]
                await until(  # nobody trains on: they wait again
                    lambda number=number: all(h.trainer.began[-1] == number for h in honest)  # type: ignore[misc]
                )
                offer = hostile.offers[-1]
                assert offer.round == number
                reason, changes = BAD_UPDATES[number - 2]
                await hostile.update(hostile.seal(update_of(offer, **changes)))
                await until(lambda number=number: len(hostile.outcomes) == number - 1)  # type: ignore[misc]
                assert hostile.outcomes[-1] == reason
            release(honest)
            await until(lambda: fleet.shell.state.rounds_done == rounds)
            await until(lambda: all(len(host.receipts) == rounds for host in honest))
            assert {outcome for host in honest for _, outcome in host.receipts} == {"counted"}
            reasons = Counter(reason for reason, _ in BAD_UPDATES)
            assert fleet.shell.state.outcomes == {"counted": 2 * rounds, **reasons}
            np.testing.assert_array_equal(fleet.shell.weights, wanted)

    asyncio.run(body())


def release(hosts: list[Host]) -> None:
    """Let the training in progress end, and the next one wait again."""
    for host in hosts:
        number = host.trainer.began[-1]
        host.trainer.go_once(number)


def test_what_is_no_update_of_its_sender_gets_no_receipt_and_no_place(tmp_path: Path) -> None:
    async def body() -> None:
        async with fleet_under_attack(tmp_path, rounds=1) as (fleet, honest, hostile):
            device, stranger = hostile.identity.public, Identity.create()
            ash = honest[0]
            open_round = fleet.shell.state.open
            assert open_round is not None
            offer = Offer(
                round=1, model=open_round.model, plan=open_round.plan, deadline_seconds=60
            )
            good = hostile.seal(update_of(offer))
            version, body_, signature = msgspec.msgpack.decode(good)
            honest_body = msgspec.msgpack.encode(update_of(offer))
            attacks = {
                "random bytes": entropy.secret_bytes(4096),
                "nothing": b"",
                "truncated": good[: len(good) // 2],
                "another version": msgspec.msgpack.encode([version + 1, body_, signature]),
                "forged signature": msgspec.msgpack.encode([version, body_, bytes(64)]),
                "another body": msgspec.msgpack.encode([version, body_[:-1], signature]),
                "signed by a stranger": codec.seal(update_of(offer), device, stranger.sign),
                "another device's name": codec.seal(
                    update_of(offer), ash.identity.public, hostile.identity.sign
                ),
                "no message": msgspec.msgpack.encode(
                    [version, b"\xc1", hostile.identity.sign(signed(device, b"\xc1"))]
                ),
                "an unknown field": raw(hostile, honest_body.replace(b"payloads", b"payl0ads")),
                "a check-in in the journal": hostile.seal(CheckIn(model_version=0, samples=1)),
            }
            for data in attacks.values():
                await hostile.update(data)
            await hostile.note(update_of(offer))  # an update, but not in the journal
            await hostile.note(
                Report(model_version=0, label="x", confidence=float("nan"), metrics={})
            )
            wanted = {"malformed": 5, "unknown_version": 1, "forged": 4}
            wanted |= {"misplaced": 2, "not_finite": 1}
            await until(lambda: sum(fleet.shell.state.outcomes.values()) == len(attacks) + 2)
            assert fleet.shell.state.outcomes == wanted
            assert hostile.outcomes == []
            release(honest)
            await until(lambda: fleet.shell.state.rounds_done == 1)
            np.testing.assert_array_equal(fleet.shell.weights, fedavg(START, HONEST, 1))

    asyncio.run(body())


def signed(sender: str, body: bytes) -> bytes:
    return codec._signed(sender, body)


def raw(hostile: Hostile, body: bytes) -> bytes:
    """An envelope rightly signed around any bytes."""
    device = hostile.identity.public
    return msgspec.msgpack.encode([1, body, hostile.identity.sign(signed(device, body))])


def test_updates_out_of_place_get_an_honest_receipt(tmp_path: Path) -> None:
    """Uninvited, of no round yet, a duplicate, an old one replayed."""

    async def body() -> None:
        async with fleet_under_attack(tmp_path, rounds=2) as (fleet, honest, hostile):
            ash, birch = honest
            state = fleet.shell.state
            assert state.open is not None
            offer = Offer(
                round=1, model=state.open.model, plan=state.open.plan, deadline_seconds=60
            )
            await sent(hostile, update_of(offer), "uninvited")
            await sent(hostile, update_of(offer, round=9), "unknown_round")
            await sent(hostile, update_of(offer, round=2**53), "unknown_round")
            release([ash])
            await until(lambda: ash.outcome(1) == "counted")
            stream = fleet.shell._link._connection.require().jetstream()  # type: ignore[attr-defined]
            kept = await stream.get_last_msg(
                f"{FLEET}-updates", f"hedgerow.{FLEET}.up.{ash.identity.public}.update"
            )
            await hostile.update(kept.data)  # another's true update, as its own
            await until(lambda: state.outcomes["forged"] == 1)
            await ash.link.send_update(kept.data, "again")
            await until(lambda: state.outcomes["duplicate"] == 1)
            release([birch])
            await until(lambda: all(host.trainer.began == [1, 2] for host in honest))
            await ash.link.send_update(kept.data, "again and again")
            await until(lambda: state.outcomes["duplicate"] == 2)
            await sent(hostile, update_of(offer), "late")
            release(honest)
            await until(lambda: state.rounds_done == 2)
            wanted = fedavg(fedavg(START, HONEST, 1), HONEST, 2)
            np.testing.assert_array_equal(fleet.shell.weights, wanted)
            places = {"uninvited": 1, "unknown_round": 2, "forged": 1, "duplicate": 2, "late": 1}
            assert state.outcomes == {"counted": 4, **places}

    asyncio.run(body())


async def sent(hostile: Hostile, update: Update, outcome: str) -> None:
    before = len(hostile.outcomes)
    await hostile.update(hostile.seal(update))
    await until(lambda: len(hostile.outcomes) > before)
    assert hostile.outcomes[before:] == [outcome]


async def refuse_to_send(hostile: Hostile, data: bytes) -> None:
    with pytest.raises(MessageRefused, match="8388609 bytes"):
        await hostile.update(data)


async def send_anyway(hostile: Hostile, data: bytes) -> None:
    """Past the client's own check: the server cuts the connection, and takes nothing."""
    connection = hostile.link._connection
    connection.require()._max_payload = 2**30
    with pytest.raises(Exception, match=r"broke|failed|no connection"):
        await hostile.update(data)
    await until(lambda: hostile.states[-3:] == [True, False, True])


@pytest.mark.parametrize("send", [refuse_to_send, send_anyway])
def test_an_oversized_message_gets_no_further_than_the_server(
    tmp_path: Path, send: Callable[[Hostile, bytes], Awaitable[None]]
) -> None:
    async def body() -> None:
        async with fleet_under_attack(tmp_path, rounds=1) as (fleet, honest, hostile):
            last = await fleet.shell._link.last_sequence()
            await send(hostile, bytes(8 * 2**20 + 1))
            assert await fleet.shell._link.last_sequence() == last
            release(honest)
            await until(lambda: fleet.shell.state.rounds_done == 1)
            assert fleet.shell.state.outcomes == {"counted": 2}
            np.testing.assert_array_equal(fleet.shell.weights, fedavg(START, HONEST, 1))

    asyncio.run(body())
