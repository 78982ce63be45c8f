"""A model in a process of its own: killed, crashed, stopped, and the agent goes on."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.inference.base import (
    Happened,
    InferenceSettings,
    ModelDown,
    ModelRefused,
    ModelSpec,
)
from hedgerow.serve.inference.guard import ANSWERS_GOOD, GuardedModel
from hedgerow.serve.inference.runner import runner_of

Array = NDArray[np.float32]
BUNDLE = app_bundle("watch")
SETTINGS = InferenceSettings(
    deadline_seconds=30.0, patience_seconds=30.0, batch_max=32, providers=("cpu",)
)
IMPATIENT = InferenceSettings(
    deadline_seconds=2.0, patience_seconds=0.1, batch_max=32, providers=("cpu",)
)


def windows(count: int) -> Array:
    rng = np.random.default_rng(3)
    return rng.standard_normal((count, *BUNDLE.manifest.input.shape), np.float32)


def spec(name: str = "watch 1", bundle: Bundle = BUNDLE) -> ModelSpec:
    return ModelSpec(bundle, bundle.weights, name)


@asynccontextmanager
async def guarded(
    told: Callable[[Happened], None] = lambda happened: None,
    settings: InferenceSettings = SETTINGS,
) -> AsyncIterator[GuardedModel]:
    model = GuardedModel(settings, told=told)
    try:
        await model.use(spec())
        yield model
    finally:
        await model.close()


def process_of(model: GuardedModel) -> int:
    process = model.status.process
    assert process is not None
    return process


async def answers_again(model: GuardedModel) -> None:
    async with asyncio.timeout(30):
        await model.up()
    assert np.isfinite(await model.infer(windows(2))).all()


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await body()

    asyncio.run(whole())


def test_its_answers_are_those_of_the_model_here() -> None:
    async def body() -> None:
        here = Predictor(BUNDLE)
        x = windows(75)
        async with guarded() as model:
            for count in (1, 5, 32, 75):  # the last is cut into three batches
                assert np.array_equal(await model.infer(x[:count]), here(x[:count]))
            assert np.array_equal(model.one(x[0]), here.one(x[0]))
            both = await asyncio.gather(*(model.infer(x[k : k + 7]) for k in range(6)))
            assert all(np.array_equal(y, here(x[k : k + 7])) for k, y in enumerate(both))
            assert model.status.up and model.status.choice is not None

    run(body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_crash_costs_a_batch_and_no_more(number: signal.Signals) -> None:
    async def body() -> None:
        told: list[Happened] = []
        async with guarded(told.append) as model:
            first = process_of(model)
            batch = asyncio.create_task(model.infer(windows(32)))
            os.kill(first, signal.SIGSTOP)  # so that the batch is on its way when it happens
            await asyncio.sleep(0)
            os.kill(first, number)
            os.kill(first, signal.SIGCONT)
            with pytest.raises(ModelDown):
                await batch
            await answers_again(model)
            assert process_of(model) != first
            assert (model.status.started, model.status.ended) == (2, 1)
        assert [one.what for one in told] == ["started", "crashed", "started"]
        assert number.name in told[1].reason

    run(body)


def test_a_hang_is_ended_and_holds_up_nobody() -> None:
    async def body() -> None:
        told: list[Happened] = []
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        async with guarded(told.append, IMPATIENT) as model:
            beside = asyncio.create_task(others())
            os.kill(process_of(model), signal.SIGSTOP)
            with pytest.raises(ModelDown, match="did not answer within 2 s"):
                await model.infer(windows(3))
            assert turns > 10
            beside.cancel()
            with pytest.raises(ModelDown):
                await model.infer(windows(3))  # at once, while another process starts
            await answers_again(model)
        assert [one.what for one in told] == ["started", "hung", "started"]

    run(body)


def test_a_single_window_does_not_wait_for_a_model_that_hangs() -> None:
    async def body() -> None:
        slow = msgspec.structs.replace(IMPATIENT, deadline_seconds=30.0)
        async with guarded(settings=slow) as model:
            stopped = process_of(model)
            os.kill(stopped, signal.SIGSTOP)
            with pytest.raises(ModelDown, match=r"within 0\.1 s"):
                model.one(windows(1)[0])
            with pytest.raises(ModelDown, match="busy with the window before"):
                model.one(windows(1)[0])
            os.kill(stopped, signal.SIGCONT)  # it was only slow
            async with asyncio.timeout(25):
                while True:
                    await asyncio.sleep(0.01)
                    try:
                        model.one(windows(1)[0])
                        break
                    except ModelDown:
                        continue
            assert process_of(model) == stopped

    run(body)


def test_a_model_that_keeps_crashing_gives_way_to_the_last_good_one() -> None:
    async def body() -> None:
        told: list[Happened] = []
        async with guarded(told.append) as model:
            for _ in range(ANSWERS_GOOD):
                await model.infer(windows(1))
            await model.use(spec("watch 2"))
            async with asyncio.timeout(60):
                while model.status.model == "watch 2":
                    os.kill(process_of(model), signal.SIGKILL)
                    await asyncio.sleep(0.02)
                    await model.up()
            await answers_again(model)
            assert model.status.model == "watch 1"
            assert model.status.fell_back == 1
        back = [one for one in told if one.what == "fell_back"]
        assert [one.model for one in back] == ["watch 2"]
        assert "SIGKILL" in back[0].reason and "back to watch 1" in back[0].reason
        assert sum(one.what == "crashed" for one in told) == SETTINGS.tries

    run(body)


def test_a_model_that_cannot_run_is_refused_and_the_old_one_stays() -> None:
    async def body() -> None:
        async with guarded() as model:
            before = process_of(model)
            wrong = ModelSpec(BUNDLE, BUNDLE.weights[:-1], "too short")
            with pytest.raises(ModelRefused, match="the layout wants"):
                await model.use(wrong)
            assert process_of(model) == before
            assert model.status.model == "watch 1"
            await model.infer(windows(4))

    run(body)


def test_another_bundle_takes_over_without_a_pause() -> None:
    async def body() -> None:
        async with guarded() as model:
            before = process_of(model)
            another = Bundle.from_bytes(BUNDLE.to_bytes())
            change = asyncio.create_task(model.use(spec("watch 2", another)))
            answered = 0
            while not change.done():
                await model.infer(windows(1))  # raises if nobody answers
                answered += 1
            await change
            assert answered > 3
            assert model.status.model == "watch 2" and process_of(model) != before
            assert not Path(f"/proc/{before}").exists()

    run(body)


def test_other_weights_go_into_the_process_that_runs() -> None:
    async def body() -> None:
        x = windows(40)
        async with guarded() as model:
            before = process_of(model)
            halves = [BUNDLE.weights * np.float32(scale) for scale in (0.5, 2.0)]
            names = "half", "double"
            beside = [asyncio.create_task(model.infer(x)) for _ in range(5)]
            pairs = zip(halves, names, strict=True)
            await asyncio.gather(*(model.use(ModelSpec(BUNDLE, w, name)) for w, name in pairs))
            assert np.isfinite(await asyncio.gather(*beside)).all()
            assert process_of(model) == before
            assert model.status.model == "double"
            wanted = Predictor(BUNDLE, weights=halves[1])(x)
            assert np.array_equal(await model.infer(x), wanted)
            os.kill(before, signal.SIGKILL)
            await asyncio.sleep(0.05)
            await answers_again(model)  # with the weights it had last
            assert np.array_equal(await model.infer(x), wanted)

    run(body)


def test_who_waits_no_more_takes_no_place() -> None:
    async def body() -> None:
        async with guarded() as model:
            for _ in range(20):
                task = asyncio.create_task(model.infer(windows(32)))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            x = windows(9)
            assert np.array_equal(await model.infer(x), Predictor(BUNDLE)(x))

    run(body)


def test_the_process_knows_no_secrets_and_leaves_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_STORE_PASSWORD", "hunter2")

    async def body() -> None:
        async with guarded() as model:
            home = Path(f"/proc/{process_of(model)}")
            assert b"hunter2" not in (home / "environ").read_bytes()
            assert "Max core file size        0" in (home / "limits").read_text()
            assert (home / "oom_score_adj").read_text().strip() == "500"

    run(body)


def test_nothing_is_left_open_after_many_ends() -> None:
    async def body() -> None:
        async with guarded() as model:
            await answers_again(model)
            open_before = len(list(Path("/proc/self/fd").iterdir()))
            for _ in range(3):
                os.kill(process_of(model), signal.SIGKILL)
                await asyncio.sleep(0.02)
                await answers_again(model)
            assert len(list(Path("/proc/self/fd").iterdir())) == open_before

    run(body)


PARENT = """
import asyncio
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.inference.base import InferenceSettings, ModelSpec
from hedgerow.serve.inference.guard import GuardedModel

