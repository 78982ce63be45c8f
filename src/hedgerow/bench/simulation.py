"""Client updates a second in simulation: how close the whole path comes to bare matrix products.

A client update is all that a simulated round does for a client: its samples shuffled and gathered
batch by batch, one epoch of training through the bundle's graph, the weighting, the fixed point and
the integer sum; after all clients comes the server's step. What a client learns from is rows of its
own of one pool of random samples, so that a million clients fit in memory as a thousand do.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import stream
from hedgerow.io import clock, memory
from hedgerow.model.bundle import Bundle
from hedgerow.model.samples import Samples, Views
from hedgerow.protocol.learning import Shape, next_server
from hedgerow.sim.engine import Engine, Round

Kind = Literal["mlp", "cnn1d", "cnn2d"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_POOL = 8192
_SLICE = 1 << 16
_SECONDS = 2.0
_RATE = 0.05


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated. `features`, `hidden` and `classes` are those of the `mlp`."""

    model: Kind = "mlp"
    clients: int = 1000
    samples: int = 64
    features: int = 64
    hidden: int = 64
    classes: int = 10
    batch: int = 16


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One model's figures. GFLOP are those of the matrix products alone, at their own speed for
    `gemm_peak_gflops`. `eager` is a PyTorch loop over clients and batches, on as many threads or
    on one, whichever is faster; None without the author extra.
    """

    model: str
    parameters: int
    clients: int
    workers: int
    together: int
    client_updates_per_s: float
    gflops: float
    gemm_peak_gflops: float
    share_of_peak: float
    rss_mb: float
    seconds: float
    rounds: int
    eager_updates_per_s: float | None = None
    times_eager: float | None = None


class PoolData:
    """Clients whose samples are consecutive rows of one pool, from a place of their own on."""

    def __init__(self, pool: Samples, clients: int, samples: int, classes: int) -> None:
        self.test: Samples | None = None
        self.names = None
        self.classes = classes
        self.counts: NDArray[np.int64] = np.broadcast_to(np.int64(samples), clients)
        self._pool, self._samples = pool, samples

    def __len__(self) -> int:
        return len(self.counts)

    def samples(self, client: int, round: int = 0) -> Samples:
        """The client's rows, as views."""
        return self.views(np.array([client]))[0]

    def views(self, clients: NDArray[np.int64], round: int = 0) -> Views:
        """Several clients' rows at once."""
        starts = clients * 7919 % (len(self._pool.x) - self._samples + 1)
        return Views(self._pool, starts, self.counts[clients])

    def held_out(self, client: int) -> Samples | None:
        """Nothing."""
        return None


def bench_simulation(asked: Workload) -> SimulationResult:
    """Simulate rounds of FedAvg with one local epoch until some seconds are over.

    Raises:
        UsageError: a model of that size needs the author extra, or there are too few samples.
    """
    if not 1 <= asked.samples <= _POOL:
        raise UsageError(f"samples is {asked.samples}; wanted 1 to {_POOL}")
    bundle = bundle_of(asked)
    manifest = bundle.manifest
    rng = stream(0, "bench", "simulation")
    pool = Samples(
        rng.standard_normal((_POOL, *manifest.input.shape), np.float32),
        rng.integers(0, manifest.output.size, _POOL),
    )
    data = PoolData(pool, asked.clients, asked.samples, manifest.output.size)
    plan = LocalPlan(epochs=1.0, batch=asked.batch, rate=_RATE)
    with Engine(bundle, data) as engine:
        seconds = _rounds(engine, asked.clients, plan)
        workers, together = engine.workers, engine.together
    rss_mb = memory.resident_bytes(os.getpid(), "VmHWM") / 1e6
    each = statistics.median(seconds)
    updates = asked.clients / each
    gflops = updates * asked.samples * flops_of_sample(bundle) / 1e9
    peak = gemm_peak_gflops(workers)
    eager = _eager(asked, bundle, workers)
    return SimulationResult(
        model=asked.model,
        parameters=manifest.layout.size,
        clients=asked.clients,
        workers=workers,
        together=together,
        client_updates_per_s=round(updates, 1),
        gflops=round(gflops, 2),
        gemm_peak_gflops=round(peak, 2),
        share_of_peak=round(gflops / peak, 3),
        rss_mb=round(rss_mb, 1),
        seconds=round(sum(seconds), 2),
        rounds=len(seconds),
        eager_updates_per_s=None if eager is None else round(eager, 1),
        times_eager=None if eager is None else round(updates / eager, 2),
    )


