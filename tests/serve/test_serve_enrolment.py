"""Who comes into a fleet, who does not, and whom a device believes."""

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import clock
from hedgerow.io.authority import Authority, Credentials, Enroller
from hedgerow.io.keys import Identity
from hedgerow.io.links import ByteMeter, LinkDown
from hedgerow.io.nats_link import NatsCoordinatorLink, NatsJoinLink
from hedgerow.io.nats_server import EmbeddedServer
from hedgerow.protocol import effects as do
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve import keeping
from hedgerow.serve.device import FACT_MODEL, decode_model
from hedgerow.serve.fleet import Fleet, running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings, load_settings
from hedgerow.wire import codec
from hedgerow.wire.messages import Enrol, Offer, Published
from hedgerow.wire.weights import model_ref
from tests.serve.hosting import FLEET, START, Host, delta_of, running, seconds, until

EVERYWHERE = "0.0.0.0"  # noqa: S104
GRACE_SECONDS = 2.0
"""How long a device that must stay outside is watched. An honest one is in within 0.2 s."""


def settings_of(state: Path, **rules: Any) -> CoordinatorSettings:
    rules = {"cohort": 1, "quorum": 1, "rounds": 1, **rules}
    return CoordinatorSettings(
        fleet=FLEET, state=state, nats=NatsSettings(port=0), rounds=RoundRules(**rules)
    )


async def stays_outside(fleet: Fleet, join: JoinFile, home: Path) -> None:
    host = Host("stranger", join, home)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            await host.start()
    host.store.close()
    assert fleet.shell.state.members == {}


def test_a_join_file_of_another_fleet_opens_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            async with running_fleet(settings_of(tmp_path / "other")) as other:
                theirs = JoinFile.load(other.join_path)
            await stays_outside(fleet, msgspec.structs.replace(theirs, url=fleet.url), tmp_path)

    asyncio.run(body())


