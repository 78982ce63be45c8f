"""One window from the arrival of its last samples to the decision, against the bare model call."""

import asyncio
import gc
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.core.streams import stream
from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore, StoredWindow
from hedgerow.model.bundle import INFER, Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.model.session import open_session
from hedgerow.sense.features import features
from hedgerow.sense.windows import Window
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.inference.base import InferenceSettings, ModelSpec
from hedgerow.serve.inference.guard import GuardedModel
from hedgerow.serve.pipeline import Pipeline

WARM_UP = 200
KEPT_TOGETHER = 256
"""Windows in one commit: an agent commits once a second, so this is 256 windows a second."""
GUARDED = 1000


class InferenceResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench inference --json` prints; microseconds. `ratio` is p50 / bare p50.

    `kept` windows are in the store at the end. `guarded_p50_us` is the model's call alone, with
    the model in a process of its own.
    """

    bare_p50_us: float
    p50_us: float
    p99_us: float
    worst_us: float
    ratio: float
    windows: int
    kept: int
    guarded_p50_us: float
    guarded_p99_us: float


def bench_inference(windows: int) -> InferenceResult:
    """Time `windows` windows of synthetic samples, each way in turn on the same window.

    The bare call is `InferenceSession.run` on features that lie ready; the other one is a pipeline
    in one process: samples in, window, quality, features, model, decision, and the window into a
    real store. The store's commits are part of the times.
    """
    bundle = app_bundle("watch")
    with tempfile.TemporaryDirectory() as directory:
        store = DeviceStore(Path(directory) / "device.db")
        try:
            bare, whole = _times(bundle, windows, store)
            kept = store.window_count("bench")
        finally:
            store.close()
    guarded = asyncio.run(_guarded(bundle))
    bare_p50, p50 = np.percentile(bare, 50), np.percentile(whole, 50)
    return InferenceResult(
        bare_p50_us=round(float(bare_p50), 1),
        p50_us=round(float(p50), 1),
        p99_us=round(float(np.percentile(whole, 99)), 1),
        worst_us=round(float(whole.max()), 1),
        ratio=round(float(p50 / bare_p50), 3),
        windows=windows,
        kept=kept,
        guarded_p50_us=round(float(np.percentile(guarded, 50)), 1),
        guarded_p99_us=round(float(np.percentile(guarded, 99)), 1),
    )


def _times(
    bundle: Bundle, windows: int, store: DeviceStore
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Microseconds of each window: the bare call, and from its samples to the decision."""
    schema = bundle.manifest.input
    waiting: list[Window] = []
    pipeline = Pipeline(bundle, Predictor(bundle), waiting.append)
    tensors = bundle.manifest.layout.unflatten(bundle.weights)
    bare = open_session(bundle.file(INFER), threads=1, tensors=dict(tensors))
    name = bare.get_inputs()[0].name
    total = windows + WARM_UP
    rng = stream(0, "bench inference")
    count = schema.window + schema.hop * total
    samples = rng.standard_normal((count, len(schema.channels))).astype(np.float32)
    pipeline.push(samples[: schema.window - schema.hop], 0.0)
    bare_seconds, seconds = np.empty(total), np.empty(total)
    gc.collect()
    gc.freeze()  # as the agent does when it has started
    for i in range(total):
        first = schema.window - schema.hop + i * schema.hop
        block = samples[first : first + schema.hop]
        window = samples[first + schema.hop - schema.window : first + schema.hop]
        ready = features(np.ascontiguousarray(window.T), schema)[None]
        start = time.perf_counter()
        bare.run(None, {name: ready})
        between = time.perf_counter()
        decision = pipeline.push(block, first / schema.rate_hz)
        if len(waiting) >= KEPT_TOGETHER:
            _keep(store, waiting)
        seconds[i] = time.perf_counter() - between
        bare_seconds[i] = between - start
        assert decision is not None
    gc.unfreeze()
    _keep(store, waiting)
    return 1e6 * bare_seconds[WARM_UP:], 1e6 * seconds[WARM_UP:]


def _keep(store: DeviceStore, waiting: list[Window]) -> None:
    """All that waits into the store, in one commit."""
    now = clock.now()
    store.add_windows([StoredWindow(w.samples, 0, now, "bench") for w in waiting], now)
    waiting.clear()


async def _guarded(bundle: Bundle) -> NDArray[np.float64]:
    """Microseconds of single windows through a guarded model."""
    model = GuardedModel(InferenceSettings(precision="float32", providers=("cpu",)))
    await model.use(ModelSpec(bundle, bundle.weights, "bench"))
    shape = (GUARDED + WARM_UP, *bundle.manifest.input.shape)
    x = stream(0, "bench guarded").standard_normal(shape, np.float32)
    seconds = np.empty(len(x))
    try:
        for i, row in enumerate(x):
            start = time.perf_counter()
            model.one(row)
            seconds[i] = time.perf_counter() - start
    finally:
        await model.close()
    return 1e6 * seconds[WARM_UP:]
