"""A hundred devices and a coordinator: good releases reach all, bad ones nobody or the canaries.

Everything that ships runs: both machines, both shells, stores, codec, signatures, ONNX Runtime.
Only the network is replaced, by calls.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.coordinator_store import CoordinatorStore
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity, verify
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.protocol.rollout_state import RolloutRules
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.serve.effects import Tasks
from hedgerow.serve.releases import Releases
from hedgerow.serve.trials import Serving, Trials
from hedgerow.wire import codec, releases
from hedgerow.wire.messages import CheckIn, FromCoordinator, Recall, Release, Trial
from tests.serve import bad_models
from tests.serve.bad_models import GOOD, inputs, labels_of
from tests.serve.hosting import until

DEVICES = 100
CANARIES = 5
ROLLOUT = RolloutRules(canaries=CANARIES, soak_seconds=0.5, ask_seconds=0.5, kept_share=0.8)
TRIAL = TrialRules(
    block_windows=1, change_max=0.15, watch_seconds=0.3, watch_windows=1500, slower_max=4.0
)
GIVEN = inputs(1500)
LABELS = labels_of(GIVEN)

pytestmark = pytest.mark.timeout(600)  # a hundred devices or lives, on whatever machine this is


class Device:
    """One device: what it senses is the same for all, which model answers is its own."""

    def __init__(self, fleet: "Fleet", state: Path) -> None:
        self.fleet = fleet
        self.identity = Identity.create()
        self.name = self.identity.public
        self.store = DeviceStore(state / "device.db")
        begin = Serving(GOOD, GOOD.weights, "watch 1", "bundle")
        self.trials = Trials(
            self.store, begin, fleet.rules, key=fleet.identity.public, changed=self._changed
        )
        self.trials.attach(self._fetch, self._say)
        self.used: list[str] = []
        self.said: list[Trial] = []
        self.labels = False

    async def _changed(self, serving: Serving) -> None:
        self.used.append(serving.bundle.manifest.version)

    async def _fetch(self, digest: str, bytes_max: int) -> bytes:
        data = self.fleet.blobs[digest]
        assert len(data) <= bytes_max
        return data

    def _say(self, news: Trial) -> None:
        self.said.append(news)
        data = codec.seal(news, self.name, self.identity.sign)
        message = codec.open_from_device(data, self.name, verify)
        assert isinstance(message, Trial)
        self.fleet.releases.heard(self.name, message)

    def hear(self, data: bytes) -> None:
        message = codec.open_from_coordinator(data, self.fleet.identity.public, verify)
        assert isinstance(message, Release | Recall)
        self.trials.hear(message)

    def check_in(self) -> None:
        note = CheckIn(model_version=0, samples=0)
        data = codec.seal(note, self.name, self.identity.sign)
        assert isinstance(codec.open_from_device(data, self.name, verify), CheckIn)
        self.fleet.releases.seen(self.name)

    def live(self, part: slice, answers: dict[str, np.ndarray]) -> None:
        """Windows come. They have labels only where somebody gave some, and only later."""
        if self.trials.state.standing.attempt is None:
            return
        rows = np.arange(part.stop - part.start)
        for _ in range(4):  # three of four share samples with one before, and are not compared
            self.trials.seen(GIVEN[part], answers[self.trials.serving.bundle.hash][part], rows)
        if self.labels:
            self.trials.labelled(GIVEN[part], LABELS[part])


class Fleet:
    """The coordinator's half, and the devices."""

    def __init__(self, home: Path, rules: TrialRules) -> None:
        self.rules = rules
        self.identity = Identity.create()
        self.blobs: dict[str, bytes] = {}
        self.store = CoordinatorStore(f"sqlite:///{home / 'coordinator.db'}")
        self.tasks = Tasks()
        inbox = home / "releases"
        inbox.mkdir(mode=0o700)
        self.releases = Releases(
            *(ROLLOUT, inbox, GOOD, self.identity, self.store, self._send, self._put, self.tasks)
        )
        self.devices: dict[str, Device] = {}
        for number in range(DEVICES):
            device = Device(self, home / f"device {number}")
            self.devices[device.name] = device
        self.answers = {GOOD.hash: Predictor(GOOD)(GIVEN)}

    async def _put(self, data: bytes) -> None:
        self.blobs[hashlib.sha256(data).hexdigest()] = data

    async def _send(self, device: str, message: FromCoordinator) -> None:
        data = codec.seal(message, self.identity.public, self.identity.sign)
        self.devices[device].hear(data)

    async def publish(self, bundle: Bundle) -> None:
        if bundle.manifest.version not in ("narrow", "lying"):
            self.answers[bundle.hash] = Predictor(bundle)(GIVEN)
        await self.releases.publish(bundle)

    async def force(self, bundle: Bundle, signer: Identity) -> None:
        """As a coordinator would whose own checks were passed by."""
        last = self.releases._releases.last()
        statement = releases.statement_of(bundle, 1 if last is None else last.number + 1)
        signed = releases.sign(statement, signer.public, signer.sign)
        archive = bundle.to_bytes()
        await self._put(archive)
        self.releases._begin(statement, signed, archive)

    async def run(self, body: Callable[["Fleet"], Awaitable[None]]) -> None:
        await self.releases.start(tuple(self.devices))
        living = [asyncio.create_task(one.trials.run()) for one in self.devices.values()]
        living.append(asyncio.create_task(self._live()))
        try:
            await body(self)
            assert not any(task.done() for task in living)
            assert not self.tasks.failed.done()
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)
            self.releases.close()
            await self.tasks.close()
            self.store.close()
            for device in self.devices.values():
                device.store.close()

    async def _live(self) -> None:
        while True:
            for device in self.devices.values():
                device.check_in()
            for first in range(0, len(GIVEN), 100):
                for device in self.devices.values():
                    device.live(slice(first, first + 100), self.answers)
                await asyncio.sleep(0.005)

    @property
    def course(self) -> tuple[str, str]:
        current = self.releases.state.current
        assert current is not None
        return current.course, current.stage

    def serving(self) -> Counter[str]:
        """Devices by the version that decides there."""
        every = self.devices.values()
        return Counter(one.trials.serving.bundle.manifest.version for one in every)

    def reasons(self) -> set[str]:
        return {news.reason for one in self.devices.values() for news in one.said if news.reason}


