"""Proof that a bundle computes what the PyTorch module computes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow.author.graphs import losses
from hedgerow.author.spec import Spec
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.predictor import Predictor

TOLERANCE = 1e-5
_RATE, _PULL = 0.05, 0.1


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference from eager PyTorch, over outputs and over weights."""

    forward: float
    one_step: float
    ten_steps: float

    @property
    def largest(self) -> float:
        """The largest of all; NaN if any is."""
        return float(np.max([self.forward, self.one_step, self.ten_steps]))

    @property
    def agrees(self) -> bool:
        """Whether everything lies within `TOLERANCE`."""
        return self.largest <= TOLERANCE


def check(
    bundle: Bundle, spec: Spec, rng: np.random.Generator, *, clients: int = 3, batch: int = 7
) -> Agreement:
    """Compare `bundle` with `spec.module` on inputs drawn from `rng`, from the bundle's weights.

    Each client starts a little elsewhere, and pull, shift and sample weights are all in play.

    Raises:
        UsageError: the spec is not that of the bundle.
    """
    if spec.layout() != bundle.manifest.layout:
        raise UsageError("the factory's module has other parameters than the bundle")
    module = spec.prepared()
    x, y = draw(spec, rng, clients, batch)
    anchor = bundle.weights
    noise = rng.standard_normal((clients, len(anchor)), np.float32)
    weights = np.asarray(anchor + 0.01 * noise, np.float32)
    shift = np.asarray(0.01 * rng.standard_normal(weights.shape), np.float32)
    weighing = rng.uniform(0.5, 2.0, (clients, batch)).astype(np.float32)
    weighing[:, 1::5] = 0
    learner = Learner(bundle)
    mine, eager, after = weights, weights.copy(), []
    for _ in range(10):
        mine, _loss = learner.step(mine, anchor, shift, x, y, weighing, _RATE, _PULL)
        for k in range(clients):
            gradient = _gradient(spec, module, eager[k], x[k], y[k], weighing[k])
            pulled = gradient + _PULL * (eager[k] - anchor) + shift[k]
            eager[k] -= np.float32(_RATE) * pulled.astype(np.float32)
        after.append(float(np.abs(mine - eager).max()))
    got = Predictor(bundle, weights=weights[0])(x[0])
    with torch.no_grad():
        wanted = _forward(spec, module, weights[0], x[0])[0].flatten(1).numpy()
    return Agreement(float(np.abs(got - wanted).max()), after[0], after[-1])


def draw(
    spec: Spec, rng: np.random.Generator, clients: int, batch: int
) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Inputs `[K, B, *shape]` and targets that suit the task. Calibration samples are preferred,
    since a module may want inputs of a certain kind.
    """
    rows = clients * batch
    if spec.calibration is not None:
        x = spec.calibration[rng.integers(0, len(spec.calibration), rows)]
    else:
        x = rng.standard_normal((rows, *spec.input.shape), np.float32)
    x = np.ascontiguousarray(x, np.float32).reshape(clients, batch, *spec.input.shape)
    if spec.output.task == "classification":
        return x, rng.integers(0, spec.output.size, (clients, batch))
    if spec.output.task == "regression":
        return x, rng.standard_normal((clients, batch, spec.output.size), np.float32)
    return x, x.copy()


def _forward(
    spec: Spec, module: nn.Module, weights: Vector, x: NDArray[np.float32]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tensors = {
        name: torch.from_numpy(array.copy()).requires_grad_()
        for name, array in spec.layout().unflatten(weights).items()
    }
    return torch.func.functional_call(module, tensors, (torch.from_numpy(x),)), tensors


def _gradient(
    spec: Spec,
    module: nn.Module,
    weights: Vector,
    x: NDArray[np.float32],
    y: NDArray[np.generic],
    weighing: NDArray[np.float32],
) -> Vector:
    """By PyTorch's own layers and autograd, with none of the rewriting of `layers`."""
    out, tensors = _forward(spec, module, weights, x)
    if spec.output.task == "classification":
        each = nn.functional.cross_entropy(out, torch.from_numpy(y), reduction="none")
    else:
        each = losses(spec)(out, torch.from_numpy(y))
    weight = torch.from_numpy(weighing)
    ((weight * each).sum() / weight.sum()).backward()  # type: ignore[no-untyped-call]
    found = {}
    for name, tensor in tensors.items():
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        found[name] = gradient.detach().numpy()
    return spec.layout().flatten(found)