async def main():
    bundle = app_bundle("watch")
    model = GuardedModel(InferenceSettings(providers=("cpu",)))
    await model.use(ModelSpec(bundle, bundle.weights, "watch"))
    import sys
    print(model.status.process, "onnxruntime" in sys.modules, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_it_ends_with_the_agent_which_has_no_runtime_of_its_own() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        number, has_runtime = agent.stdout.readline().split()
        assert has_runtime == b"False"
        worker = Path(f"/proc/{number.decode()}")
        assert worker.exists()
        agent.kill()
        agent.wait()

    async def gone() -> None:
        async with asyncio.timeout(10):
            while worker.exists():
                await asyncio.sleep(0.02)

    asyncio.run(gone())


@pytest.mark.parametrize("guard", [True, False])
def test_with_and_without_a_guard_a_runner_has_the_same_face(guard: bool) -> None:
    async def body() -> None:
        told: list[Happened] = []
        settings = InferenceSettings(guard=guard, providers=("cpu",))
        runner = runner_of(settings, told=told.append)
        try:
            with pytest.raises(ModelDown, match="no model is in use yet"):
                await runner.infer(windows(1))
            await runner.use(spec())
            x, here = windows(70), Predictor(BUNDLE)
            assert np.array_equal(await runner.infer(x), here(x))
            assert np.array_equal(runner.one(x[1]), here.one(x[1]))
            with pytest.raises(ModelRefused):
                await runner.use(ModelSpec(BUNDLE, BUNDLE.weights[:5], "wrong"))
            await runner.up()
            status = runner.status
            assert status.up and status.model == "watch 1" and status.started == 1
            assert (status.process == os.getpid()) is not guard
            assert runner.spec is not None and told[0].what == "started"
        finally:
            await runner.close()

    run(body)
