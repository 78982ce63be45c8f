"""What the twins are made of: a tiny model, its gradient by hand, local SGD as plain loops.

The model is `logits = C · (n ⊙ (A x)) + b` with three inputs, two hidden numbers and three classes.
Everything is float64.
"""

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan

Wide = NDArray[np.float64]
Data = tuple[Wide, NDArray[np.int64]]
"""One client's x `[n, 3]` and y `[n]`."""
PARTS = {"body.weight": (2, 3), "norm.weight": (2,), "head.weight": (3, 2), "head.bias": (3,)}
SIZES = (5, 9, 16, 3)
ROUNDS = ([0, 1, 2], [1, 3], [0, 1, 2, 3], [2, 3], [0, 3])
"""Who takes part: not everybody, and somebody for the first time late."""


def layout(private: tuple[str, ...] = ()) -> Layout:
    """The model's tensors; those in `private` stay on the device and lie last."""
    tensors = [TensorSpec(name, shape, name not in private) for name, shape in PARTS.items()]
    return Layout(tuple(sorted(tensors, key=lambda tensor: not tensor.shared)))


def weights(seed: int = 0) -> NDArray[np.float32]:
    """A start, `[17]`."""
    drawn = np.random.default_rng(seed).normal(0, 0.5, layout().size)
    return drawn.astype(np.float32)


def data(sizes: tuple[int, ...] = SIZES, seed: int = 1) -> list[Data]:
    """Clients of unequal size that see the classes in unequal shares."""
    rng = np.random.default_rng(seed)
    clients = []
    for place, size in enumerate(sizes):
        share = np.ones(3)
        share[place % 3] = 4
        y = rng.choice(3, size, p=share / share.sum())
        clients.append((rng.normal(0, 1, (size, 3)) + np.eye(3)[y], y))
    return clients


def split(w: Wide) -> tuple[Wide, Wide, Wide, Wide]:
    """The four tensors of a flat vector in the order of PARTS, whatever the hidden size."""
    h = (len(w) - 3) // 7
    return w[: 3 * h].reshape(h, 3), w[3 * h : 4 * h], w[4 * h : 7 * h].reshape(3, h), w[7 * h :]


def loss_of(w: Wide, x: Wide, y: NDArray[np.int64]) -> float:
    """Mean cross-entropy."""
    body, norm, head, bias = split(w)
    total = 0.0
    for row, label in zip(x, y, strict=True):
        logits = head @ (norm * (body @ row)) + bias
        total += math.log(np.exp(logits).sum()) - logits[label]
    return total / len(x)


def gradient(w: Wide, x: Wide, y: NDArray[np.int64]) -> Wide:
    """Its derivative, by the chain rule."""
    body, norm, head, bias = split(w)
    total = np.zeros(len(w))
    for row, label in zip(x, y, strict=True):
        inner = body @ row
        hidden = norm * inner
        logits = head @ hidden + bias
        wrong = np.exp(logits) / np.exp(logits).sum() - np.eye(3)[label]
        back = head.T @ wrong
        parts = [np.outer(back * norm, row), back * inner, np.outer(wrong, hidden), wrong]
        total += np.concatenate([part.reshape(-1) for part in parts])
    return total / len(x)


def batches(
    count: int, plan: LocalPlan, name: str, client: int, turn: int
) -> list[NDArray[np.int64]]:
    """Row numbers of each batch; they depend on the pass, the client and the round alone."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), client, turn])
    left, found = round(plan.epochs * count), []
    while left > 0:
        order = rng.permutation(count)[:left]
        left -= len(order)
        found += [order[i : i + plan.batch] for i in range(0, len(order), plan.batch)]
    return found


def descend(
    start: Wide,
    client: Data,
    rows: list[NDArray[np.int64]],
    plan: LocalPlan,
    *,
    anchor: Wide | None = None,
    shift: Wide | float = 0.0,
    trainable: NDArray[np.bool_] | None = None,
    ascent: float = 0.0,
    along: Wide | None = None,
) -> tuple[Wide, int]:
    """Local SGD from `start`; the weights after it and the number of steps."""
    x, y = client
    w, velocity = start.astype(np.float64), np.zeros(len(start))
    pulled_to = w.copy() if anchor is None else anchor
    for batch in rows:
        at = w
        if ascent:
            up = gradient(w, x[batch], y[batch]) if along is None else along
            if trainable is not None:
                up = np.where(trainable, up, 0)
            at = w + ascent * up / np.linalg.norm(up)
        step = gradient(at, x[batch], y[batch]) + plan.pull * (w - pulled_to) + shift
        velocity = plan.momentum * velocity + step
        moved = w - plan.rate * velocity
        w = moved if trainable is None else np.where(trainable, moved, w)
    return w, len(rows)


def mean(rows: list[Wide], sizes: list[int]) -> Wide:
    """Weighted by the numbers of samples."""
    total = np.zeros_like(rows[0])
    for row, size in zip(rows, sizes, strict=True):
        total = total + size * row
    return total / sum(sizes)
