"""Features in a process of their own: the same bits, also when that process dies or hangs."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.io import clock
from hedgerow.sense.features import features
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.edge import featuring
from hedgerow.serve.edge.featuring import FeatureProcess

SCHEMA = app_bundle("vibration").manifest.input
Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def two_cores_and_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(featuring, "START_SECONDS_MAX", 60.0)
    monkeypatch.setattr(featuring, "ANSWER_SECONDS_MAX", 60.0)


def windows(count: int) -> list[Array]:
    rng = np.random.default_rng(count)
    return [rng.normal(0, 1, (1, SCHEMA.window)).astype(np.float32) for _ in range(count)]


async def agrees(process: FeatureProcess, count: int) -> None:
    given = windows(count)
    made = await process.features(given)
    wanted = features(np.stack(given), SCHEMA)
    assert made.shape == (count, *SCHEMA.shape)
    assert np.array_equal(made, wanted)


def running(process: FeatureProcess) -> int:
    assert process.process is not None
    return process.process


def test_small_batches_need_no_process_and_large_ones_get_one() -> None:
    async def body() -> None:
        process = FeatureProcess(SCHEMA)
        await agrees(process, 3)
        assert not process.process
        await agrees(process, 2000)
        number = running(process)
        await asyncio.gather(*(agrees(process, count) for count in (100, 700, 1500, 40, 2)))
        assert process.process == number
        assert process.take_busy_seconds() > 0
        await process.close()
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)

    asyncio.run(body())


def killed(number: int) -> None:
    os.kill(number, signal.SIGKILL)


def hung(number: int) -> None:
    os.kill(number, signal.SIGSTOP)


@pytest.mark.parametrize("end", [killed, hung])
def test_one_that_dies_or_hangs_is_done_without_and_later_started_again(
    end: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    async def body() -> None:
        nonlocal now
        process = FeatureProcess(SCHEMA)
        await agrees(process, 500)
        number = running(process)
        end(number)
        monkeypatch.setattr(featuring, "ANSWER_SECONDS_MAX", 0.5)
        # Several at once find out, and one waits for its turn: none is lost, no second is started.
        await asyncio.gather(*(agrees(process, count) for count in (1500, 400, 300, 200)))
        assert process.process is None
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
        now += featuring.AGAIN_SECONDS - 1
        await agrees(process, 500)
        assert process.process is None
        now += 2
        await agrees(process, 500)
        assert running(process) != number
        await process.close()

    asyncio.run(body())


def test_one_killed_while_it_has_nothing_to_do_is_noticed_with_the_next_batch() -> None:
    async def body() -> None:
        process = FeatureProcess(SCHEMA)
        await agrees(process, 500)
        killed(running(process))
        await asyncio.sleep(0.1)
        await agrees(process, 500)
        assert process.process is None
        await process.close()

    asyncio.run(body())


def test_where_it_cannot_be_started_features_are_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    async def body() -> None:
        process = FeatureProcess(SCHEMA)
        await asyncio.gather(agrees(process, 500), agrees(process, 2000))
        assert process.process is None
        await process.close()

    asyncio.run(body())


def test_once_closed_it_starts_no_other() -> None:
    async def body() -> None:
        process = FeatureProcess(SCHEMA)
        await agrees(process, 500)
        await process.close()
        await agrees(process, 500)
        assert process.process is None

    asyncio.run(body())