def in_a_fleet(
    home: Path, body: Callable[[Fleet], Awaitable[None]], rules: TrialRules = TRIAL
) -> None:
    async def run() -> None:
        await Fleet(home, rules).run(body)

    asyncio.run(run())


def test_a_good_release_reaches_every_device(tmp_path: Path) -> None:
    good = bad_models.nudged(0.01)

    async def body(fleet: Fleet) -> None:
        await fleet.publish(good)
        await until(lambda: fleet.course == ("rolling", "share"), 200)
        assert fleet.serving()[good.manifest.version] <= CANARIES
        await until(lambda: fleet.course == ("rolling", "all"), 200)
        assert fleet.serving()[good.manifest.version] <= max(CANARIES, DEVICES // 10)
        await until(lambda: fleet.releases.state.counts["kept"] == DEVICES, 300)
        assert fleet.serving() == {good.manifest.version: DEVICES}

    in_a_fleet(tmp_path, body, msgspec.structs.replace(TRIAL, watch_windows=200))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bad_models.random_weights, "unlike"),
        (bad_models.overflowing, "not_finite"),
        (bad_models.slow, "slow"),
        (bad_models.lying_shape, "wrong_shape"),
    ],
)
def test_a_bad_model_is_put_to_use_nowhere(
    make: Callable[[], Bundle], reason: str, tmp_path: Path
) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.publish(make())
        await until(lambda: fleet.course == ("halted", "canary"), 200)
        await asyncio.sleep(1)
        assert all(device.used == [] for device in fleet.devices.values())
        assert fleet.serving() == {GOOD.manifest.version: DEVICES}
        assert fleet.reasons() <= {reason, "recalled"}
        assert reason in fleet.reasons()
        assert len(fleet.releases.state.phases) == CANARIES

    in_a_fleet(tmp_path, body)


def test_a_model_of_another_shape_is_not_released_and_would_be_refused(tmp_path: Path) -> None:
    narrow = bad_models.wrong_shape()

    async def body(fleet: Fleet) -> None:
        with pytest.raises(UsageError, match="a new application needs a new fleet"):
            await fleet.publish(narrow)
        await fleet.force(narrow, fleet.identity)
        await until(lambda: fleet.course == ("halted", "canary"), 200)
        assert fleet.reasons() <= {"wrong_schema", "recalled"}
        assert all(device.used == [] for device in fleet.devices.values())

    in_a_fleet(tmp_path, body)


def test_a_release_that_the_key_did_not_sign_is_not_even_fetched(tmp_path: Path) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.force(bad_models.nudged(0.01), Identity.create())
        fleet.blobs.clear()
        await until(lambda: fleet.course == ("halted", "canary"), 200)
        assert fleet.reasons() == {"forged"}
        assert all(device.trials.state.standing.past == () for device in fleet.devices.values())

    in_a_fleet(tmp_path, body)


def test_five_points_worse_goes_no_further_than_the_canaries_and_back_by_itself(
    tmp_path: Path,
) -> None:
    """Without labels it passes in shadow: it answers nearly always the same. Then labels come."""
    worse = bad_models.nudged(0.055)
    answers = Predictor(worse)(GIVEN).argmax(axis=1)
    lost = np.mean(Predictor(GOOD)(GIVEN).argmax(axis=1) == LABELS) - np.mean(answers == LABELS)
    assert 0.035 < lost < 0.065

    async def body(fleet: Fleet) -> None:
        await fleet.publish(worse)
        await until(lambda: any(device.used for device in fleet.devices.values()))
        for device in fleet.devices.values():
            device.labels = True  # their owners label what they saw
        await until(lambda: fleet.course == ("halted", "canary"), 200)
        await until(lambda: fleet.serving() == {GOOD.manifest.version: DEVICES})
        assert len(fleet.releases.state.phases) == CANARIES
        assert sum(bool(device.used) for device in fleet.devices.values()) <= CANARIES
        ends = Counter(
            one.reason for name in fleet.devices.values() for one in name.said if one.reason
        )
        assert ends["worse"] >= 2  # by themselves; only then did the coordinator know

    in_a_fleet(tmp_path, body)
