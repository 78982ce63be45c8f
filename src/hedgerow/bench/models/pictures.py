"""The models of `hedgerow bench noniid`'s pictures, small enough that rounds cost seconds.

    hedgerow model export hedgerow.bench.models.pictures:fashion -o fashion.hedgerow
    hedgerow model export hedgerow.bench.models.pictures:digits -o digits.hedgerow

Convolutions of 5×5 that step by 2 take the place of convolution and pooling: as many parameters, a
quarter of the work. No layer normalises, so that the same model is fair to every algorithm. The
weights are drawn from a seed.
"""

import functools

import torch
from torch import Tensor, nn

from hedgerow.author.spec import Spec
from hedgerow.author.widths import Scaler
from hedgerow.core.schema import InputSchema, LocalPlan, OutputSchema
from hedgerow.io.data.images import DIGIT_LABELS, FASHION_LABELS

SEED = 1
SIDE = 28
CLASSES = 10
WIDTHS = (0.5, 0.25)
"""For devices that cannot afford it all (`resource_aware`)."""


class SmallCnn(nn.Module):
    """f32 `[B, 1, 28, 28]` → logits `[B, 10]`, by two convolutions and `hidden` units (0: none).

    `width` is the share of all channels that is built.
    """

    def __init__(self, first: int, second: int, hidden: int, width: float = 1.0) -> None:
        super().__init__()
        first, second, hidden = (round(width * size) for size in (first, second, hidden))
        self.scaler = Scaler(width)
        self.first = nn.Conv2d(1, first, 5, stride=2)
        self.second = nn.Conv2d(first, second, 5, stride=2)
        features = second * 4 * 4
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.head = nn.Linear(hidden or features, CLASSES)
        layers = (self.first, self.second, *((self.hidden,) if self.hidden else ()))
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.head.weight, std=self.head.in_features**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.scaler(torch.relu(self.first(x)))
        x = self.scaler(torch.relu(self.second(x))).flatten(1)
        if self.hidden is not None:
            x = self.scaler(torch.relu(self.hidden(x)))
        logits: Tensor = self.head(x)
        return logits


def fashion() -> Spec:
    """Clothing: 46,730 parameters."""
    return _spec("fashion", (16, 32, 64), FASHION_LABELS)


def digits() -> Spec:
    """Handwritten digits: 5,994 parameters."""
    return _spec("digits", (8, 16, 0), DIGIT_LABELS)


def _spec(name: str, sizes: tuple[int, int, int], labels: tuple[str, ...]) -> Spec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = SmallCnn(*sizes)
    pixels = SIDE * SIDE
    return Spec(
        name=name,
        version="1",
        module=module,
        # A picture is one window of one channel: its grey values, row by row.
        input=InputSchema(
            channels=("grey",),
            units=("1",),
            rate_hz=1.0,
            window=pixels,
            hop=pixels,
            shape=(1, SIDE, SIDE),
        ),
        output=OutputSchema(task="classification", size=CLASSES, labels=labels),
        plan=LocalPlan(epochs=1.0, batch=32, rate=0.1),
        build=functools.partial(SmallCnn, *sizes),
        widths=WIDTHS,
    )
