"""The server's half of the watch recipe; the devices' half is in the bundle's plan."""

from hedgerow.algorithms.fedavg import FedAvg

FEDAVG = FedAvg(momentum=0.5, local_rate="cosine", local_rate_end=0.02)
