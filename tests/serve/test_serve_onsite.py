"""Learning on site: a real process learns from what was seen, within its budget."""

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.streams import stream
from hedgerow.io.surroundings import Surroundings
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.onsite import NORMAL, Gauges, Learned, OnSite, OnSiteSettings
from hedgerow.serve.onsite.task import RESULT

Array = NDArray[np.float32]
FREE = Gauges(busy=0.1, celsius=40, on_power=True, available_bytes=2**32)
QUICK = OnSiteSettings(
    every_seconds=1e6, windows_min=64, epochs=20, cpu_share=1.0, check_seconds=0.05, load_max=1.0
)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def site(
    tmp_path: Path,
    bundle: Bundle,
    gauges: Callable[[], Gauges] = lambda: FREE,
    used: Callable[[float], None] = lambda seconds: None,
    **changes: Any,
) -> OnSite:
    schema = bundle.manifest.input
    around = Surroundings("gateway", tmp_path, schema.channels, schema.rate_hz)
    return OnSite(
        bundle,
        bundle.weights,
        msgspec.structs.replace(QUICK, **changes),
        name="hall",
        directory=tmp_path / "onsite",
        around=around,
        gauges=gauges,
        used=used,
        niceness=0,  # tests run where others do, and wait
    )


def hall(windows: int, seed: int = 0) -> Array:
    """Standardised spectra whose 64 bands follow three hidden loads, as no other hall's do."""
    rng = stream(seed, "hall")
    mixing = stream(1, "mixing").standard_normal((3, 64)) / math.sqrt(3)
    x = rng.standard_normal((windows, 3)) @ mixing + 0.3 * rng.standard_normal((windows, 64))
    return x.astype(np.float32)


def fill(one: OnSite, x: Array, scores: Array | None = None, every_seconds: float = 3.0) -> None:
    rows = np.arange(len(x)) % 4
    one.seen(rows, x, np.linspace(0, every_seconds * (len(x) - 1), len(x)), scores)


def error(bundle: Bundle, weights: Array, x: Array) -> float:
    return float(np.mean((Predictor(bundle, weights=weights)(x) - x) ** 2))


@in_loop
async def test_an_autoencoder_learns_a_hall_and_the_learned_is_better(tmp_path: Path) -> None:
    bundle = app_bundle("vibration")
    used: list[float] = []
    one = site(tmp_path, bundle, used=used.append)
    fill(one, hall(1500))
    assert await one.once() is None and one.view.state == "idle"  # nothing asked for it yet
    one.ask("press 3 drifted")
    learned = await one.once()
    assert learned is not None and one.view.last.startswith("better")
    assert learned.after > learned.before and learned.why.startswith("press 3 drifted")
    new = hall(400, seed=9)
    assert error(bundle, learned.weights, new) < 0.7 * error(bundle, bundle.weights, new)
    view = one.view
    assert (view.state, view.trainings, view.offered) == ("idle", 1, 1)
    assert view.cpu_seconds_today == pytest.approx(learned.seconds) == pytest.approx(sum(used))
    assert learned.seconds > 0.1 and learned.joules == pytest.approx(2 * learned.seconds)
    assert not (tmp_path / "onsite" / "task").exists()
    assert await one.once() is None  # asked once, learned once
    fill(one, hall(100))
    one.ask("again")
    assert await one.once() is None  # … and not again before a pause


@in_loop
async def test_a_classifier_learns_from_labels_given_later(tmp_path: Path) -> None:
    bundle = app_bundle("watch")
    rng = stream(3, "moves")
    shapes = rng.standard_normal((7, 6, 100)).astype(np.float32)
    y = np.arange(280) % 7
    x = shapes[y] + 0.5 * rng.standard_normal((280, 6, 100), np.float32)
    one = site(tmp_path, bundle, epochs=5)
    one.seen(np.zeros(280, np.int64), x, np.linspace(0, 40 * 279, 280))
    one.ask("drift")
    assert await one.once() is None
    assert "0 windows to learn from" in one.view.why  # no label yet
    for place in range(280):
        assert one.labelled(0, 40.0 * place, 40.0 * place + 1, int(y[place])) == 1
    learned = await one.once()
    assert learned is not None and learned.windows == 280
    assert learned.before < 0.5 < 0.9 < learned.after


@in_loop
async def test_labelled_windows_of_the_store_are_learned_from_too(tmp_path: Path) -> None:
    bundle = app_bundle("watch")
    rng = stream(4, "moves")
    shapes = rng.standard_normal((7, 6, 100)).astype(np.float32)
    y = np.arange(140) % 7
    x = shapes[y] + 0.5 * rng.standard_normal((140, 6, 100), np.float32)
    one = site(tmp_path, bundle, epochs=8)
    one.add_labelled(np.zeros(140, np.int64), x, np.linspace(0, 40 * 139, 140), y)
    learned = await one.once()
    assert learned is not None and learned.why.startswith("140 windows were given labels")


