"""Narrower forms of a module, each the leading channels of the whole (HeteroFL).

HeteroFL: computation and communication efficient federated learning for heterogeneous clients
(Diao, Ding, Tarokh, 2021). `build(width)` makes the module with `width` of the channels of every
hidden layer; inputs and outputs keep their size. What a tensor of the narrow module holds is the
leading block of the whole one's tensor of that name, which sets two rules:

- What is concatenated must be interleaved, channel by channel: `torch.stack([a, b], 2).flatten(1)`
  and not `torch.cat([a, b], 1)`, or else the narrow module's b meets the weights of the whole's a.
- Groups of a GroupNorm must hold the same channels: one group, or as many channels in each.
"""

from dataclasses import replace

import torch
from torch import nn

from hedgerow.author.spec import Spec
from hedgerow.core.errors import UsageError
from hedgerow.model.widths import WIDTHS_MAX, leading_blocks

_SEVERAL_BLOCKS = (nn.GRU, nn.MultiheadAttention)


class Scaler(nn.Module):
    """Divides by the width, in training and inference alike, so that the sums which the next layer
    sees are those of the whole model. Put it behind hidden layers that no normalisation follows.
    """

    def __init__(self, width: float) -> None:
        """`width`: the share of channels the module is built with."""
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x / self.width if self.width != 1 else x


def narrower(spec: Spec) -> list[tuple[float, Spec]]:
    """A spec for each of `spec.widths`.

    Raises:
        UsageError: the widths are no widths, or a module is no leading part of the whole.
    """
    widths = list(spec.widths)
    if not widths:
        return []
    if (
        widths != sorted(set(widths), reverse=True)
        or len(widths) > WIDTHS_MAX
        or any(not 0 < width < 1 or round(width, 4) != width for width in widths)
    ):
        raise UsageError(
            f"widths are {spec.widths}; wanted at most {WIDTHS_MAX} numbers between 0 and 1, "
            "widest first, of four decimals at most"
        )
    if spec.build is None:
        raise UsageError("widths are given without `build`, which makes the narrow modules")
    for path, layer in spec.module.named_modules():
        if isinstance(layer, _SEVERAL_BLOCKS):
            raise UsageError(
                f"layer {path!r} is {type(layer).__name__}, whose tensors hold several matrices "
                "one below the other: their leading block is no narrower layer"
            )
    return [(width, _checked(spec, width, spec.build(width))) for width in widths]


def _checked(spec: Spec, width: float, module: nn.Module) -> Spec:
    part = replace(spec, module=module, build=None, widths=())
    try:
        leading_blocks(spec.layout(), part.layout())
    except UsageError as error:
        raise UsageError(f"build({width}) does not fit the whole module: {error}") from error
    return part
