"""Vectors by name as they are kept."""

import numpy as np
import pytest

from hedgerow.core.errors import HedgerowError
from hedgerow.wire.vectors import pack, unpack


def test_what_is_packed_comes_back_for_its_owner_alone() -> None:
    vectors = {
        "kept/velocity": np.arange(6, dtype=np.float32)[::2],
        "model/clusters": np.ones((2, 3), np.float32),
        "none": np.zeros(0, np.float32),
    }
    found = unpack(pack(vectors, "ifca"), "ifca")
    assert found.keys() == vectors.keys()
    for name, vector in vectors.items():
        np.testing.assert_array_equal(found[name], vector)
        assert found[name].dtype == np.float32
    assert unpack(pack(vectors, "ifca"), "if") == {}


def test_no_bytes_hold_nothing_and_damaged_ones_are_named() -> None:
    assert unpack(b"", "ifca") == {}
    with pytest.raises(HedgerowError, match="damaged"):
        unpack(pack({"a": np.ones(4, np.float32)}, "x")[:-3], "x")
