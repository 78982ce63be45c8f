"""Releases over a real server: by the command, tried by devices, kept through restarts."""

import asyncio
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hedgerow.cli import main
from hedgerow.core.errors import PeerError
from hedgerow.io.keys import Identity, verify
from hedgerow.model.predictor import Predictor
from hedgerow.protocol import device as machine
from hedgerow.protocol.fleet import RoundRules
from hedgerow.protocol.rollout_state import RolloutRules
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.joining import JoinFile
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings
from hedgerow.serve.trials import Serving, Trials
from hedgerow.wire import releases
from tests.serve import bad_models
from tests.serve.bad_models import GOOD, inputs
from tests.serve.hosting import FLEET, Host, free_port, running, until

TRIAL = TrialRules(
    block_windows=1, watch_seconds=0.2, watch_windows=100, change_max=0.2, slower_max=20.0
)
GIVEN = inputs(500)


class TryingHost(Host):
    """A device of a fleet that tries what is released; nothing else."""

    async def start(self) -> None:
        await super().start()
        self.trials = Trials(
            self.store,
            Serving(GOOD, GOOD.weights, "watch 1", "bundle"),
            TRIAL,
            key=self.join.coordinator,
        )
        self.trials.attach(self.shell.fetch_blob, self.shell.say)
        self.shell._hooks.released = self.trials.hear
        self._tasks = [asyncio.create_task(one) for one in (self.trials.run(), self._live())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().stop()

    async def _live(self) -> None:
        answers = Predictor(GOOD)(GIVEN)
        while True:
            self.trials.seen(GIVEN, answers, np.arange(len(GIVEN)))
            await asyncio.sleep(0.05)

    @property
    def serves(self) -> str:
        return self.trials.serving.bundle.manifest.version


def chosen(state: Path, port: int = 0) -> CoordinatorSettings:
    return CoordinatorSettings(
        fleet=FLEET,
        state=state,
        nats=NatsSettings(port=port),
        rounds=RoundRules(cohort=9, quorum=9, devices_min=9),
        rollout=RolloutRules(canaries=1, share=0.5, soak_seconds=0.5, ask_seconds=0.3),
    )


def command(*arguments: str | Path, code: int = 0) -> str:
    """`hedgerow release …`; what it says."""
    done = CliRunner().invoke(main, ["release", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def status(state: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(command("status", "--state", state, "--json"))
    return found


def test_from_the_command_to_all_devices_and_back_again(tmp_path: Path) -> None:
    """The coordinator is stopped and started again on the way."""
    state, port = tmp_path / "coordinator", free_port()
    better = bad_models.nudged(0.01)
    better.save(tmp_path / "better.hedgerow")

    async def body() -> None:
        async with contextlib.AsyncExitStack() as hosts:
            async with running_fleet(chosen(state, port)) as fleet:
                join = JoinFile.load(fleet.join_path)
                names = ("ash", "birch", "cedar", "dogwood")
                devices = [TryingHost(name, join, tmp_path) for name in names]
                await hosts.enter_async_context(running(*devices))
                command("publish", tmp_path / "better.hedgerow", "--state", state)
                await until(lambda: fleet.shell.releases.state.counts["kept"] >= 1)
            async with running_fleet(chosen(state, port)) as fleet:
                await until(lambda: fleet.shell.releases.state.counts["kept"] == 4)
                assert {device.serves for device in devices} == {better.manifest.version}
                await until(lambda: status(state)["stage"] == "all")
                found = status(state)
                assert (found["number"], found["course"]) == (1, "rolling")
                assert found["phases"] == {"kept": 4}
                command("recall", "--state", state, "--why", "a change of mind")
                await until(lambda: {one.serves for one in devices} == {GOOD.manifest.version})
                await until(lambda: status(state)["phases"] == {"rolled_back": 4})
                assert status(state)["course"] == "halted"

    asyncio.run(body())


def test_no_news_of_a_trial_leaves_while_sharing_is_paused(tmp_path: Path) -> None:
    state = tmp_path / "coordinator"

    async def body() -> None:
        async with running_fleet(chosen(state)) as fleet:
            device = TryingHost("ash", JoinFile.load(fleet.join_path), tmp_path)
            async with running(device):
                await until(lambda: fleet.shell.state.members)
                await until(lambda: fleet.shell.releases.state.members)
                device.shell.handle(machine.PauseSharing(True))
                await fleet.shell.releases.publish(bad_models.nudged(0.01))
                await until(lambda: device.trials.state.standing.past)
                assert set(fleet.shell.releases.state.counts) == {"given"}
                device.shell.handle(machine.PauseSharing(False))
                await until(lambda: fleet.shell.releases.state.counts["kept"] == 1)

    asyncio.run(body())


def test_what_does_not_fit_the_fleet_is_not_released_and_the_status_says_why(
    tmp_path: Path,
) -> None:
    state = tmp_path / "coordinator"
    bad_models.wrong_shape().save(tmp_path / "narrow.hedgerow")

    async def body() -> None:
        async with running_fleet(chosen(state)) as fleet:
            command("publish", tmp_path / "narrow.hedgerow", "--state", state)
            await until(lambda: "new fleet" in str(status(state).get("refused")))
            assert fleet.shell.releases.state.current is None
            assert list((state / "releases").glob("*.hedgerow")) == []

    asyncio.run(body())


def test_a_statement_signed_off_line_is_checked_and_released(tmp_path: Path) -> None:
    state, bundle, signed = tmp_path / "c", tmp_path / "b.hedgerow", tmp_path / "b.signed"
    GOOD.save(bundle)

    async def body() -> None:
        async with running_fleet(chosen(state)) as fleet:
            key = JoinFile.load(fleet.join_path).coordinator
            command("sign", bundle, "--state", state, "--number", "7", "-o", signed)
            found = json.loads(command("verify", signed, bundle, "--key", key, "--json"))
            assert (found["number"], found["bundle"]) == (7, GOOD.hash)
            other = Identity.create().public
            assert "forged" in command("verify", signed, bundle, "--key", other, code=1)
            command("publish", bundle, "--state", state, "--signed", signed)
            await until(lambda: status(state).get("number") == 7)

    asyncio.run(body())


def test_the_owners_bundle_is_laid_where_the_device_looks(tmp_path: Path) -> None:
    bundle, device = tmp_path / "b.hedgerow", tmp_path / "device"
    GOOD.save(bundle)
    assert "there is no device" in command("try", bundle, "--state", device, code=2)
    device.mkdir()
    command("try", bundle, "--state", device)
    (laid,) = (device / "offers").iterdir()
    assert laid.read_bytes() == bundle.read_bytes()
    assert (device / "offers").stat().st_mode & 0o077 == 0


def test_a_statement_is_of_one_bundle_one_key_and_unchanged() -> None:
    key = Identity.create()
    statement = releases.statement_of(GOOD, 3)
    signed = releases.sign(statement, key.public, key.sign)
    assert releases.opened(signed, key.public, verify) == statement
    releases.check(statement, GOOD)
    with pytest.raises(PeerError, match="wrong_hash"):
        releases.check(statement, bad_models.nudged(0.01))
    for place in range(len(signed.statement)):
        bent = bytearray(signed.statement)
        bent[place] ^= 1
        other = releases.Signed(statement=bytes(bent), signature=signed.signature)
        with pytest.raises(PeerError, match="forged"):
            releases.opened(other, key.public, verify)
