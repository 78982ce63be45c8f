"""One pass of many clients in lockstep: each step takes the next batch of all who have one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import Keys, subkeys
from hedgerow.model.batches import Block, blocks_of
from hedgerow.model.bundle import Manifest
from hedgerow.model.calibration import Calibration, calibration_of
from hedgerow.model.descent import Descent, Slot
from hedgerow.model.passes import Counts, Pass, Rows, Trained
from hedgerow.model.samples import Samples

Augment = Callable[[NDArray[np.float32], "np.random.Generator"], NDArray[np.float32]]
_AUGMENT = 1 << 40  # no epoch has this number


class TrainingDiverged(UsageError):
    """The loss or the weights left the finite numbers; lower the rate or clip the gradient."""


class Group:
    """Clients that take batches of one size, sorted by number of samples, the most first.

    Steps fall with the number of samples, so those still at work are always the leading rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        descent: Descent,
        ask: Pass,
        clients: Sequence[Samples],
        sizes: Counts,
        keys: Keys,
        places: Counts,
    ) -> None:
        """`sizes [m]` are the clients' numbers of samples, `places [m]` the rows of `ask` and of
        the answer that belong to them.
        """
        plan = ask.plan
        self._ask, self._places, self._descent = ask, places, descent
        self._keys = keys
        batch = descent.slots[0].x.shape[1]
        row_bytes = 4 * math.prod(manifest.input.shape)
        self.blocks: list[Block] = blocks_of(
            clients, sizes, keys, batch, plan.epochs, row_bytes, descent.slots[0].y.dtype
        )
        self._calibration: Calibration | None = None
        if plan.calibrate > 0:
            self._calibration = calibration_of(manifest, plan.calibrate, clients)
        self._begin(manifest.layout.size)

    def _begin(self, size: int) -> None:
        ask, places, shift = self._ask, self._places, self._ask.shift
        # A view where all rows are wanted as they are: a copy of every client's weights costs.
        self._all = slice(None) if np.array_equal(places, np.arange(len(ask.weights))) else places
        own = ask.weights[self._all]
        if shift is not None and shift.ndim == 2:
            shift = shift[self._all]
        weights = own
        if self._calibration is not None:
            strength = ask.plan.pull + ask.plan.weight_decay
            shift = self._calibration.shift(shift, strength, size)
            weights = self._calibration.on(weights)
        self._descent.begin(ask, weights, own, shift)

    def run(
        self,
        answer: Trained,
        augment: Augment | None,
        should_stop: Callable[[], bool] | None,
        *,
        tolerant: bool,
    ) -> None:
        """Take all steps, and write what came of it into the clients' places of `answer`.

        Raises:
            TrainingDiverged: somebody diverged and the run is not `tolerant`.
        """
        plan, descent, count = self._ask.plan, self._descent, len(self._places)
        due = np.repeat([b.steps for b in self.blocks], [b.high - b.low for b in self.blocks])
        averaged = _Average(due - np.ceil(plan.average_last * due).astype(np.int64), due)
        drawing = None
        if augment is not None:
            drawing = _Drawing(augment, self._keys)
        total, lost = np.zeros(count), np.zeros(count, np.bool_)
        seen, taken = np.zeros((2, count), np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at client by client
            step = 0
            while step < due[0]:
                if should_stop is not None and should_stop():
                    break
                stride = self._stride(step, averaged)
                filled = [self._fill(step + at, slot, drawing) for at, slot in stride]
                active = len(filled[0])
                losses = descent.leap(active) if len(filled) > 1 else descent.step(active)[None]
                for loss, counts in zip(losses, filled, strict=True):
                    step += 1
                    wrong = ~np.isfinite(loss)
                    if wrong.any():
                        if not tolerant:
                            raise _diverged(float(loss[wrong][0]), step, plan.rate)
                        lost[:active] |= wrong
                    total[:active] += loss * counts
                    seen[:active] += counts
                taken[:active] += len(filled)
                averaged.add(step - 1, active, descent)
            weights = self._finished(averaged, taken)
            wrong = ~np.isfinite(np.vecdot(weights, weights))
        if wrong.any():  # a square of a finite number may overflow, so those are looked at again
            wrong &= ~np.isfinite(weights).all(axis=1)
            if wrong.any() and not tolerant:
                steps = taken[wrong][0]
                raise TrainingDiverged(f"the weights left the finite numbers after {steps} steps")
        lost |= wrong
        answer.weights[self._all] = weights
        if lost.any():
            answer.weights[self._places[lost]] = self._ask.weights[self._places[lost]]
        with np.errstate(invalid="ignore"):
            answer.loss[self._places] = np.where(lost, np.nan, total / seen)
        answer.steps[self._places] = taken
        answer.samples[self._places] = seen
        assert answer.diverged is not None
        answer.diverged[self._places] = lost

    def _stride(self, step: int, averaged: _Average) -> list[tuple[int, Slot]]:
        """The slots to fill from `step` on: all of them, where whoever takes part takes as many
        plain steps, else one.
        """
        slots = list(enumerate(self._descent.slots))
        left = min(block.steps - step for block in self.blocks if block.steps > step)
        leaps = self._descent.leaps and not averaged.any and left >= len(slots)
        return slots if leaps else slots[:1]

    def _fill(self, step: int, slot: Slot, drawing: _Drawing | None) -> Counts:
        """Put the next batches into a slot: of how many rows they are, for each who has one."""
        counts = []
        for block in self.blocks:
            if step >= block.steps:
                break
            rows, source = block.next(), block.source.whole
            here, count = slice(block.low, block.high), rows.shape[1]
            np.take(source.x, rows, axis=0, out=slot.x[here, :count], mode="clip")
            y = source.x if source.y is None else source.y
            np.take(y, rows, axis=0, out=slot.y[here, :count], mode="clip")
            if source.weight is None:
                slot.sample_weight[here, :count] = 1
            else:
                np.take(source.weight, rows, out=slot.sample_weight[here, :count], mode="clip")
            for part in (slot.x, slot.y, slot.sample_weight):
                part[here, count:] = 0  # whoever was there before left what may not be a number
            if drawing is not None:
                drawing.vary(slot.x, block, count)
            counts.append(np.full(block.high - block.low, count))
        return counts[0] if len(counts) == 1 else np.concatenate(counts)

    def _finished(self, averaged: _Average, taken: Counts) -> Rows:
        """The weights `[m, P]` as they are given back."""
        weights = averaged.result(self._descent.weights(0, len(taken)))
        if self._calibration is not None:
            weights = weights.copy()
            self._calibration.off(weights)
            begun = self._ask.weights[self._places]
            kept = (taken == 0)[:, None]
            if self._ask.trainable is not None:
                kept = kept | ~self._ask.trainable
            np.copyto(weights, begun, where=kept)
        return weights


class _Drawing:
    """Each client varies its batches with a generator of its own."""

    def __init__(self, augment: Augment, keys: Keys) -> None:
        self._augment = augment
        self._generators = [
            np.random.Generator(np.random.PCG64(int(key))) for key in subkeys(keys, _AUGMENT)
        ]

    def vary(self, x: NDArray[np.float32], block: Block, count: int) -> None:
        """Vary the first `count` samples of each of the block's rows of `x [K, B, *shape]`."""
        for k in range(block.low, block.high):
            x[k, :count] = self._augment(x[k, :count].copy(), self._generators[k])


class _Average:
    """The mean of each client's weights after each step from `first [m]` on, which falls."""

    def __init__(self, first: Counts, due: Counts) -> None:
        self._first = first
        self.any = bool((first < due).any())
        self._count = np.zeros(len(first), np.int64)
        self._total: NDArray[np.float64] | None = None

    def add(self, step: int, active: int, descent: Descent) -> None:
        """Count the weights of the `active` leading clients after step number `step` (from 0)."""
        if not self.any:
            return
        low = int(np.count_nonzero(self._first[:active] > step))
        if low < active:
            weights = descent.weights(low, active)
            if self._total is None:
                self._total = np.zeros((len(self._first), weights.shape[1]))
            self._total[low:active] += weights
            self._count[low:active] += 1

    def result(self, last: Rows) -> Rows:
        """The means, and `last` where nothing was counted: itself, if that is everywhere."""
        if self._total is not None:
            out = last.copy()
            counted = self._count > 0
            means = self._total[counted] / self._count[counted, None]
            out[counted] = means.astype(np.float32)
            return out
        return last


def _diverged(loss: float, step: int, rate: float) -> TrainingDiverged:
    return TrainingDiverged(
        f"the loss became {loss} at step {step} with rate {rate}; "
        "lower the rate, set gradient_norm_max, or look for NaN in the samples"
    )
