"""One window from the arrival of its last samples to the decision, against the bare model call."""

import time

import msgspec
import numpy as np

from hedgerow.core.streams import stream
from hedgerow.model.bundle import INFER
from hedgerow.model.predictor import Predictor
from hedgerow.model.session import open_session
from hedgerow.sense.features import features
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.pipeline import Pipeline

WARM_UP = 200


class InferenceResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench inference --json` prints; microseconds. `ratio` is p50 / bare p50."""

    bare_p50_us: float
    p50_us: float
    p99_us: float
    ratio: float
    windows: int


def bench_inference(windows: int) -> InferenceResult:
    """Time `windows` windows of synthetic samples, each way in turn on the same window.

    The bare call is `InferenceSession.run` on features that lie ready; the other one is the
    agent's pipeline: samples in, window, quality, features, model, decision out.
    """
    bundle = app_bundle("watch")
    schema = bundle.manifest.input
    pipeline = Pipeline(bundle, Predictor(bundle))
    tensors = bundle.manifest.layout.unflatten(bundle.weights)
    bare = open_session(bundle.file(INFER), threads=1, tensors=dict(tensors))
    name = bare.get_inputs()[0].name
    total = windows + WARM_UP
    rng = stream(0, "bench inference")
    count = schema.window + schema.hop * total
    samples = rng.standard_normal((count, len(schema.channels))).astype(np.float32)
    pipeline.push(samples[: schema.window - schema.hop], 0.0)
    bare_seconds, seconds = np.empty(total), np.empty(total)
    for i in range(total):
        first = schema.window - schema.hop + i * schema.hop
        block = samples[first : first + schema.hop]
        window = samples[first + schema.hop - schema.window : first + schema.hop]
        ready = features(np.ascontiguousarray(window.T), schema)[None]
        start = time.perf_counter()
        bare.run(None, {name: ready})
        between = time.perf_counter()
        decision = pipeline.push(block, first / schema.rate_hz)
        seconds[i] = time.perf_counter() - between
        bare_seconds[i] = between - start
        assert decision is not None
    micro, bare_micro = seconds[WARM_UP:] * 1e6, bare_seconds[WARM_UP:] * 1e6
    return InferenceResult(
        bare_p50_us=round(float(np.percentile(bare_micro, 50)), 1),
        p50_us=round(float(np.percentile(micro, 50)), 1),
        p99_us=round(float(np.percentile(micro, 99)), 1),
        ratio=round(float(np.percentile(micro, 50) / np.percentile(bare_micro, 50)), 3),
        windows=windows,
    )
