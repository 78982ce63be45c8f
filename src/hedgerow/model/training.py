"""One pass of many clients in lockstep: each step takes the next batch of all who have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.streams import Keys, subkeys
from hedgerow.model.batches import Cut
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
        cuts: Sequence[Cut],
        keys: Keys,
        places: slice | Counts,
        answer: Trained,
    ) -> None:
        """`cuts` say which samples `clients [m]` take, `places` are the rows of `ask` and `answer`
        that belong to them: a slice where they can be, for a copy of all weights costs.
        """
        self._answer = answer
        self._ask, self._descent, self._keys = ask, descent, keys
        self._places, self._cuts = places, cuts
        self._count = cuts[-1].high
        self._calibration: Calibration | None = None
        if ask.plan.calibrate > 0:
            self._calibration = calibration_of(manifest, ask.plan.calibrate, clients)
        self._begin(manifest.layout.size)

    def _begin(self, size: int) -> None:
        ask, places, shift = self._ask, self._places, self._ask.shift
        own = ask.weights[places]
        if shift is not None and shift.ndim == 2:
            shift = shift[places]
        weights = own
        if self._calibration is not None:
            strength = ask.plan.pull + ask.plan.weight_decay
            shift = self._calibration.shift(shift, strength, size)
            weights = self._calibration.on(weights)
        into = None
        if isinstance(places, slice) and self._calibration is None:
            into = self._answer.weights[places]
        self._descent.begin(ask, weights, own, shift, into)

    def run(
        self,
        augment: Augment | None,
        should_stop: Callable[[], bool] | None,
        *,
        tolerant: bool,
    ) -> None:
        """Take all steps, and write what came of it into the clients' places of the answer.

        Raises:
            TrainingDiverged: somebody diverged and the run is not `tolerant`.
        """
        plan, descent, count = self._ask.plan, self._descent, self._count
        averaged = _Average(self._cuts, plan.average_last)
        drawing = None if augment is None else _Drawing(augment, self._keys)
        total, lost = np.zeros(count), np.zeros(count, np.bool_)
        step, steps, evenly = 0, self._cuts[0].block.steps, self._cuts[-1].block.steps
        with np.errstate(over="ignore", invalid="ignore"):  # looked at client by client
            while step < steps:
                if should_stop is not None and should_stop():
                    break
                stride = self._stride(step, averaged)
                filled = [self._fill(step + at, slot, drawing) for at, slot in stride]
                active = max(cut.high for cut in self._cuts if cut.block.steps > step)
                if len(filled) > 1:
                    last = step + len(filled) == steps == evenly
                    losses = descent.leap(active, last=last)
                else:
                    losses = descent.step(active)[None]
                wrong = ~np.isfinite(losses)
                if wrong.any():
                    if not tolerant:
                        at = int(wrong.any(axis=1).argmax())
                        raise _diverged(float(losses[at][wrong[at]][0]), step + at + 1, plan.rate)
                    lost[:active] |= wrong.any(axis=0)
                for loss, counts in zip(losses, filled, strict=True):
                    total[:active] += loss * counts
                step += len(filled)
                averaged.add(step - 1, active, descent)
            weights = self._finished(averaged, begun=step > 0)
            wrong = ~np.isfinite(np.vecdot(weights, weights))
        if wrong.any():  # a square of a finite number may overflow, so those are looked at again
            wrong &= ~np.isfinite(weights).all(axis=1)
            if wrong.any() and not tolerant:
                taken = min(step, self._cut_of(int(wrong.argmax())).block.steps)
                raise TrainingDiverged(f"the weights left the finite numbers after {taken} steps")
        lost |= wrong
        self._tell(weights, total, lost, step)

    def _tell(
        self, weights: Rows, total: NDArray[np.float64], lost: NDArray[np.bool_], steps: int
    ) -> None:
        answer, places = self._answer, self._places
        if not self._descent.landed:
            answer.weights[places] = weights
        if lost.any():
            rows = np.arange(len(answer.weights))[places][lost]
            answer.weights[rows] = self._ask.weights[rows]
        seen, taken = np.empty((2, self._count), np.int64)
        for cut in self._cuts:
            taken[cut.low : cut.high] = done = min(steps, cut.block.steps)
            seen[cut.low : cut.high] = cut.block.seen(done)
        with np.errstate(invalid="ignore"):
            answer.loss[places] = np.where(lost, np.nan, total / seen)
        answer.steps[places] = taken
        answer.samples[places] = seen
        assert answer.diverged is not None
        answer.diverged[places] = lost

    def _cut_of(self, row: int) -> Cut:
        return next(cut for cut in self._cuts if row < cut.high)

    def _stride(self, step: int, averaged: _Average) -> list[tuple[int, Slot]]:
        """The slots to fill from `step` on: all of them, where whoever takes part takes as many
        plain steps, else one.
        """
        slots = list(enumerate(self._descent.slots))
        if not self._descent.leaps or averaged.any:
            return slots[:1]
        left = min(steps for cut in self._cuts if (steps := cut.block.steps - step) > 0)
        return slots if left >= len(slots) else slots[:1]

    def _fill(
        self, step: int, slot: Slot, drawing: _Drawing | None
    ) -> np.float64 | NDArray[np.float64]:
        """Put the next batches into a slot: of how many rows they are, for each who has one."""
        cuts = [cut for cut in self._cuts if cut.block.steps > step]
        sizes = []
        for cut in cuts:
            rows, source = cut.rows(step), cut.block.source.whole
            here, count = slice(cut.low, cut.high), rows.shape[1]
            source.x.take(rows, 0, slot.x[here, :count], "clip")
            y = source.x if source.y is None else source.y
            y.take(rows, 0, slot.y[here, :count], "clip")
            if source.weight is None:
                slot.sample_weight[here, :count] = 1
            else:
                source.weight.take(rows, 0, slot.sample_weight[here, :count], "clip")
            if count < slot.x.shape[1]:  # whoever was there before left what may not be a number
                for part in (slot.x, slot.y, slot.sample_weight):
                    part[here, count:] = 0
            if drawing is not None:
                drawing.vary(slot.x, cut, count)
            sizes.append(count)
        if len(cuts) == 1:
            return np.float64(sizes[0])
        return np.repeat(np.array(sizes, np.float64), [cut.high - cut.low for cut in cuts])

    def _finished(self, averaged: _Average, *, begun: bool) -> Rows:
        """The weights `[m, P]` as they are given back."""
        weights = averaged.result(self._descent.weights(0, self._count))
        if self._calibration is not None:
            begin = self._ask.weights[self._places]
            weights = weights.copy()
            self._calibration.off(weights)
            if self._ask.trainable is not None:
                np.copyto(weights, begin, where=~self._ask.trainable)
            for cut in self._cuts:
                if not begun or not cut.block.steps:
                    weights[cut.low : cut.high] = begin[cut.low : cut.high]
        return weights


class _Drawing:
    """Each client varies its batches with a generator of its own."""

    def __init__(self, augment: Augment, keys: Keys) -> None:
        self._augment = augment
        self._generators = [
            np.random.Generator(np.random.PCG64(int(key))) for key in subkeys(keys, _AUGMENT)
        ]

    def vary(self, x: NDArray[np.float32], cut: Cut, count: int) -> None:
        """Vary the first `count` samples of each of the cut's rows of `x [K, B, *shape]`."""
        for k in range(cut.low, cut.high):
            x[k, :count] = self._augment(x[k, :count].copy(), self._generators[k])


class _Average:
    """The mean of each client's weights after each step from `first [m]` on, which falls."""

    def __init__(self, cuts: Sequence[Cut], share: float) -> None:
        """`share` of each client's steps, the last ones, count."""
        self.any = share > 0
        if self.any:
            due = np.repeat([c.block.steps for c in cuts], [c.high - c.low for c in cuts])
            self._first = due - np.ceil(share * due).astype(np.int64)
            self._count = np.zeros(len(due), np.int64)
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
