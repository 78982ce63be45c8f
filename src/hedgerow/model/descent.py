"""Steps for up to K clients at once: the buffers bound to the graph, and what NumPy adds to it.

The graph computes `w ← w − rate·(∇ℓ(w) + pull·(w − anchor) + shift)`. Momentum and weight decay
need no second graph: with `shift = correction + λ·w + m·v` the step taken is `rate·v'`, so the new
velocity is `(w − w')/rate`. Where the gradient itself is wanted (to clip it, or to climb along it)
the graph is asked for a step of rate 1 with nothing added, and NumPy makes the step.

No row of a buffer ever depends on another, or on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.layout import Vector
from hedgerow.model.passes import Pass, Rows

INPUTS = ("weights", "anchor", "shift", "x", "y", "sample_weight", "rate", "pull")
OUTPUTS = ("weights_next", "loss")
OF_EACH = ("x", "y", "sample_weight")
"""Inputs that differ from step to step."""
_NORM_MIN = np.float32(1e-12)
_BINDINGS_MAX = 64
_SEVERAL = "losses of several steps"
_COMMON, _ANSWER = "common start", "answer"


def numbered(name: str, step: int) -> str:
    """What an input or output of one step is called in a graph of several."""
    return f"{name}.{step}"


@dataclass(frozen=True)
class Slot:
    """Where the samples of one step are put: `x [K, B, *shape]`, `y [K, B, …]`, weight `[K, B]`."""

    x: NDArray[np.float32]
    y: NDArray[np.generic]
    sample_weight: NDArray[np.float32]


@dataclass(frozen=True)
class Leaps:
    """Graphs of as many plain steps as there are slots: `later` starts each client from its own
    weights, `first`, if there is one, all from the same `[1, P]`, which is cheaper.
    """

    later: ort.InferenceSession
    first: ort.InferenceSession | None = None


@dataclass(frozen=True)
class _Bound:
    session: ort.InferenceSession
    bound: ort.IOBinding

    def put(self, name: str, array: NDArray[np.generic]) -> None:
        """Have an output written into `array`."""
        self.bound.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))


class Descent:
    """Buffers for `K` clients of a model of `size` weights and batches of B samples.

    Made once, used for many passes: `begin`, then for each step fill a slot and call `step` with
    the number of leading rows that still take part; or `leap` over as many steps as there are
    slots, where `leaps` says that the pass is plain enough.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        slots: Sequence[Slot],
        several: Leaps | None = None,
    ) -> None:
        """Without graphs of `several` steps one slot is used."""
        self._session, self._several = session, several
        # A product with one row is not added up in the order of one with several.
        rows = slots[0].x.shape[1]
        self._first = several.first if several is not None and rows > 1 else None
        self.slots = slots
        self._clients, self._size = len(slots[0].x), size
        self._leapt = np.zeros((len(slots), self._clients), np.float32)
        self._losses = {
            "loss": np.zeros(self._clients, np.float32),
            "loss ahead": np.zeros(self._clients, np.float32),
            **{numbered("loss", at): losses for at, losses in enumerate(self._leapt)},
        }
        self._arrays: dict[str, NDArray[np.float32]] = {
            "anchor": np.zeros(size, np.float32),
            "zero": np.zeros((1, size), np.float32),
            _COMMON: np.zeros((1, size), np.float32),
            "rate": np.zeros((), np.float32),
            "pull": np.zeros((), np.float32),
        }
        self._bindings: dict[tuple[int, str, str, str, str], _Bound] = {}
        self.leaps = self._together = self.landed = False
        self._into: Rows | None = None
        self._turn = self._active = 0

    def begin(
        self,
        ask: Pass,
        weights: Rows,
        own: Rows,
        shift: NDArray[np.float32] | None,
        into: Rows | None = None,
    ) -> None:
        """Start at `weights [m, P]`. `own [m, P]` is what each is pulled to where `ask` has no
        anchor; `shift` (`[P]` or `[m, P]`) takes the place of that of `ask`; a last leap goes
        `into [m, P]` at once.
        """
        plan, count = ask.plan, len(weights)
        self._ask, self._turn, self._active = ask, 0, count
        self._into, self.landed = into, False
        # The graph has one anchor for all, so NumPy pulls where each has its own.
        self._own = own if plan.pull > 0 and ask.anchor is None else None
        self._arrays["anchor"][:] = own[0] if ask.anchor is None else ask.anchor
        self._frozen = None if ask.trainable is None else ~ask.trainable
        self._along = None if ask.ascent_along is None else _unit(ask.ascent_along, self._frozen)
        self._climbs = ask.ascent > 0
        self._bare = plan.gradient_norm_max > 0 or self._climbs
        self._correction = shift
        added = plan.momentum > 0 or plan.weight_decay > 0 or self._own is not None
        self._moves = added and not self._bare
        self._shift = "zero"
        if self._moves or (shift is not None and not self._bare):
            self._shift = "shift"
            self._buffer("shift")[:count] = 0 if shift is None else shift
        if plan.momentum > 0:
            self._buffer("velocity")[:count] = 0
        self._arrays["rate"][...] = 1.0 if self._bare else plan.rate
        by_hand = self._bare or self._own is not None
        self._arrays["pull"][...] = 0.0 if by_hand else plan.pull
        plain = self._shift == "zero" and not plan.pull and self._frozen is None
        self.leaps = plain and not self._bare and self._several is not None
        even, _ = self._buffer("even"), self._buffer("odd")
        self._together = self._first is not None and self.leaps and weights.strides[0] == 0
        if self._together:
            self._arrays[_COMMON][:] = weights[0]
        else:
            even[:count] = weights

    def holds(self, clients: int, batch: int) -> bool:
        """Whether the buffers will do for so many clients and samples a step."""
        x = self.slots[0].x
        return len(x) >= clients and x.shape[1] == batch

    def weights(self, low: int, high: int) -> Rows:
        """The current weights of some rows, a view `[high − low, P]`."""
        if self.landed and self._into is not None:
            return self._into[low:high]
        self._part()
        return self._arrays["odd" if self._turn else "even"][low:high]

    def step(self, active: int) -> NDArray[np.float32]:
        """Take one step with the first `active` rows; their losses, overwritten by the next."""
        self._part()
        names = self._sides(active)
        old, new = (self._arrays[name][:active] for name in names)
        if self._bare:
            self._step_by_hand(old, new, names, active)
        else:
            plan = self._ask.plan
            if self._moves:
                self._add_up_shift(old, active)
            self._call(active, *names)
            if plan.momentum:
                velocity = self._arrays["velocity"][:active]
                np.subtract(old, new, out=velocity)
                velocity /= np.float32(plan.rate)
        if self._frozen is not None:
            np.copyto(new, old, where=self._frozen)
        self._turn = 1 - self._turn
        return self._losses["loss"][:active]

    def leap(self, active: int, *, last: bool = False) -> NDArray[np.float32]:
        """Take as many steps as there are slots, the `last` of all rows maybe; their losses
        `[steps, active]`, overwritten by the next.
        """
        if active < self._active:
            self._part()
        source, target = self._sides(active)
        if last and self._into is not None:
            self.landed, target = True, _ANSWER
            self._arrays[_ANSWER] = self._into
        self._call(active, _COMMON if self._together else source, target, loss=_SEVERAL)
        self._together = False
        self._turn = 1 - self._turn
        return self._leapt[:, :active]

    def _part(self) -> None:
        """Give each client weights of its own, where all are still at the common start."""
        if self._together:
            self._arrays["even"][: self._active] = self._arrays[_COMMON]
            self._together = False

    def _sides(self, active: int) -> tuple[str, str]:
        """Where the weights are, and where they go next."""
        names = ("odd", "even") if self._turn else ("even", "odd")
        if active < self._active:  # who is done stays where the last one will be
            done = slice(active, self._active)
            self._arrays[names[1]][done] = self._arrays[names[0]][done]
            self._active = active
        return names

    def _add_up_shift(self, old: Rows, active: int) -> None:
        plan, shift = self._ask.plan, self._arrays["shift"][:active]
        if plan.momentum:
            velocity = self._arrays["velocity"][:active]
            np.multiply(velocity, np.float32(plan.momentum), out=shift)
        else:
            shift[...] = 0
        if self._correction is not None:
            shift += self._correction_of(active)
        if plan.weight_decay:
            spare = self._buffer("spare")[:active]
            shift += np.multiply(old, np.float32(plan.weight_decay), out=spare)
        if self._own is not None:
            shift += self._pulled(old, active)

    def _pulled(self, old: Rows, active: int) -> Rows:
        spare = self._buffer("spare")[:active]
        anchor = self._arrays["anchor"] if self._own is None else self._own[:active]
        np.subtract(old, anchor, out=spare)
        spare *= np.float32(self._ask.plan.pull)
        return spare

    def _step_by_hand(self, old: Rows, new: Rows, names: tuple[str, str], active: int) -> None:
        """Make the step in NumPy from the bare gradient, with nothing allocated but norms."""
        plan = self._ask.plan
        spare = self._buffer("spare")[:active]
        gradient = self._gradient(old, new, names, active)
        if plan.gradient_norm_max > 0:
            norms = _norms(gradient, spare)
            limit = np.float32(plan.gradient_norm_max)
            gradient *= np.where(norms > limit, limit / np.maximum(norms, _NORM_MIN), 1)[:, None]
        if plan.pull:
            gradient += self._pulled(old, active)
        if self._correction is not None:
            gradient += self._correction_of(active)
        if plan.weight_decay:
            gradient += np.multiply(old, np.float32(plan.weight_decay), out=spare)
        if plan.momentum:
            velocity = self._arrays["velocity"][:active]
            velocity *= np.float32(plan.momentum)
            velocity += gradient
            gradient = velocity
        np.multiply(gradient, np.float32(plan.rate), out=spare)
        np.subtract(old, spare, out=new)

    def _gradient(self, old: Rows, new: Rows, names: tuple[str, str], active: int) -> Rows:
        """The loss's gradient `[active, P]`, at the place climbed to if the pass climbs."""
        gradient = self._buffer("gradient")[:active]
        spare = self._buffer("spare")[:active]
        start = old
        if self._climbs and self._along is not None:
            start = self._buffer("ahead")[:active]
            np.add(old, np.float32(self._ask.ascent) * self._along, out=start)
            self._call(active, "ahead", names[1])
        else:
            self._call(active, *names)
        np.subtract(start, new, out=gradient)
        if self._frozen is not None:
            np.copyto(gradient, 0, where=self._frozen)
        if self._climbs and self._along is None:
            norms = np.maximum(_norms(gradient, spare), _NORM_MIN)
            start = self._buffer("ahead")[:active]
            np.multiply(gradient, (np.float32(self._ask.ascent) / norms)[:, None], out=start)
            start += old
            self._call(active, "ahead", names[1], loss="loss ahead")
            np.subtract(start, new, out=gradient)
            if self._frozen is not None:
                np.copyto(gradient, 0, where=self._frozen)
        return gradient

    def _correction_of(self, active: int) -> NDArray[np.float32]:
        assert self._correction is not None
        return self._correction if self._correction.ndim == 1 else self._correction[:active]

    def _buffer(self, name: str) -> Rows:
        """A `[K, P]` array by name, made when first wanted."""
        if name not in self._arrays:
            self._arrays[name] = np.zeros((self._clients, self._size), np.float32)
        return self._arrays[name]

    def _call(self, active: int, source: str, target: str, loss: str = "loss") -> None:
        """Run a graph on the first `active` rows of `source` into those of `target`."""
        key = (active, source, target, self._shift, loss)
        binding = self._bindings.get(key)
        if binding is None:
            if len(self._bindings) >= _BINDINGS_MAX:
                self._bindings.clear()
            binding = self._bindings[key] = self._bind(slice(active), source, target, loss)
        elif target == _ANSWER:
            binding.put(OUTPUTS[0], self._arrays[_ANSWER])
        binding.session._sess.run_with_iobinding(binding.bound._iobinding, None)

    def _bind(self, rows: slice, source: str, target: str, loss: str) -> _Bound:
        arrays = self._arrays
        inputs: dict[str, NDArray[np.generic]] = {
            "weights": arrays[source] if source == _COMMON else arrays[source][rows],
            "rate": arrays["rate"],
        }
        session, losses = self._session, {"loss": loss}
        if loss == _SEVERAL:
            leap = self._first if source == _COMMON else self._several and self._several.later
            assert leap is not None
            session = leap
            for at, slot in enumerate(self.slots):
                for name in OF_EACH:
                    inputs[numbered(name, at)] = getattr(slot, name)[rows]
            losses = {name: name for name in map(partial(numbered, "loss"), range(len(self.slots)))}
        else:
            inputs |= {name: getattr(self.slots[0], name)[rows] for name in OF_EACH}
            inputs |= {"anchor": arrays["anchor"], "pull": arrays["pull"]}
            shift = arrays[self._shift]
            inputs["shift"] = shift if self._shift == "zero" else shift[rows]
        outputs: dict[str, NDArray[np.generic]] = {OUTPUTS[0]: arrays[target][rows]}
        outputs |= {name: self._losses[kept][rows] for name, kept in losses.items()}
        made = _Bound(session, session.io_binding())
        for name, array in inputs.items():
            made.bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            made.put(name, array)
        return made


def _norms(rows: Rows, spare: Rows) -> NDArray[np.float32]:
    """The length of each row `[K]`; NumPy adds up each row by itself, in the same order always."""
    np.multiply(rows, rows, out=spare)
    lengths: NDArray[np.float32] = np.sqrt(spare.sum(axis=1))
    return lengths


def _unit(direction: Vector, frozen: NDArray[np.bool_] | None) -> Vector:
    """`direction [P]` scaled to length 1, without its frozen elements; zeros stay zeros."""
    if frozen is not None:
        direction = np.where(frozen, np.float32(0), direction)
    length = np.sqrt(np.sum(direction * direction))
    unit: Vector = direction / np.maximum(length, _NORM_MIN)
    return unit
