"""Trials of real models on a device with no fleet: the owner's bundle, what was learned here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.io.device_store import DeviceStore
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.serve.trials import Candidate, Serving, Shadow, Trials, in_process
from tests.serve import bad_models
from tests.serve.bad_models import GOOD, inputs, labels_of
from tests.serve.hosting import until

RULES = TrialRules(block_windows=1, watch_windows=100, watch_seconds=0.2, slower_max=4.0)
GIVEN = inputs(1500)
LABELS = labels_of(GIVEN)


def owners(bundle: Bundle) -> Candidate:
    return Candidate(bundle, None, f"watch {bundle.manifest.version}", "owner")


class Device:
    """Trials over a store, and live windows that the model in use answers."""

    def __init__(self, state: Path, rules: TrialRules = RULES, **given: object) -> None:
        self.store = DeviceStore(state / "device.db")
        self.used: list[str] = []
        begin = Serving(GOOD, GOOD.weights, "watch 1", "bundle")
        self.trials = Trials(
            self.store,
            begin,
            rules,
            changed=self._changed,
            **given,  # type: ignore[arg-type]
        )
        self.labels: NDArray[np.int64] | None = None
        self._predictor = Predictor(GOOD, weights=self.trials.serving.weights)

    async def _changed(self, serving: Serving) -> None:
        self.used.append(serving.name)
        self._predictor = Predictor(serving.bundle, weights=serving.weights)

    async def live(self) -> None:
        """Windows for ever; each batch of 25 is 25 streams, so that none overlap."""
        rows = np.arange(25)
        while True:
            for first in range(0, len(GIVEN), 25):
                part = slice(first, first + 25)
                labels = None if self.labels is None else self.labels[part]
                for _ in range(4):  # a window and the three that share samples with it
                    self.trials.seen(GIVEN[part], self._predictor(GIVEN[part]), rows, labels)
                await asyncio.sleep(0.002)

    @property
    def last(self) -> tuple[str, str]:
        """How the last trial ended: stage and reason."""
        past = self.trials.state.standing.past
        return (past[-1].stage, past[-1].reason) if past else ("", "")


@asynccontextmanager
async def running(device: Device) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(device.trials.run()), asyncio.create_task(device.live())]
    try:
        yield
        assert not tasks[0].done(), tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        device.store.close()


def test_the_owners_bundle_takes_over_and_outlives_the_process(tmp_path: Path) -> None:
    better = bad_models.nudged(0.01)

    async def first() -> None:
        device = Device(tmp_path)
        device.trials.offer(owners(better))  # before it runs
        async with running(device):
            await until(lambda: device.last == ("kept", ""))
            assert device.used == ["watch nudged 0.01"]

    async def second() -> None:
        device = Device(tmp_path)
        async with running(device):
            assert device.trials.serving.bundle.hash == better.hash
            assert device.trials.serving.source == "owner"
            assert [one.stage for one in device.trials.view()] == ["active"]

    asyncio.run(first())
    asyncio.run(second())


def test_what_is_offered_before_the_agent_runs_waits_for_the_trial_that_goes_on(
    tmp_path: Path,
) -> None:
    first, second = bad_models.nudged(0.01), bad_models.nudged(0.006)
    slow_watch = TrialRules(block_windows=1, watch_seconds=0.2, watch_windows=10**6, slower_max=4.0)

    async def begin() -> None:
        device = Device(tmp_path, slow_watch)
        async with running(device):
            device.trials.offer(owners(first))
            await until(lambda: device.used)

    async def go_on() -> None:
        device = Device(tmp_path)
        device.trials.offer(owners(second))
        async with running(device):
            await until(lambda: device.trials.serving.bundle.hash == second.hash)

    asyncio.run(begin())
    asyncio.run(go_on())
    assert Device(tmp_path).trials.serving.bundle.hash == second.hash


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bad_models.random_weights, "unlike"),
        (bad_models.overflowing, "not_finite"),
        (bad_models.slow, "slow"),
        (bad_models.wrong_shape, "wrong_schema"),
        (bad_models.lying_shape, "wrong_shape"),
    ],
)
def test_a_bad_model_never_decides(make: Callable[[], Bundle], reason: str, tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        async with running(device):
            device.trials.offer(owners(make()))
            await until(lambda: device.last == ("refused", reason))
            assert device.used == []
            assert device.trials.serving.bundle.hash == GOOD.hash

    asyncio.run(body())


def test_labels_show_in_shadow_that_random_weights_are_worse(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        device.labels = LABELS
        async with running(device):
            device.trials.offer(owners(bad_models.random_weights()))
            await until(lambda: device.last == ("refused", "worse"))
            assert device.used == []

    asyncio.run(body())


def test_labels_that_come_late_roll_it_back(tmp_path: Path) -> None:
    """Without labels 6% other answers pass; the owner labels windows, and it goes by itself."""
    rules = TrialRules(
        block_windows=1, watch_windows=10**6, change_max=0.15, slower_max=4.0, watch_seconds=600
    )

    async def body() -> None:
        device = Device(tmp_path, rules)
        async with running(device):
            device.trials.offer(owners(bad_models.nudged(0.06)))
            await until(lambda: device.used == ["watch nudged 0.06"])
            while device.last == ("", ""):
                for first in range(0, len(GIVEN), 250):
                    part = slice(first, first + 250)
                    device.trials.labelled(GIVEN[part], LABELS[part])
                    await asyncio.sleep(0.02)
            assert device.last == ("rolled_back", "worse")
            await until(lambda: device.used[-1] == "watch 1")
            assert device.trials.serving.bundle.hash == GOOD.hash

    asyncio.run(body())


def test_a_model_that_cannot_answer_is_refused(tmp_path: Path) -> None:
    class Dying:
        """A shadow whose process dies when it meets live windows."""

        def __init__(self, real: Shadow) -> None:
            self._real, self._answers = real, 0

        async def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
            self._answers += 1
            if self._answers > 12:
                raise HedgerowError("its process is gone")
            return await self._real.infer(x)

        async def close(self) -> None:
            await self._real.close()

    async def opened(bundle: Bundle, weights: NDArray[np.float32], name: str) -> Shadow:
        real = await in_process(bundle, weights, name)
        return Dying(real) if name != "watch 1" else real

    async def body() -> None:
        device = Device(tmp_path, open_shadow=opened)
        async with running(device):
            device.trials.offer(owners(bad_models.nudged(0.2)))
            await until(lambda: device.last[0] == "refused", 30)

    asyncio.run(body())


def test_a_rounds_model_serves_at_once_unless_it_is_worse(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        async with running(device):
            good = Candidate(None, bad_models.nudged(0.01).weights, "round 1", "fleet")
            bad = Candidate(None, bad_models.random_weights().weights, "round 2", "fleet")
            broken = Candidate(None, np.full_like(GOOD.weights, 3e38), "round 3", "fleet")
            fitted = await device.trials.at_once(good, GIVEN, LABELS)
            assert fitted.taken and fitted.loss is not None
            assert 1 - fitted.loss == pytest.approx(0.9, abs=0.03)
            for one in (bad, broken):
                assert not (await device.trials.at_once(one, GIVEN, LABELS)).taken
            assert device.trials.serving.name == "round 1"
            none = GIVEN[:0], LABELS[:0]
            again = Candidate(None, GOOD.weights, "round 4", "fleet")
            assert (await device.trials.at_once(again, *none)).taken
            assert not (await device.trials.at_once(broken, *none)).taken
        assert Device(tmp_path).trials.serving.name == "round 4"

    asyncio.run(body())


def test_a_round_waits_for_the_end_of_a_trial(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        async with running(device):
            device.trials.offer(owners(bad_models.nudged(0.01)))
            await until(lambda: device.trials.state.standing.attempt is not None)
            older = Candidate(None, GOOD.weights, "round 1", "fleet")
            newer = Candidate(None, GOOD.weights, "round 2", "fleet")
            waits = asyncio.gather(
                device.trials.at_once(older, GIVEN, LABELS),
                device.trials.at_once(newer, GIVEN, LABELS),
            )
            first, second = await waits
            assert not first.taken and second.taken
            assert device.last == ("kept", "")
            assert device.trials.serving.name == "round 2"

    asyncio.run(body())


def test_the_inbox_takes_what_the_owner_lays_down(tmp_path: Path) -> None:
    async def body() -> None:
        device = Device(tmp_path)
        offers = tmp_path / "offers"
        device.trials.inbox(offers)
        async with running(device):
            await until(offers.exists)
            bad_models.wrong_shape().save(offers / "mine.hedgerow")
            await until(lambda: device.last == ("refused", "wrong_schema"))
            assert list(offers.iterdir()) == []

    asyncio.run(body())


def test_a_damaged_active_model_gives_way_to_the_one_before(tmp_path: Path) -> None:
    other = bad_models.nudged(0.01)

    async def body() -> None:
        device = Device(tmp_path)
        async with running(device):
            device.trials.offer(owners(other))
            await until(lambda: device.last == ("kept", ""))

    asyncio.run(body())
    store = DeviceStore(tmp_path / "device.db")
    store.forget_blob(other.hash)
    store.close()
    assert Device(tmp_path).trials.serving.bundle.hash == GOOD.hash
