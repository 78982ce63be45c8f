"""FedBuff: no rounds. The model moves on whenever enough updates have come, however old they are.

Federated learning with buffered asynchronous aggregation (Nguyen, Malik, Zhan, Yousefpour, Rabbat,
Malek, Huba, 2022). Device half: as FedAvg, from whatever version it has. The coordinator fills a
buffer; an update trained from a model s versions old counts (1 + s)^−0.5 (`weighting`). When
`buffer` updates are in, the server half is FedAvg's.

The paper divides the sum by the number of updates, here it is divided by the sum of the weights:
a buffer of old updates only moves the model as far as one of new ones. `rate` below 1 makes up.
"""

from typing import Annotated

import msgspec

from hedgerow.algorithms.base import Averaged


class FedBuff(Averaged, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fedbuff"):
    """`buffer` updates make a new version (the paper's K). An update from a model more than
    `staleness_max` versions old is refused, and its device gets the newest.
    """

    buffer: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    staleness_max: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 20

    @property
    def asynchronous(self) -> bool:
        """It is."""
        return True
