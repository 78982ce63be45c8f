"""Training on a device: a learner whose state stays there for a whole pass."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgerow.core.layout import Vector
from hedgerow.model.bundle import TRAIN, Bundle
from hedgerow.model.descent import Descent, Slot
from hedgerow.model.learner import Array, Learner
from hedgerow.model.passes import Pass, Rows
from hedgerow.sim.torch_engine.graph import TorchStep

_NORM_MIN = 1e-12


class TorchDescent(Descent):
    """Steps as `Descent` takes them, with everything but the samples kept on the device."""

    def __init__(self, step: TorchStep, x: Tensor, y: Tensor) -> None:
        """`x [K, B, *shape]` and `y [K, B, …]`: where the samples will be put, on the CPU."""
        self._step, self._tensor = step, step.tensor
        self._samples = x, y, torch.zeros(x.shape[:2], pin_memory=x.is_pinned())
        self.slots = [Slot(*(part.numpy() for part in self._samples))]
        self.leaps = self.landed = False

    def begin(
        self,
        ask: Pass,
        weights: Rows,
        own: Rows,
        shift: NDArray[np.float32] | None,
        into: Rows | None = None,
    ) -> None:
        """Start at `weights [m, P]`. `own [m, P]` is what each is pulled to where `ask` has no
        anchor; `shift` (`[P]` or `[m, P]`) takes the place of that of `ask`.
        """
        self._ask, plan = ask, ask.plan
        self._rows = self._tensor(weights.astype(np.float32))
        anchor = own if ask.anchor is None else ask.anchor[None]  # the graph broadcasts it
        self._anchor = self._tensor(anchor.astype(np.float32)).expand_as(self._rows)
        self._shifted = None if shift is None else self._tensor(shift.astype(np.float32))
        self._held = None if ask.trainable is None else self._tensor(~ask.trainable)
        self._direction: Tensor | None = None
        if ask.ascent_along is not None:
            along = self._moving(self._tensor(ask.ascent_along.astype(np.float32)))
            self._direction = along / along.norm().clamp_min(_NORM_MIN)
        self._velocity_rows = torch.zeros_like(self._rows) if plan.momentum > 0 else None

    def weights(self, low: int, high: int) -> Rows:
        """The current weights of some rows, a copy `[high − low, P]`."""
        rows: Rows = self._rows[low:high].cpu().numpy().copy()
        return rows

    @torch.inference_mode()
    def step(self, active: int) -> NDArray[np.float32]:
        """Take one step with the first `active` rows; their losses."""
        plan = self._ask.plan
        there = [part[:active].to(self._step.device, non_blocking=True) for part in self._samples]
        old = self._rows[:active]
        shift = torch.zeros_like(old[:1])
        if self._shifted is not None:
            shift = self._shifted if self._shifted.dim() == 1 else self._shifted[:active]
            shift = shift.expand(active, -1)
        if plan.gradient_norm_max > 0 or self._ask.ascent > 0:
            gradient, loss = self._slope(old, there)
            if plan.gradient_norm_max > 0:
                norms = gradient.norm(dim=1, keepdim=True).clamp_min(_NORM_MIN)
                gradient = gradient * (plan.gradient_norm_max / norms).clamp_max(1)
            full = (
                gradient
                + plan.pull * (old - self._anchor[:active])
                + shift
                + plan.weight_decay * old
            )
            new = old - plan.rate * self._with_velocity(full, active)
        else:
            extra = shift + plan.weight_decay * old if plan.weight_decay else shift
            if self._velocity_rows is not None:
                extra = extra + plan.momentum * self._velocity_rows[:active]
            new, loss = self._run(old, there, extra, plan.rate, plan.pull)
            if self._velocity_rows is not None:
                self._velocity_rows[:active] = (old - new) / plan.rate
        if self._held is not None:
            new = torch.where(self._held, old, new)
        self._rows[:active] = new
        losses: NDArray[np.float32] = loss.cpu().numpy()
        return losses

    def _with_velocity(self, gradient: Tensor, active: int) -> Tensor:
        if self._velocity_rows is None:
            return gradient
        velocity = self._ask.plan.momentum * self._velocity_rows[:active] + gradient
        self._velocity_rows[:active] = velocity
        return velocity

    def _slope(self, old: Tensor, there: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The loss's gradient, at the place climbed to if the pass climbs, and the loss."""
        ascent = self._ask.ascent
        if ascent > 0 and self._direction is not None:
            return self._rise(old + ascent * self._direction, there)
        gradient, loss = self._rise(old, there)
        if ascent > 0:
            norms = gradient.norm(dim=1, keepdim=True).clamp_min(_NORM_MIN)
            gradient, _ = self._rise(old + ascent * gradient / norms, there)
        return gradient, loss

    def _rise(self, start: Tensor, there: list[Tensor]) -> tuple[Tensor, Tensor]:
        new, loss = self._run(start, there, torch.zeros_like(start[:1]), 1.0, 0.0)
        return self._moving(start - new), loss

    def _moving(self, rows: Tensor) -> Tensor:
        """Zero where nothing is trained."""
        return rows if self._held is None else rows.masked_fill(self._held, 0)

    def _run(
        self, start: Tensor, there: list[Tensor], shift: Tensor, rate: float, pull: float
    ) -> tuple[Tensor, Tensor]:
        numbers = [torch.tensor(value, device=start.device) for value in (rate, pull)]
        anchor = self._anchor[: len(start)]
        return self._step.on_device([start, anchor, shift, *there, *numbers])


class TorchLearner(Learner):
    """A `Learner` that trains on `device`. Losses are still measured by ONNX Runtime."""

    def __init__(self, bundle: Bundle, *, device: str = "cuda", threads: int = 1) -> None:
        """Raises:
        UsageError: an operator of the bundle is not known here, or there is no such device.
        """
        super().__init__(bundle, threads=threads)
        self._torch = TorchStep(bundle.file(TRAIN), device)

    def step(
        self,
        weights: Array,
        anchor: Vector,
        shift: Array,
        x: Array,
        y: NDArray[np.generic],
        sample_weight: Array,
        rate: float,
        pull: float,
    ) -> tuple[Array, Array]:
        """One step for K clients at once, the graph as it is; shapes as in `Learner.step`."""
        return self._torch(weights, anchor, shift, x, y, sample_weight, rate, pull)

    def _buffers(self, clients: int, batch: int) -> Descent:
        held = self._descent
        if held is None or not held.holds(clients, batch):
            shape, output = self.bundle.manifest.input.shape, self.bundle.manifest.output
            behind = {
                "classification": (),
                "regression": (output.size,),
                "reconstruction": shape,
            }[output.task]
            pinned = self._torch.device.type == "cuda"
            kind = torch.int64 if output.task == "classification" else torch.float32
            x = torch.zeros((clients, batch, *shape), pin_memory=pinned)
            y = torch.zeros((clients, batch, *behind), dtype=kind, pin_memory=pinned)
            held = self._descent = TorchDescent(self._torch, x, y)
        return held