@in_loop
async def test_what_alarms_is_not_learned_unless_somebody_calls_it_normal(tmp_path: Path) -> None:
    one = site(tmp_path, app_bundle("vibration"))
    x = hall(400)
    scores = np.full(400, 0.5, np.float32)
    scores[100:300], scores[300:320] = 1.5, np.nan
    fill(one, x, scores)
    assert one.view.windows == 380
    samples = one._samples()
    assert not isinstance(samples, str) and len(samples[0]) == 180
    assert one.labelled(1, 0, 1e6, NORMAL) == 95
    samples = one._samples()
    assert not isinstance(samples, str) and len(samples[0]) == 180 + 50
    normal, fault = one.evidence(1)
    assert len(normal) == 95 and max(normal) == 1.5 and fault == []
    assert one.labelled(2, 0, 300, 0) > 0 and len(one.evidence(2)[1]) > 0


@in_loop
async def test_it_waits_for_its_budget_and_says_why(tmp_path: Path) -> None:
    now = [msgspec.structs.replace(FREE, on_power=False)]
    one = site(tmp_path, app_bundle("vibration"), gauges=lambda: now[0])
    fill(one, hall(400))
    one.ask("drift")
    assert await one.once() is None
    assert (one.view.state, one.view.why) == ("waiting", "on battery")
    now[0] = FREE
    assert isinstance(await one.once(), Learned)  # it was not forgotten that it was asked


@in_loop
async def test_a_training_is_paused_while_the_machine_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.serve.onsite.pace.GAUGE_SECONDS", 0.05)
    asked, busy = [0], msgspec.structs.replace(FREE, busy=1.0)
    states: list[str] = []

    def gauges() -> Gauges:
        asked[0] += 1
        states.append(one.view.state)
        return busy if 2 <= asked[0] <= 6 else FREE

    one = site(tmp_path, app_bundle("vibration"), gauges=gauges, load_max=0.5)
    fill(one, hall(600))
    one.ask("drift")
    assert await one.once() is not None
    assert "paused" in states and one.view.state == "idle"


@in_loop
async def test_a_day_without_joules_ends_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.serve.onsite.pace.GAUGE_SECONDS", 0.05)
    one = site(tmp_path, app_bundle("vibration"), joules_per_day=0.3, epochs=1000, pause_seconds=0)
    fill(one, hall(3000))
    one.ask("drift")
    assert await one.once() is None
    assert one.view.last == "today's 0.3 J are spent"
    one.ask("again")
    fill(one, hall(100))
    assert await one.once() is None and one.view.state == "waiting"


@in_loop
async def test_a_training_that_takes_too_long_ends(tmp_path: Path) -> None:
    one = site(tmp_path, app_bundle("vibration"), seconds_max=0.2, epochs=1000)
    fill(one, hall(3000))
    one.ask("drift")
    assert await one.once() is None and "more than 0.2 s" in one.view.last


@in_loop
async def test_a_training_without_the_memory_it_needs_ends_by_itself(tmp_path: Path) -> None:
    one = site(tmp_path, app_bundle("vibration"), memory_bytes_max=64 * 2**20)
    fill(one, hall(400))
    one.ask("drift")
    assert await one.once() is None
    assert one.view.last and one.view.state == "idle"


@in_loop
async def test_a_model_that_took_over_meanwhile_wins(tmp_path: Path) -> None:
    bundle = app_bundle("vibration")
    one = site(tmp_path, bundle)
    fill(one, hall(400))
    one.ask("drift")
    work = asyncio.create_task(one.once())
    await asyncio.sleep(0.05)
    one.use(bundle, bundle.weights * np.float32(0.9))
    assert await work is None and "another model took over" in one.view.last
    assert one.view.windows == 400  # of the same features: still of use


@in_loop
async def test_a_cancelled_training_leaves_no_process_and_no_files(tmp_path: Path) -> None:
    one = site(tmp_path, app_bundle("vibration"), epochs=1000)
    fill(one, hall(3000))
    one.ask("drift")

    async def none(learned: Learned) -> None:
        raise AssertionError("nothing was learned")

    work = asyncio.create_task(one.run(none))
    while one.view.state != "learning":
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not (tmp_path / "onsite" / "task" / RESULT).exists()
    assert not (tmp_path / "onsite" / "task").exists()


@in_loop
async def test_the_owner_may_clear_it_or_turn_it_off(tmp_path: Path) -> None:
    one = site(tmp_path, app_bundle("vibration"))
    fill(one, hall(100))
    assert one.forget(0, 30) == 10 and one.view.windows == 90
    one.clear()
    assert one.view.windows == 0
    off = site(tmp_path, app_bundle("vibration"), enabled=False)
    fill(off, hall(100))
    assert (off.view.state, off.view.windows) == ("off", 0)
