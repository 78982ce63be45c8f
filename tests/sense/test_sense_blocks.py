"""Large blocks give the windows that a stream of small ones gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema
from hedgerow.sense.blocks import BlockWindower
from hedgerow.sense.features import Featuriser, features
from hedgerow.sense.quality import QualityCheck, QualityLimits
from hedgerow.sense.windows import Windower


def schema(window: int = 8, hop: int = 3) -> InputSchema:
    return InputSchema(
        channels=("x", "y"),
        units=("g", "g"),
        rate_hz=4.0,
        window=window,
        hop=hop,
        shape=(2, window),
    )


@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.0, 0.0, 0.2, 5.0, -3.0])),
        max_size=12,
    ),
    st.integers(0, 2**32 - 1),
)
def test_they_are_the_windows_of_a_windower(
    hop: int, blocks: list[tuple[int, float]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    plain, many = Windower(schema(hop=hop)), BlockWindower(schema(hop=hop))
    seconds = 100.0
    for count, jump in blocks:
        seconds += jump
        samples = rng.normal(size=(count, 2)).astype(np.float32)
        if rng.random() < 0.3 and count:
            samples[rng.integers(count) :, 0] = rng.choice([np.nan, 1.0])  # lost, or stuck
        wanted, got = plain.push(samples, seconds), many.push(samples, seconds)
        assert [w.quality for w in got] == [w.quality for w in wanted]
        np.testing.assert_allclose(
            [w.start_seconds for w in got], [w.start_seconds for w in wanted], atol=1e-9
        )
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one.samples, other.samples)
            assert not one.samples.flags.writeable
        seconds += count / 4
    assert (many.gaps, many.setbacks) == (plain.gaps, plain.setbacks)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_many_windows_are_judged_as_one_by_one(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    windows = rng.integers(-2, 3, (count, 2, 8)).astype(np.float32)
    ranges = ((-2.0, 2.0), (-9.0, 9.0)) if rng.random() < 0.5 else ()
    for limits in (QualityLimits(), QualityLimits(ranges=ranges), QualityLimits(may_rest=True)):
        check = QualityCheck(schema(), limits)
        alone = [check(w, after_gap=place == 0) for place, w in enumerate(windows)]
        assert check.many(windows, after_gap=True) == alone


def test_a_block_that_does_not_fit_is_named() -> None:
    windower = BlockWindower(schema())
    with pytest.raises(UsageError, match=r"\(5, 3\); wanted \[n, 2\]"):
        windower.push(np.zeros((5, 3), np.float32), 0.0)
    with pytest.raises(UsageError, match="finite time"):
        windower.push(np.zeros((5, 2), np.float32), float("inf"))
    assert windower.push(np.zeros((0, 2), np.float32), 0.0) == []


@pytest.mark.parametrize("kind", ["raw", "spectrum"])
def test_features_of_many_rows_are_those_of_each(kind: str) -> None:
    shape = (2, 8) if kind == "raw" else (2, 4)
    chosen = InputSchema(
        channels=("x", "y"),
        units=("g", "g"),
        rate_hz=4.0,
        window=8,
        hop=8,
        shape=shape,
        features="raw" if kind == "raw" else "spectrum",
        mean=(0.5, -1.0),
        scale=(2.0, 3.0),
    )
    windows = np.random.default_rng(1).normal(size=(5000, 2, 8)).astype(np.float32)
    out = np.empty((5000, *shape), np.float32)
    Featuriser(chosen).rows(list(windows), out)
    np.testing.assert_array_equal(out, features(windows, chosen))
