"""Modules of every supported kind, each compiled once for all tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.author import Spec, export
from hedgerow.core.schema import InputSchema, OutputSchema, Task
from hedgerow.model.bundle import Bundle


def spec_of(
    module: nn.Module, shape: tuple[int, ...], size: int, task: Task = "classification", **more: Any
) -> Spec:
    """A spec around `module` with a schema of no consequence."""
    schema = InputSchema(
        channels=("a",), units=("g",), rate_hz=50.0, window=20, hop=10, shape=shape
    )
    labels = tuple(f"label {i}" for i in range(size)) if task == "classification" else ()
    output = OutputSchema(task=task, size=size, labels=labels)
    return Spec(name="test", version="1", module=module, input=schema, output=output, **more)


class Tokens(nn.Module):
    """Embedding, attention with a residual, layer norm, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x.long())
        mixed, _ = self.attention(h, h, h, need_weights=False)
        out: Tensor = self.head(nn.functional.gelu(self.norm(h + mixed)).mean(1))
        return out


class Recurrent(nn.Module):
    """A GRU of two layers, the upper one both ways, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.gru(x)
        out: Tensor = self.head(steps[:, -1])
        return out


class Pooled(nn.Module):
    """Strided convolutions, group norm over all channels, mean and maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 7, stride=3, padding=3)
        self.first_norm = nn.GroupNorm(1, 8)
        self.second = nn.Conv1d(8, 6, 4, stride=2, padding=1)
        self.second_norm = nn.GroupNorm(1, 6, affine=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(self.second_norm(self.second(x)))
        out: Tensor = self.head(torch.cat([x.mean(2), x.amax(2)], 1))
        return out


def dense() -> Spec:
    """Dropout in the middle, the last layer private."""
    return _dense(nn.Tanh())


def other_dense() -> Spec:
    """The same parameters around another activation."""
    return _dense(nn.ReLU())


def _dense(middle: nn.Module) -> Spec:
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Linear(6, 8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 8), middle, nn.Linear(8, 4)
    )
    return spec_of(module, (6,), 4, private=("5.",))


def _conv1d() -> Spec:
    module = nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2, padding=2),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool1d(3, stride=2, padding=1),
        nn.Conv1d(8, 8, 3, padding="same", dilation=2, groups=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return spec_of(module, (3, 20), 4)


def _conv2d() -> Spec:
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, (1, 3), bias=False),
        nn.Sigmoid(),
        nn.AvgPool2d(2, stride=1, padding=1),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    return spec_of(module, (2, 16, 18), 3)


def _regression() -> Spec:
    module = nn.Sequential(nn.Linear(5, 7), nn.GELU(approximate="tanh"), nn.Linear(7, 2))
    return spec_of(module, (5,), 2, "regression")


def _reconstruction() -> Spec:
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 12), nn.Unflatten(1, (2, 6))
    )
    return spec_of(module, (2, 6), 12, "reconstruction")


def _tokens() -> Spec:
    words = np.random.default_rng(3).integers(0, 11, (40, 6)).astype(np.float32)
    return spec_of(Tokens(), (6,), 3, calibration=words)


MAKERS: dict[str, Callable[[], Spec]] = {
    "dense": dense,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "pooled": lambda: spec_of(Pooled(), (3, 32), 3),
    "gru": lambda: spec_of(Recurrent(), (4, 3), 2),
    "tokens": _tokens,
    "regression": _regression,
    "reconstruction": _reconstruction,
}


class Compiled:
    """Specs and bundles by name, made on first use."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Spec, Bundle]] = {}

    def __call__(self, name: str) -> tuple[Spec, Bundle]:
        if name not in self._made:
            torch.manual_seed(5)
            spec = MAKERS[name]()
            self._made[name] = spec, export(spec)
        return self._made[name]