def test_a_join_file_with_a_mended_credential_opens_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            good = JoinFile.load(fleet.join_path)
            seed = Identity.create().seed_text()
            await stays_outside(fleet, msgspec.structs.replace(good, seed=seed), tmp_path / "a")
            head, claims, signature = good.jwt.split(".")
            jwt = ".".join([head, claims[:-2] + "AA", signature])
            await stays_outside(fleet, msgspec.structs.replace(good, jwt=jwt), tmp_path / "b")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: fields.pop("seed"), "seed"),
        (lambda fields: fields.update(more="1"), "more"),
        (lambda fields: fields.update(url=3), "url"),
    ],
)
def test_a_file_that_is_no_join_file_is_named(tmp_path: Path, change: Any, said: str) -> None:
    join = JoinFile(fleet=FLEET, url="nats://x", coordinator="U", jwt="j", seed="s")
    join.save(tmp_path / "join.json")
    fields = json.loads((tmp_path / "join.json").read_text())
    change(fields)
    (tmp_path / "join.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match=f"no join file .*{said}"):
        JoinFile.load(tmp_path / "join.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_join_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    join = JoinFile(fleet=FLEET, url="nats://x", coordinator="U", jwt="j", seed="s")
    join.save(tmp_path / "join.json")
    assert JoinFile.load(tmp_path / "join.json") == join
    (tmp_path / "join.json").chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        JoinFile.load(tmp_path / "join.json")


def test_a_join_file_is_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "join.json"
    old = JoinFile(fleet=FLEET, url="nats://old", coordinator="U", jwt="j", seed="s")
    new = msgspec.structs.replace(old, url="nats://new")
    old.save(path)
    path.chmod(0o644)

    def fails(self: Path, target: Path) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fails)
        with pytest.raises(OSError, match="the power went"):
            new.save(path)
    assert json.loads(path.read_text())["url"] == "nats://old"
    new.save(path)
    assert JoinFile.load(path) == new
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


async def start_fails(settings: CoordinatorSettings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        async with running_fleet(settings):
            pytest.fail("it started")


def test_one_coordinator_to_a_state_directory(tmp_path: Path) -> None:
    async def body() -> None:
        settings = settings_of(tmp_path / "one")
        async with running_fleet(settings):
            await start_fails(settings, "another process uses .*one")
        async with running_fleet(settings):  # the first one is gone
            pass

    asyncio.run(body())


@pytest.mark.parametrize("host", [EVERYWHERE, "::", ""])
def test_every_interface_is_no_address_for_a_join_file(tmp_path: Path, host: str) -> None:
    settings = settings_of(tmp_path / "one")
    nats = NatsSettings(host=host, port=0)
    settings = msgspec.structs.replace(settings, nats=nats)
    asyncio.run(start_fails(settings, "set nats.advertise"))
    assert not (tmp_path / "one" / "join.json").exists()


@pytest.mark.parametrize("advertise", ["factory.example:4222", "nats://", "nats://[::1"])
def test_what_is_advertised_is_a_url(tmp_path: Path, advertise: str) -> None:
    nats = NatsSettings(port=0, advertise=advertise)
    settings = msgspec.structs.replace(settings_of(tmp_path / "one"), nats=nats)
    asyncio.run(start_fails(settings, "nats.advertise is .*wanted a URL"))


def test_devices_get_the_advertised_url(tmp_path: Path) -> None:
    async def body() -> None:
        nats = NatsSettings(host=EVERYWHERE, port=0, advertise="nats://factory.example:4222")
        settings = msgspec.structs.replace(settings_of(tmp_path / "one"), nats=nats)
        async with running_fleet(settings) as fleet:
            join = JoinFile.load(fleet.join_path)
            assert join.url == "nats://factory.example:4222"
            near = msgspec.structs.replace(join, url=fleet.url.replace(EVERYWHERE, "127.0.0.1"))
            host = Host("ash", near, tmp_path)
            async with running(host):
                await until(lambda: host.version == 1)

    asyncio.run(body())


@pytest.mark.parametrize("name", ["nats", "dashboard"])
def test_a_port_is_one(name: str) -> None:
    for port in (0, 65_535):
        settings = load_settings(CoordinatorSettings, None, {}, {f"{name}.port": port})
        assert getattr(settings, name).port == port
    for port in (-1, 65_536):
        with pytest.raises(UsageError, match=rf"{name}\.port"):
            load_settings(CoordinatorSettings, None, {}, {f"{name}.port": port})


def test_a_start_that_fails_early_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: JoinFile, path: Path) -> None:
        raise UsageError("the disk is full")

    monkeypatch.setattr(JoinFile, "save", full)
    asyncio.run(start_fails(settings_of(tmp_path / "one"), "the disk is full"))


def test_a_device_that_was_put_out_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            join = JoinFile.load(fleet.join_path)
            host = Host("ash", join, tmp_path)
            async with running(host):
                await until(lambda: host.version == 1)
            assert fleet.shell.store.set_revoked(host.identity.public, True)
            for file in host.state_path.glob("device.db*"):
                file.unlink()
            async with asyncio.timeout(20):
                with pytest.raises(UsageError, match="put out"):
                    await host.start()
            host.store.close()
            assert fleet.shell.state.outcomes["revoked"] == 1

    asyncio.run(body())


def test_what_is_replaced_is_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the device, models; nor by the coordinator, rounds and models."""
    monkeypatch.setattr(keeping, "ROUNDS_KEPT", 2)

    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one", rounds=4)) as fleet:
            store = fleet.shell.store
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            models: list[str] = []
            async with running(host):
                for version in range(1, 5):
                    await until(lambda wanted=version: host.version >= wanted)  # type: ignore[misc]
                    models.append(host.shell.state.model.hash)
                await until(lambda: fleet.shell.state.rounds_done == 4)
                host.shell._keep_soft()
                kept = host.store.fact(FACT_MODEL)
                assert kept is not None
                assert decode_model(kept).hash == models[-1]
                known = [digest for digest in models if host.store.blob(digest) is not None]
                assert known == models[-1:]
            assert [row.number for row in store.rounds()] == [4, 3]
            assert [store.model(version) is None for version in range(5)] == [True] * 3 + [
                False
            ] * 2
            fleet.shell._keeper.keep(fleet.shell.state, do.AbandonRound(6, "quorum"), 0)
            assert [row.number for row in store.rounds()] == []
            assert store.last_model() is not None

    asyncio.run(body())


def test_a_full_fleet_says_so_and_keeps_who_is_in(tmp_path: Path) -> None:
    async def body() -> None:
        settings = settings_of(tmp_path / "one", devices_max=1, rounds=2, pause_seconds=0.5)
        async with running_fleet(settings) as fleet:
            join = JoinFile.load(fleet.join_path)
            inside, outside = Host("ash", join, tmp_path), Host("birch", join, tmp_path)
            async with running(inside):
                with pytest.raises(UsageError, match="the fleet is full: it takes 1"):
                    await outside.start()
                outside.store.close()
                await until(lambda: fleet.shell.state.rounds_done == 2)
            async with running(inside):  # it is in, and stays in
                await until(lambda: inside.version == 2)

    asyncio.run(body())


def test_a_lost_answer_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = NatsCoordinatorLink.answer_enrolment
    lost: list[str] = []

    async def lossy(self: NatsCoordinatorLink, device: str, data: bytes) -> None:
        if len(lost) < 2:
            lost.append(device)
        else:
            await answer(self, device, data)

    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            monkeypatch.setattr(NatsCoordinatorLink, "answer_enrolment", lossy)
            async with running(host):
                await until(lambda: host.version == 1)
            assert lost == [host.identity.public] * 2
            assert list(fleet.shell.state.members) == [host.identity.public]

    asyncio.run(body())


def test_an_answer_of_another_coordinator_is_not_believed(tmp_path: Path) -> None:
    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            join = JoinFile.load(fleet.join_path)
            false = msgspec.structs.replace(join, coordinator=Identity.create().public)
            host = Host("ash", false, tmp_path)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await host.start()
            assert host.store.fact("enrolment") is None
            host.store.close()

    asyncio.run(body())


def test_messages_of_another_coordinator_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever takes over the server still cannot give devices anything to do."""
    impostor = Identity.create()
    model = model_ref(7, delta_of("impostor", 7))

    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one", rounds=1)) as fleet:
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            async with running(host):
                await until(lambda: host.version == 1)
                link, device = fleet.shell._link, host.identity.public
                plan = fleet.shell.state.plan
                offer = Offer(round=9, model=model, plan=plan, deadline_seconds=60)
                for message in (offer, Published(round=9, model=model)):
                    true = fleet.shell._identity.public
                    for sender in (impostor.public, true):
                        await link.send(device, codec.seal(message, sender, impostor.sign))
                await link.send(device, b"\x00nothing")
                await until(lambda: caplog.text.count("refused a message") == 5)
                assert host.trainer.began == [1]
                assert host.version == 1

    asyncio.run(body())


def test_a_device_key_signs_for_itself_alone(tmp_path: Path) -> None:
    """Whoever has the join file cannot enrol a key that is somebody else's."""
    victim = Identity.create()
    thief = Identity.create()

    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one")) as fleet:
            join = JoinFile.load(fleet.join_path)
            host = Host("thief", join, tmp_path)
            credentials = host_credentials(join)
            link = NatsJoinLink(join.url, join.fleet, credentials, host.meter)
            request = codec.seal(
                Enrol(device=victim.public, name="victim"), victim.public, thief.sign
            )
            with pytest.raises(LinkDown):
                await link.enrol(request, victim.public, GRACE_SECONDS)
            assert fleet.shell.state.members == {}
            assert fleet.shell.state.outcomes["forged"] >= 1

    asyncio.run(body())


def test_who_speaks_while_the_coordinator_starts_is_heard_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subscriptions are in place before its models are stored: it must take no harm."""
    put_blob = NatsCoordinatorLink.put_blob

    async def body() -> None:
        settings = settings_of(tmp_path / "one", cohort=2)
        async with running_fleet(settings) as fleet:
            join = JoinFile.load(fleet.join_path)
            known, new = (Host(name, join, tmp_path) for name in ("ash", "birch"))
            async with running(known):
                await until(lambda: known.version == 1)
        port = NatsSettings(port=int(fleet.url.rpartition(":")[2]))
        rules = msgspec.structs.replace(settings.rounds, quorum=2, rounds=2)
        settings = msgspec.structs.replace(settings, nats=port, rounds=rules)

        async def slow(self: NatsCoordinatorLink, content: bytes) -> str:
            await until(lambda: known.meter.messages_up["note"] > spoken)
            await until(lambda: new.meter.messages_up["join"] > 0)
            return await put_blob(self, content)

        monkeypatch.setattr(NatsCoordinatorLink, "put_blob", slow)
        spoken = known.meter.messages_up["note"]
        async with asyncio.TaskGroup() as devices:
            for host in (known, new):
                devices.create_task(host.start())
            async with running_fleet(settings) as fleet:
                await until(lambda: fleet.shell.state.rounds_done == 2)
                assert fleet.shell.state.outcomes == {"counted": 2}
                for host in (known, new):
                    await host.stop()

    asyncio.run(body())


def test_an_attempt_to_enrol_ends_when_its_time_is_up(tmp_path: Path) -> None:
    """Whatever step of connecting it is at: many at once, each given up at its own moment."""
    rng = np.random.default_rng(7)

    async def attempts(url: str, credentials: Credentials) -> int:
        ended = 0
        for seconds_max in rng.uniform(0, 0.5, 8):
            link = NatsJoinLink(url, FLEET, credentials, ByteMeter())
            with pytest.raises(LinkDown, match="no answer to the enrolment"):
                await link.enrol(b"x", Identity.create().public, float(seconds_max))
            ended += 1
        return ended

    async def body() -> None:
        authority = Authority.load_or_create(tmp_path / "authority", FLEET, clock.now())
        with EmbeddedServer(tmp_path / "server", authority) as server:
            async with asyncio.timeout(60):
                work = [attempts(server.url, authority.join_credentials) for _ in range(40)]
                assert await asyncio.gather(*work) == [8] * 40

    asyncio.run(body())


def host_credentials(join: JoinFile) -> Credentials:
    return Credentials(join.jwt, Identity(join.seed))


def test_a_credential_of_another_authority_opens_nothing(tmp_path: Path) -> None:
    """An enrolled device whose credential was signed by somebody else never gets a connection."""

    async def body() -> None:
        async with running_fleet(settings_of(tmp_path / "one", rounds=1)) as fleet:
            mine = fleet.shell._enroller
            other = Enroller(Identity.create("account"), mine.account)
            fleet.shell._enroller = replace(other)
            host = Host("ash", JoinFile.load(fleet.join_path), tmp_path)
            async with running(host):
                await seconds(GRACE_SECONDS)
                assert not host.shell.state.online
                assert host.trainer.began == []
                assert len(host.weights) == len(START)

    asyncio.run(body())
