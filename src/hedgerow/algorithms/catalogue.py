"""All algorithms, by name. One line here makes one usable in the simulator and on the fleet."""

from typing import TypeAlias

from hedgerow.algorithms.ditto import Ditto
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedbuff import FedBuff
from hedgerow.algorithms.fedcm import FedCM
from hedgerow.algorithms.feddyn import FedDyn
from hedgerow.algorithms.fedlesam import FedLesam
from hedgerow.algorithms.fednova import FedNova
from hedgerow.algorithms.fedopt import FedAdam, FedYogi
from hedgerow.algorithms.fedprox import FedProx
from hedgerow.algorithms.fedrep import FedRep
from hedgerow.algorithms.fedsam import FedSam, MoFedSam
from hedgerow.algorithms.finetune import FineTune
from hedgerow.algorithms.ifca import Ifca
from hedgerow.algorithms.resource_aware import ResourceAware
from hedgerow.algorithms.scaffold import Scaffold

AnyAlgorithm: TypeAlias = (
    FedAvg
    | FedAdam
    | FedYogi
    | FedProx
    | Scaffold
    | FedDyn
    | FedNova
    | FedBuff
    | FedCM
    | FedSam
    | MoFedSam
    | FedLesam
    | FineTune
    | Ditto
    | FedRep
    | Ifca
    | ResourceAware
)
