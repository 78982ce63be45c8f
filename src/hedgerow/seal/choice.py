"""Which codec an update goes out with, by the link it goes over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.core.errors import UsageError
from hedgerow.seal.codec import Codec, estimate
from hedgerow.seal.stage import Shapes


@dataclass(frozen=True)
class LinkQuality:
    """What a device knows of its link.

    `bytes_per_second` up, measured; 0: nothing known yet. `metered`: every byte is paid for.
    `loss` is the share of packets that are sent again, `message_bytes` what a message needs besides
    its payload.
    """

    bytes_per_second: float = 0.0
    metered: bool = False
    loss: float = 0.0
    message_bytes: int = 400


def seconds(codec: Codec, size: int, link: LinkQuality, shapes: Shapes = ()) -> float:
    """How long an update of `size` elements is under way, by what is known of the link."""
    if link.bytes_per_second <= 0:
        return math.inf
    useful = link.bytes_per_second * (1.0 - min(max(link.loss, 0.0), 0.99))
    return (estimate(codec, size, shapes) + link.message_bytes) / useful


def choose(
    offered: Sequence[Codec],
    size: int,
    link: LinkQuality,
    seconds_budget: float,
    shapes: Shapes = (),
) -> int:
    """The index of the codec to use, from those the coordinator offers, most faithful first.

    The first that gets an update of `size` elements through within the budget; where none does,
    where the link is metered, or where nothing is known of it, the smallest. Equal sizes: the
    first.

    Raises:
        UsageError: nothing is offered.
    """
    if not offered:
        raise UsageError("no codec is offered; offer at least one")
    if not link.metered:
        for index, codec in enumerate(offered):
            if seconds(codec, size, link, shapes) <= seconds_budget:
                return index
    return min(range(len(offered)), key=lambda index: estimate(offered[index], size, shapes))