def bundle_of(asked: Workload) -> Bundle:
    """The model's bundle: as it ships, or compiled where other sizes are asked for.

    Raises:
        UsageError: it would have to be compiled, and the author extra is not there.
    """
    sizes = asked.features, asked.hidden, asked.classes
    if asked.model == "mlp" and sizes != (64, 64, 10):
        if importlib.util.find_spec("torch") is None:
            raise UsageError(
                f"an MLP of {sizes} has to be compiled first: install hedgerow[author], or leave "
                "--features 64 --hidden 64 --classes 10"
            )
        from hedgerow.bench.models.author_simulation import compiled

        return compiled(*sizes)
    if asked.model == "cnn1d":
        place = resources.files("hedgerow.apps.watch").joinpath("watch.hedgerow")
    else:
        place = resources.files("hedgerow.bench.models").joinpath(f"{asked.model}.hedgerow")
    return Bundle.from_bytes(place.read_bytes())


def flops_of_sample(bundle: Bundle) -> float:
    """Additions and multiplications of the matrix products of one sample's step: each layer
    forwards, for its weights, and, but for the first, for what came in.
    """
    places = _places(bundle)
    layers = [
        2.0 * tensor.size * places.get(tensor.name, 1)
        for tensor in bundle.manifest.layout.tensors
        if len(tensor.shape) >= 2
    ]
    return 2 * layers[0] + 3 * sum(layers[1:])


def _places(bundle: Bundle) -> dict[str, int]:
    """Where a kernel is applied more than once: how often."""
    known = {
        "watch": {"first.weight": 34, "second.weight": 17},
        "cnn2d": {"0.weight": 24 * 24, "3.weight": 8 * 8},
    }
    return known.get(bundle.manifest.name, {})


def gemm_peak_gflops(workers: int) -> float:
    """Products of 64 × 64 matrices, 128 at a time, by as many threads as simulate."""
    rng = stream(0, "bench", "gemm")
    each = 2 * 64**3 * 128

    def work(number: int) -> float:
        left, right = rng_pairs[number]
        out = np.empty_like(left)
        began, done = clock.monotonic(), 0
        while clock.monotonic() - began < 0.5:
            for _ in range(10):
                np.matmul(left, right, out=out)
            done += 10
        return done * each / (clock.monotonic() - began)

    rng_pairs = [
        (
            rng.standard_normal((128, 64, 64), np.float32),
            rng.standard_normal((128, 64, 64), np.float32),
        )
        for _ in range(workers)
    ]
    with ThreadPoolExecutor(workers) as pool:
        return max(sum(pool.map(work, range(workers))) for _ in range(3)) / 1e9


def _rounds(engine: Engine, clients: int, plan: LocalPlan) -> list[float]:
    """Seconds of each round; the first, which warms up, is of a thousand clients and not told."""
    shape = Shape(FedAvg(), engine.bundle.manifest.layout)
    server = shape.algorithm.begin(engine.bundle.weights[: shape.layout.shared_size])
    taken: list[float] = []
    for number in range(1000):
        count = clients if number else min(clients, 1000)
        began = clock.monotonic()
        total = Round()
        for low in range(0, count, _SLICE):
            ids = np.arange(low, min(low + _SLICE, count))
            total.merge(engine.sums(shape.algorithm, server.model, plan, ids, number))
        server = next_server(shape, server, total.sums, clients)
        if number:
            taken.append(clock.monotonic() - began)
        if sum(taken) > _SECONDS:
            break
    return taken


def _eager(asked: Workload, bundle: Bundle, workers: int) -> float | None:
    if importlib.util.find_spec("torch") is None:
        return None
    from hedgerow.bench.models.author_simulation import eager_updates_per_s

    budgets = {1, workers}  # a small model is often faster on one thread
    return max(
        eager_updates_per_s(asked.model, bundle, asked.samples, asked.batch, threads)
        for threads in budgets
    )
