"""The simulation benchmark: what it counts, and that it runs as it ships."""

import pytest

from hedgerow.bench.simulation import (
    KINDS,
    Kind,
    Workload,
    bench_simulation,
    bundle_of,
    flops_of_sample,
)
from hedgerow.core.errors import UsageError


def test_products_by_hand() -> None:
    """Twice the multiplications; forwards, weights, and inputs of all layers but the first."""
    found = {kind: flops_of_sample(bundle_of(Workload(model=kind))) for kind in KINDS}
    assert found["mlp"] == 2 * (2 * 64 * 64 + 3 * 64 * 10)
    first, second = 34 * 32 * 6 * 7, 17 * 64 * 32 * 5
    assert found["cnn1d"] == 2 * (2 * first + 3 * (second + 128 * 7))
    first, second = 24 * 24 * 16 * 25, 8 * 8 * 32 * 16 * 25
    assert found["cnn2d"] == 2 * (2 * first + 3 * (second + 512 * 64 + 64 * 10))


@pytest.mark.parametrize(
    ("kind", "parameters"), [("mlp", 4810), ("cnn1d", 12775), ("cnn2d", 46730)]
)
def test_the_models_that_ship(kind: Kind, parameters: int) -> None:
    assert bundle_of(Workload(model=kind)).manifest.layout.size == parameters


def test_it_simulates_rounds() -> None:
    found = bench_simulation(Workload(clients=20, samples=32))
    assert found.client_updates_per_s > 0 and found.gflops > 0 and found.rounds > 0
    assert found.rss_mb > 10
    assert found.times_eager is not None and found.times_eager > 0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="samples is 0"):
        bench_simulation(Workload(samples=0))
