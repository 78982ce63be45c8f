"""FedAvg, with server momentum if wanted (FedAvgM).

Communication-efficient learning of deep networks from decentralized data (McMahan et al., 2017);
server momentum after Measuring the effects of non-identical data distribution for federated visual
classification (Hsu, Qi, Brown, 2019). Device half: train by the plan, send the delta. Server half:

    v ← momentum · v + mean(delta);    w ← w + rate · v
"""

from hedgerow.algorithms.base import Averaged


class FedAvg(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedavg"):
    """Settings: the server's `rate` and `momentum`."""
