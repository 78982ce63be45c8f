"""FedRep: the fleet learns what to look at, each device what to make of it.

Exploiting shared representations for personalized federated learning (Collins, Hassani, Mokhtari,
Shakkottai, 2021). Device half: train the head, which never leaves the device, with the body at
rest; then the body with the head at rest; send the body's delta. Server half: as FedAvg.

With `head_epochs = 0` both train at once: Federated learning with personalization layers
(Arivazhagan, Aggarwal, Singh, Choudhary, 2019). `local_normalisation` keeps the scales and offsets
of normalising layers on the device too: FedBN: federated learning on non-IID features via local
batch normalization (Li, Jiang, Zhang, Kamp, Dou, 2021); they train with the body.

A head answers for one device only and may lean to its labels: a plan's `calibrate` is left out.
"""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.algorithms.base import (
    Averaged,
    Contribution,
    Held,
    LocalHalf,
    LocalTask,
    delta_of,
    training,
)
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, Vector

Mask = NDArray[np.bool_]


class FedRep(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedrep"):
    """The head is every tensor whose name starts with one of `private`; by default the last layer:
    the tensors beside the last shared one. Tensors that are private in the bundle belong to it.
    """

    private: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], ...],
        msgspec.Meta(max_length=64),
    ] = ()
    head_epochs: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    local_normalisation: bool = False

    keeps = ("head",)

    def head(self, layout: Layout) -> Mask:
        """Which of all P elements are the head.

        Raises:
            UsageError: a prefix fits no shared tensor, or nothing is left to share.
        """
        shared = [tensor.name for tensor in layout.tensors if tensor.shared]
        prefixes = self.private or (_layer(shared[-1]) if shared else "",)
        strange = [word for word in prefixes if not any(n.startswith(word) for n in shared)]
        if strange:
            raise UsageError(f"fedrep: {strange} fit none of the shared tensors {shared}")
        mask = _where(layout, [name for name in shared if name.startswith(prefixes)])
        mask[layout.shared_size :] = True
        if mask.all():
            raise UsageError(f"fedrep: {list(prefixes)} leave nothing of {shared} to share")
        return mask

    def own(self, layout: Layout) -> Mask:
        """Which of all P elements stay on the device: the head, and normalisation if wanted."""
        mask = self.head(layout)
        if self.local_normalisation:
            mask |= _where(layout, normalising(layout))
            if mask.all():
                raise UsageError("fedrep: without its normalising layers the model has no body")
        return mask

    def travels(self, layout: Layout) -> Mask:
        """What is not its own."""
        mask: Mask = ~self.own(layout)[: layout.shared_size]
        return mask

    def local(self, task: LocalTask) -> LocalHalf:
        """Head, then body. The first time, the head is that of the model that came."""
        head, own = self.head(task.layout), self.own(task.layout)
        mine = own & ~task.fresh[:, None]
        mine[:, task.layout.shared_size :] = False  # the task brings those themselves
        start = np.where(mine, task.kept["head"], task.weights)
        between, body = start, None
        plan = msgspec.structs.replace(task.plan, calibrate=0.0)
        if self.head_epochs > 0:
            longer = msgspec.structs.replace(plan, epochs=self.head_epochs)
            first = yield from training(task, plan=longer, start=start, trainable=head, name="head")
            between, body = first.weights, ~head
        trained = yield from training(task, plan=plan, start=between, trainable=body)
        delta = delta_of(task, trained, start)
        delta[:, own[: delta.shape[1]]] = 0
        # The rest too: it is there, should the settings make it the device's own some day.
        kept = {"head": trained.weights}
        return Contribution({"delta": delta}, trained.weights, trained, kept=kept)

    def serving(self, held: Held) -> Vector:
        """The fleet's body under the device's own head, once it has one."""
        if "head" not in held.kept:
            return held.weights
        own = self.own(held.layout)
        own[held.layout.shared_size :] = False
        served: Vector = np.where(own, held.kept["head"], held.weights)
        return served


def normalising(layout: Layout) -> list[str]:
    """The tensors of normalising layers: a scale has one dimension, a kernel two at least."""
    scales = {_layer(t.name) for t in layout.tensors if len(t.shape) == 1 and _is_scale(t.name)}
    return [tensor.name for tensor in layout.tensors if _layer(tensor.name) in scales]


def _is_scale(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _layer(name: str) -> str:
    """`"body.norm."` of `"body.norm.weight"`; a tensor in no layer is one of its own."""
    return name.rpartition(".")[0] + "." if "." in name else name


def _where(layout: Layout, names: list[str]) -> Mask:
    mask = np.zeros(layout.size, np.bool_)
    for name in names:
        mask[layout.slices[name]] = True
    return mask
