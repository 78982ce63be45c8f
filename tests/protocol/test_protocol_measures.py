"""The histogram counts what a plain loop counts."""

import numpy as np

from hedgerow.protocol.measures import Histogram


def counts(histogram: Histogram) -> dict[str, float]:
    return {
        sample.labels.get("le", sample.suffix): sample.value
        for sample in histogram.family().samples
    }


def test_buckets_hold_everything_up_to_their_bound() -> None:
    histogram = Histogram("seconds", "how long", (0.1, 1.0))
    histogram.observe([0.05, 0.1, 0.5, 3.0])
    histogram.observe(0.25)
    assert counts(histogram) == {"0.1": 2, "1": 4, "+Inf": 5, "_sum": 3.9, "_count": 5}


def test_an_empty_histogram_and_an_empty_batch() -> None:
    histogram = Histogram("seconds", "how long", (1.0,))
    histogram.observe(np.empty(0))
    assert counts(histogram) == {"1": 0, "+Inf": 0, "_sum": 0, "_count": 0}
