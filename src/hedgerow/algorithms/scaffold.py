"""SCAFFOLD: every device corrects its gradients by how they differ from the fleet's.

SCAFFOLD: stochastic controlled averaging for federated learning (Karimireddy, Kale, Mohri, Reddi,
Stich, Suresh, 2020), with option II. A device keeps a control c_i, about its mean gradient; the
server brings c, their mean over the whole fleet. Device half, a the effective steps taken:

    train with ∇ℓ + c − c_i;    c_i' = c_i − c + (w₀ − w) / (rate · a)
    send w − w₀ and c_i' − c_i

Server half, n of N devices having sent:  w ← w + rate · mean(Δw);    c ← c + n/N · mean(Δc)

With many devices of which each is rare, the controls are those of long ago and the correction
does harm (NIID-Bench: 10% accuracy with 100 parties of which 10% take part). Two things are done
about it: a device that has no control yet trains without correction, in place of being pushed by
the whole of c; and `strength` below 1 takes part of the correction only. It remains an algorithm
for few devices that take part often.
"""

from collections.abc import Mapping

import numpy as np

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    Fraction,
    LocalHalf,
    LocalTask,
    Mean,
    Server,
    delta_of,
    training,
)
from hedgerow.algorithms.reach import reach
from hedgerow.model.passes import Rows


class Scaffold(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="scaffold"):
    """`strength`: how much of the correction is applied (the paper: 1)."""

    strength: Fraction = 1.0

    sends = ("delta", "control")
    keeps = ("control",)

    @property
    def brings(self) -> Mapping[str, int]:
        """The fleet's control."""
        return {"control": 1}

    def local(self, task: LocalTask) -> LocalHalf:
        """The formulas above. Momentum counts in a; who took no step keeps its control."""
        shared = task.layout.shared_size
        own = task.kept["control"][:, :shared]
        shift = np.float32(self.strength) * (task.brought["control"] - own)
        shift[task.fresh] = 0
        trained = yield from training(task, shift=shift)
        delta = delta_of(task, trained)
        far = reach(task.plan, trained.steps)[:, None]
        went = far > 0
        # What moved the weights, less the shift that was part of it, is the mean gradient.
        mean = -delta.astype(np.float64) / np.where(went, far, 1) - shift
        control = np.where(went, mean, own).astype(np.float32)
        kept: Rows = np.zeros_like(task.weights)
        kept[:, :shared] = control
        sends = {"delta": delta, "control": control - own}
        return Contribution(sends, trained.weights, trained, kept={"control": kept})

    def server(self, server: Server, means: Mapping[int, Mean], fleet: int) -> Server:
        """The formulas above."""
        mean = means[0]
        share = np.float32(mean.terms / max(fleet, mean.terms, 1))
        control = server.model["control"] + share * mean.vectors["control"]
        after = super().server(server, means, fleet)
        return Server({**after.model, "control": control}, after.kept)
