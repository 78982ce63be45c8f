"""The watch model: which of seven shoulder exercises two seconds of wrist movement belong to.

Two wide convolutions, then the mean *and* the largest value over time of every feature: how a
movement is on the whole, and its sharpest moment. Both choices are for averaging. With the mean
alone the federated model stays some five points behind; deeper and narrower models average worse
than they learn.

The weights are drawn from a seed: no recording has been used, not even for the scale.
"""

import torch
from torch import Tensor, nn

from hedgerow.author.spec import Spec
from hedgerow.core.schema import InputSchema, LocalPlan, OutputSchema
from hedgerow.io.data import WATCH_CHANNELS, WATCH_LABELS, WATCH_RATE_HZ, WATCH_UNITS

SEED = 1
WINDOW = 100
HOP = 25
# Half of gravity and a brisk turn of the wrist: round physical numbers, measured on nobody.
SCALE = (0.5, 0.5, 0.5, 1.5, 1.5, 1.5)
PLAN = LocalPlan(
    epochs=2.0,
    batch=16,
    rate=0.1,
    momentum=0.9,
    gradient_norm_max=1.0,
    augment=("rotate:20", "mirror"),
)


class WatchModel(nn.Module):
    """f32 `[B, 6, 100]` → logits `[B, 7]`; 12,775 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 32, 7, stride=3, padding=3)
        self.first_norm = nn.GroupNorm(1, 32)
        self.second = nn.Conv1d(32, 64, 5, stride=2, padding=2)
        self.second_norm = nn.GroupNorm(1, 64)
        self.head = nn.Linear(128, len(WATCH_LABELS))
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for tensor in (self.first.bias, self.second.bias, self.head.bias):
            if tensor is not None:
                nn.init.zeros_(tensor)
        nn.init.normal_(self.head.weight, std=self.head.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(self.second_norm(self.second(x)))
        logits: Tensor = self.head(torch.cat([x.mean(2), x.amax(2)], 1))
        return logits


def spec() -> Spec:
    """What `hedgerow model export hedgerow.apps.watch.author_model:spec` compiles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = WatchModel()
    return Spec(
        name="watch",
        version="1",
        module=module,
        input=InputSchema(
            channels=WATCH_CHANNELS,
            units=WATCH_UNITS,
            rate_hz=WATCH_RATE_HZ,
            window=WINDOW,
            hop=HOP,
            shape=(len(WATCH_CHANNELS), WINDOW),
            scale=SCALE,
        ),
        output=OutputSchema(task="classification", size=len(WATCH_LABELS), labels=WATCH_LABELS),
        plan=PLAN,
        decide={"enter": 0.6, "leave": 0.4, "hold": 2, "smoothing": 0.3},
    )
