"""The server's half of the watch recipe; the devices' half is in the bundle's plan."""

from hedgerow.algorithms.base import Schedule
from hedgerow.algorithms.fedavg import FedAvg

ALGORITHM = FedAvg(momentum=0.5, schedule=Schedule(kind="cosine", end=0.02))
