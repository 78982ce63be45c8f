"""What a fleet is best begun with: settings that hold up where devices differ.

Three things each take away a reason for devices to pull apart, and none costs a byte:

- *Calibration* (logit adjustment: Menon and others 2021; FedLC: Zhang and others 2022). A device
  that never saw a label would otherwise unlearn it for everybody. Where all hold the same labels in
  the same mix it does nothing.
- *Momentum on the device with clipped gradients*: more way made in few steps, and no single batch
  or device, nor a rate that is a little too high, throws the model off.
- *Momentum on the server and a falling rate* (FedAvgM: Hsu and others 2019): rounds that happen to
  ask unlike devices average out, and the last rounds settle.

What they are worth is measured by `hedgerow bench noniid` and told in `docs/noniid.md`.
"""

import msgspec

from hedgerow.algorithms.base import Schedule
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.schema import LocalPlan

ALGORITHM = FedAvg(momentum=0.5, schedule=Schedule(kind="cosine", end=0.05))
"""The server's half."""


def steadied(plan: LocalPlan) -> LocalPlan:
    """The devices' half: the same rate and work, with momentum, clipping and calibration."""
    return msgspec.structs.replace(plan, momentum=0.9, gradient_norm_max=1.0, calibrate=1.0)
